"""Which genes of a profile are hidden when imputation is scored: random ones, whole gene sets, or all but a panel.

What is hidden depends on the seed and the row id alone, so every method and every repeat sees the same. G genes, B
profiles.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dataprep.genes.vocabulary import GeneVocabulary
from dataprep.runtime.command_line import UserError
from dataprep.runtime.storage import Folder, split_file_address

_SMALLEST_SET = 5


class HiddenGenes(ABC):
    """A rule that says which genes of a profile are hidden; ``subject`` names it in results."""

    subject: str

    @abstractmethod
    def mask(self, row_ids: np.ndarray, genes: int) -> np.ndarray:
        """Boolean B x G, true where hidden."""


@dataclass(frozen=True)
class RandomGenes(HiddenGenes):
    """A share of all genes, drawn anew for each profile: the masks that validation in pretraining uses."""

    rate: float
    seed: int
    subject: str = ""

    def mask(self, row_ids: np.ndarray, genes: int) -> np.ndarray:
        # torch takes seconds to import, and --help does without it
        import torch

        from pretrain.model.masking import VALIDATION_EPOCH, mask_of_profiles

        return mask_of_profiles(torch.from_numpy(row_ids.copy()), genes, self.rate, self.seed, VALIDATION_EPOCH).numpy()


@dataclass(frozen=True)
class AllButPanel(HiddenGenes):
    """All genes but those of a panel, int64 columns ``visible``: from a panel to the transcriptome."""

    visible: np.ndarray

    @property
    def subject(self) -> str:  # type: ignore[override]
        return f"from a panel of {len(self.visible):,} genes"

    def mask(self, row_ids: np.ndarray, genes: int) -> np.ndarray:
        hidden = np.full((len(row_ids), genes), True)
        hidden[:, self.visible] = False
        return hidden


@dataclass(frozen=True)
class WholeGeneSets(HiddenGenes):
    """Whole sets of genes, int64 columns each, in random order until ``rate`` of all genes are hidden.

    Genes of one pathway often tell each other; hidden together, they have to be told from the rest. Sets that together
    hold fewer genes are hidden all, but for the last, so that something differs between profiles.
    """

    sets: Sequence[np.ndarray]
    rate: float
    seed: int
    subject: str = "whole gene sets hidden"

    def mask(self, row_ids: np.ndarray, genes: int) -> np.ndarray:
        hidden = np.zeros((len(row_ids), genes), bool)
        for row, row_id in zip(hidden, row_ids.tolist(), strict=True):
            order = np.random.default_rng([self.seed, row_id]).permutation(len(self.sets))
            for number in order[: max(1, len(order) - 1)]:
                row[self.sets[number]] = True
                if row.mean() >= self.rate:
                    break
        return hidden


def read_gene_sets(address: str, vocabulary: GeneVocabulary) -> list[np.ndarray]:
    """Columns of the genes of each set of a GMT file (name, description, then symbols or Ensembl ids, tab-separated).

    Genes that are not in the vocabulary and symbols that several of its genes share are left out, and sets of which
    fewer than five are left. Raises UserError where no set is.
    """
    folder, name = split_file_address(address)
    try:
        lines = Folder(folder).read_text(name).splitlines()
    except FileNotFoundError:
        raise UserError(f"no such file of gene sets: {address}", exit_code=2) from None
    except UnicodeDecodeError:
        raise UserError(f"{address} is not a text file") from None
    sets = []
    for line in lines:
        members = line.rstrip().split("\t")[2:]
        columns = {vocabulary.column_of.get(gene, vocabulary.column_of_symbol.get(gene, -1)) for gene in members} - {-1}
        if len(columns) >= _SMALLEST_SET:
            sets.append(np.array(sorted(columns), np.int64))
    if not sets:
        raise UserError(
            f"{address}: none of its {len(lines):,} lines is a gene set with {_SMALLEST_SET} genes of the vocabulary "
            "(name, description and genes, divided by tabs)"
        )
    return sets
