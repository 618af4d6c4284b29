"""A file of any form that was broken somewhere gives one line, or profiles that are whole: never a traceback."""

import gzip
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
import scipy.io
import scipy.sparse
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dataprep.runtime.command_line import UserError
from dataprep.sources.registry import source_of
from dataprep.sources.source import Source
from tests import made_program_files as written
from tests.made_sources import counts, delimited, gene_ids

GENES, COUNTS, LENGTHS = gene_ids(12), counts(3, 12), np.arange(12) * 100 + 500


def columns(write: Callable[[pa.Table, pa.BufferOutputStream], None]) -> bytes:
    """The counts as a table of genes x samples, in the bytes that a writer makes of it."""
    stream = pa.BufferOutputStream()
    write(pa.table({"gene": GENES, **{f"s{number}": sample for number, sample in enumerate(COUNTS)}}), stream)
    return stream.getvalue().to_pybytes()


def matrix_market() -> bytes:
    stream = io.BytesIO()
    scipy.io.mmwrite(stream, scipy.sparse.coo_matrix(COUNTS.T))
    return stream.getvalue()


LISTS = {"gene_names": "genes.txt", "sample_names": "samples.txt"}
FORMS: dict[str, tuple[dict[str, Any], bytes]] = {
    "star": ({"format": "star"}, written.star(GENES, COUNTS[0])),
    "htseq": ({"format": "htseq"}, gzip.compress(written.htseq(GENES, COUNTS[0]), mtime=0)),
    "featurecounts": ({"format": "featurecounts"}, written.featurecounts(GENES, COUNTS.T, ["a.bam", "b.bam", "c.bam"])),
    "rsem": ({"format": "rsem"}, written.rsem(GENES, COUNTS[0], LENGTHS)),
    "salmon": ({"format": "salmon", "value_column": "NumReads"}, written.salmon(GENES, COUNTS[0], LENGTHS)),
    "kallisto": ({"format": "kallisto"}, written.kallisto(GENES, COUNTS[0], LENGTHS)),
    "gct": ({"format": "table"}, b"#1.2\n12\t3\n" + delimited(COUNTS, GENES, ["a", "b", "c"]).encode()),
    "parquet": ({"format": "parquet"}, columns(pq.write_table)),
    "feather": ({"format": "feather"}, columns(pa.feather.write_feather)),
    "matrix_market": ({"format": "matrix_market", **LISTS}, matrix_market()),
    "archs4": ({"format": "archs4"}, written.archs4(GENES, COUNTS)),
    "kallisto_h5": ({"format": "kallisto"}, written.kallisto_h5(GENES, COUNTS[0], LENGTHS)),
}


def source(given: dict[str, Any]) -> Source:
    common = {"name": "x", "path": "x", "gene_id": "ensembl", "study": "x"}
    stated = {"units": "counts"} if given["format"] in ("table", "parquet", "feather", "matrix_market") else {}
    return source_of(common | stated | given)


def write(folder: Path, content: bytes) -> str:
    (folder / "x").write_bytes(content)
    (folder / "genes.txt").write_text("".join(f"{gene}\n" for gene in GENES))
    (folder / "samples.txt").write_text("a\nb\nc\n")
    return str(folder / "x")


def broken(content: bytes, where: float, what: str, junk: bytes) -> bytes:
    place = int(where * len(content))
    if what == "cut":
        return content[:place]
    if what == "overwritten":
        return content[:place] + junk + content[place + len(junk) :]
    return content[:place] + junk + content[place:] if what == "inserted" else content[:place] + content[place + 7 :]


def read_whole(chosen: Source, address: str) -> None:
    listed = chosen.list_samples(address).sample_ids
    rows = 0
    for part in chosen.read_samples(address, 0, len(listed)):
        assert part.values.shape == (len(part.sample_ids), len(part.gene_ids))
        assert part.values.dtype == np.float32
        assert part.first == rows
        rows += len(part.sample_ids)
    assert rows == len(listed)


@pytest.mark.parametrize("form", FORMS)
def test_an_unbroken_file_is_read(form: str, tmp_path: Path) -> None:
    settings_of, content = FORMS[form]
    read_whole(source(settings_of), write(tmp_path, content))


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    where=st.floats(0, 1, exclude_max=True),
    what=st.sampled_from(["cut", "overwritten", "inserted", "removed"]),
    junk=st.binary(min_size=1, max_size=12),
)
def test_a_broken_file_is_one_line_or_whole(form: str, tmp_path: Path, where: float, what: str, junk: bytes) -> None:
    settings_of, content = FORMS[form]
    address, complaint = write(tmp_path, broken(content, where, what, junk)), ""
    try:
        read_whole(source(settings_of), address)
    except UserError as error:
        complaint = str(error)
    assert "\n" not in complaint
