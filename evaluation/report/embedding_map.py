"""The part of a report about embeddings: the same map of profiles by label and by study, side by side. N profiles."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dataprep.corpus import Corpus
from dataprep.inspection.page import Paragraph, Section, missing
from dataprep.inspection.profile_map import fullest_label, labels_of, map_blocks, principal_components
from dataprep.runtime.command_line import UserError, one_line
from dataprep.runtime.storage import Folder, split_file_address

_COLUMN = "embedding"
_MOST_POINTS = 2000


def embedding_section(address: str | None, corpus: Corpus | None, label: str | None, seed: int) -> Section:
    """``label``: the column of samples.parquet to colour by; default: the one that most profiles have."""
    title = "Embeddings"
    if address is None:
        return Section(title, [missing("no embeddings were given (--embeddings FILE.parquet, from evaluation embed).")])
    sample_ids, values = read_embeddings(address)
    chosen = np.sort(np.random.default_rng(seed).permutation(len(sample_ids))[:_MOST_POINTS])
    points, shares = principal_components(values[chosen], seed)
    drawn = f", {len(chosen):,} of them drawn at random" if len(chosen) < len(sample_ids) else ""
    said = (
        f"{len(sample_ids):,} profiles of {address}{drawn}, on the first two principal components of their embeddings."
    )
    if corpus is None:
        unknown = missing("no corpus is known (--corpus), so profiles have neither label nor study here.")
        return Section(title, [Paragraph(said), unknown])
    columns = labels_of(corpus.samples(), [sample_ids[row] for row in chosen])
    if label is not None and label not in columns:
        raise UserError(f"{corpus.folder.uri} has no label {label!r}; it has {', '.join(sorted(columns))}", exit_code=2)
    maps = map_blocks(points, shares, columns, label or fullest_label(columns))
    return Section(title, [Paragraph(said), *maps])


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
        reason = one_line(error)[:160]
        raise UserError(f"{address} does not hold embeddings of samples in Parquet: {reason}") from None
    ids = table.column("sample_id").to_pylist()
    if len(ids) != len(set(ids)) or len(ids) < 3:
        raise UserError(f"{address}: a map takes three profiles or more, each once (evaluation embed --level sample)")
    numbers = values.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
    if not np.isfinite(numbers).all():
        raise UserError(f"{address} holds values that are not finite")
    return ids, numbers
