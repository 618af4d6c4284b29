"""How well predicted effects tell core essential genes from those that are not essential. N pairs, L lines, G genes."""

from __future__ import annotations

import numpy as np

from evaluation.inference.cell_line_tables import Pairs
from evaluation.scores.comparison import Metric, Statistic

AUROC = Metric("auroc_core")


def auroc_of_core_genes(pairs: Pairs, predicted: np.ndarray, kind: np.ndarray, of_genes: bool) -> Statistic:
    """AUROC of the negative effect; ``kind`` [G]: 1 core, 0 not essential, -1 neither; ``predicted`` [N].

    Mean over cell lines of the AUROC in each, for positions of lines. Where genes are resampled (``of_genes``), the
    AUROC of their mean predictions, for positions of genes.
    """
    # scikit-learn takes a second to import, and --help does without it
    from sklearn.metrics import roc_auc_score

    def auroc(kinds: np.ndarray, effects: np.ndarray) -> float:
        listed = kinds >= 0
        both = len(np.unique(kinds[listed])) == 2
        return float(roc_auc_score(kinds[listed], -effects[listed])) if both else float("nan")

    kind_of_pair = kind[pairs.target]
    if of_genes:
        sums, counts = np.bincount(pairs.target, predicted), np.bincount(pairs.target)
        effect = sums / np.maximum(counts, 1)
        return lambda genes: auroc(kind[genes], effect[genes])
    per_line = np.array(
        [auroc(kind_of_pair[own], predicted[own]) for own in (pairs.line == line for line in np.unique(pairs.line))]
    )
    return lambda lines: float(np.nanmean(per_line[lines])) if np.isfinite(per_line[lines]).any() else float("nan")
