"""A map of profiles by principal components, coloured by a label and by study, side by side. N profiles."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from dataprep.corpus import SAMPLE_COLUMNS
from dataprep.inspection.page import Block, Paragraph, Pictures, missing
from dataprep.inspection.pictures import map_of_points

UNKNOWN = "not known"
STUDY = "study_id"
# Columns of samples.parquet that are not labels.
_OWN_COLUMNS = (*SAMPLE_COLUMNS, "study")
_FEWEST_VALUES, _MOST_VALUES = 2, 20


def principal_components(values_NF: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Float [N, 2] of finite values, and the two components' shares of all variance."""
    # scikit-learn takes a second to import, and pages without a map do without it
    from sklearn.decomposition import PCA

    fitted = PCA(2, random_state=seed).fit(values_NF)
    return fitted.transform(values_NF), fitted.explained_variance_ratio_


def labels_of(samples: pa.Table, sample_ids: Sequence[str]) -> dict[str, list[str]]:
    """Study and labels of profiles by column; a profile that the table lacks is of none."""
    row_of = {sample: row for row, sample in enumerate(samples.column("sample_id").to_pylist())}
    rows = [row_of.get(sample) for sample in sample_ids]
    found = {}
    for name in samples.column_names:
        if name == STUDY or (name not in _OWN_COLUMNS and pa.types.is_string(samples.schema.field(name).type)):
            values = samples.column(name).to_pylist()
            found[name] = [UNKNOWN if row is None or values[row] is None else str(values[row]) for row in rows]
    return found


def fullest_label(columns: Mapping[str, Sequence[str]]) -> str | None:
    """The label that most profiles have, of those with two to twenty values."""
    best, most = None, 0
    for name, values in columns.items():
        counts = Counter(value for value in values if value != UNKNOWN)
        if name != STUDY and _FEWEST_VALUES <= len(counts) <= _MOST_VALUES and counts.total() > most:
            best, most = name, counts.total()
    return best


def map_blocks(
    points_N2: np.ndarray, shares: np.ndarray, columns: Mapping[str, Sequence[str]], label: str | None
) -> list[Block]:
    """The same map by ``label`` (where there is one) and by study."""
    axes = [f"component {number + 1} ({share:.0%})" for number, share in enumerate(shares)]
    said = [f"By label {label}.", "The same map by study."] if label else ["By study."]
    coloured = [columns[label], columns[STUDY]] if label else [columns[STUDY]]
    drawn = [map_of_points(points_N2, groups, axes, text) for groups, text in zip(coloured, said, strict=True)]
    explained = "Where both show the same groups, the map cannot tell biology from the studies' differences."
    last = Paragraph(explained) if label else missing("no label has two to twenty values.")
    return [Pictures(drawn), last]
