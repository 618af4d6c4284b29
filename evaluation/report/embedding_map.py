"""The part of a report about embeddings: the same map of profiles by label and by study, side by side. N profiles."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dataprep.corpus import Corpus
from dataprep.inspection.page import Block, Paragraph, Pictures, Section, missing
from dataprep.inspection.pictures import map_of_points
from dataprep.runtime.command_line import UserError
from dataprep.runtime.storage import Folder, split_file_address

_COLUMN = "embedding"
_MOST_POINTS = 2000
_UNKNOWN = "not known"
_NO_LABELS = ("sample_id", "study_id", "study", "split", "row_id", "source")


def embedding_section(address: str | None, corpus: Corpus | None, label: str | None, seed: int) -> Section:
    """``label``: the column of samples.parquet to colour by; default: the one that most profiles have."""
    title = "Embeddings"
    if address is None:
        return Section(title, [missing("no embeddings were given (--embeddings FILE.parquet, from evaluation embed).")])
    sample_ids, values = read_embeddings(address)
    points, shares, chosen = _projected(values, seed)
    axes = [f"component {number + 1} ({share:.0%})" for number, share in enumerate(shares)]
    said = f"{len(sample_ids):,} profiles of {address}, on the first two principal components of their embeddings"
    more = f"; {len(chosen):,} of them are drawn" if len(chosen) < len(sample_ids) else ""
    blocks: list[Block] = [Paragraph(f"{said}{more}.")]
    if corpus is None:
        blocks.append(missing("no corpus is known (--corpus), so profiles have neither label nor study here."))
        return Section(
            title, [*blocks, Pictures([map_of_points(points, ["profiles"] * len(points), axes, "All profiles.")])]
        )
    columns = _columns(corpus.samples(), [sample_ids[row] for row in chosen])
    name = label or _fullest(columns)
    if label is not None and label not in columns:
        raise UserError(f"{corpus.folder.uri} has no label {label!r}; it has {', '.join(sorted(columns))}", exit_code=2)
    pictures = []
    if name is None:
        blocks.append(missing("the corpus has no label with two to twenty values."))
    else:
        pictures.append(map_of_points(points, columns[name], axes, f"By label {name}."))
    pictures.append(map_of_points(points, columns["study_id"], axes, "The same map by study."))
    explained = (
        "Where the two pictures show the same groups, the map cannot tell biology from the studies' differences."
    )
    return Section(title, [*blocks, Pictures(pictures), Paragraph(explained)])


def read_embeddings(address: str) -> tuple[list[str], np.ndarray]:
    """Sample ids and float32 N x width of what ``evaluation embed --level sample`` wrote. Raises UserError."""
    folder, name = split_file_address(address)
    try:
        with Folder(folder).open(name) as stream:
            table = pq.read_table(stream, columns=["sample_id", _COLUMN])
        values = table.column(_COLUMN).combine_chunks()
        width = values.type.list_size
    except FileNotFoundError:
        raise UserError(f"{address} does not exist") from None
    except (pa.ArrowException, AttributeError, KeyError, OSError) as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"{address} does not hold embeddings of samples in Parquet: {reason}") from None
    ids = table.column("sample_id").to_pylist()
    if len(ids) != len(set(ids)) or len(ids) < 3:
        raise UserError(f"{address}: a map takes three profiles or more, each once (evaluation embed --level sample)")
    return ids, values.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)


def _projected(values: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points [n, 2] of the profiles to draw, shares of variance [2], and the rows that are drawn."""
    # scikit-learn takes a second to import, and reports without embeddings do without it
    from sklearn.decomposition import PCA

    if not np.isfinite(values).all():
        raise UserError("the embeddings hold values that are not finite")
    fitted = PCA(2, random_state=seed).fit(values)
    chosen = np.arange(len(values))
    if len(values) > _MOST_POINTS:
        chosen = np.sort(np.random.default_rng(seed).choice(len(values), _MOST_POINTS, replace=False))
    return fitted.transform(values[chosen]), fitted.explained_variance_ratio_, chosen


def _columns(samples: pa.Table, sample_ids: Sequence[str]) -> dict[str, list[str]]:
    """Study and labels of the profiles; a profile that the corpus does not have is of none."""
    row_of = {sample: row for row, sample in enumerate(samples.column("sample_id").to_pylist())}
    rows = [row_of.get(sample) for sample in sample_ids]
    found = {}
    for name in samples.column_names:
        if name == "study_id" or (name not in _NO_LABELS and pa.types.is_string(samples.schema.field(name).type)):
            values: list[Any] = samples.column(name).to_pylist()
            found[name] = [_UNKNOWN if row is None or values[row] is None else str(values[row]) for row in rows]
    return found


def _fullest(columns: Mapping[str, Sequence[str]]) -> str | None:
    """The label that most profiles have, of those with two to twenty values."""
    best, most = None, 0
    for name, values in columns.items():
        counts = Counter(value for value in values if value != _UNKNOWN)
        if name != "study_id" and 2 <= len(counts) <= 20 and counts.total() > most:
            best, most = name, counts.total()
    return best
