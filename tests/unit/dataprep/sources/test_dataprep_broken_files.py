"""A file of any form that was broken somewhere gives one line, or profiles that are whole: never a traceback."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dataprep.runtime.command_line import UserError
from dataprep.sources.registry import source_of
from dataprep.sources.source import Source
from tests import made_program_files as written
from tests.made_sources import counts, gene_ids

GENES, COUNTS, LENGTHS = gene_ids(12), counts(3, 12), np.arange(12) * 100 + 500

FORMS: dict[str, tuple[dict[str, Any], bytes]] = {
    "star": ({"format": "star"}, written.star(GENES, COUNTS[0])),
    "htseq": ({"format": "htseq"}, gzip.compress(written.htseq(GENES, COUNTS[0]), mtime=0)),
    "featurecounts": ({"format": "featurecounts"}, written.featurecounts(GENES, COUNTS.T, ["a.bam", "b.bam", "c.bam"])),
    "rsem": ({"format": "rsem"}, written.rsem(GENES, COUNTS[0], LENGTHS)),
    "salmon": ({"format": "salmon", "value_column": "NumReads"}, written.salmon(GENES, COUNTS[0], LENGTHS)),
    "kallisto": ({"format": "kallisto"}, written.kallisto(GENES, COUNTS[0], LENGTHS)),
    "archs4": ({"format": "archs4"}, written.archs4(GENES, COUNTS)),
    "kallisto_h5": ({"format": "kallisto"}, written.kallisto_h5(GENES, COUNTS[0], LENGTHS)),
}


def source(given: dict[str, Any]) -> Source:
    common = {"name": "x", "path": "x", "gene_id": "ensembl", "study": "x"}
    return source_of(common | given)


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
    (tmp_path / "x").write_bytes(content)
    read_whole(source(settings_of), str(tmp_path / "x"))


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    where=st.floats(0, 1, exclude_max=True),
    what=st.sampled_from(["cut", "overwritten", "inserted", "removed"]),
    junk=st.binary(min_size=1, max_size=12),
)
def test_a_broken_file_is_one_line_or_whole(form: str, tmp_path: Path, where: float, what: str, junk: bytes) -> None:
    settings_of, content = FORMS[form]
    (tmp_path / "x").write_bytes(broken(content, where, what, junk))
    complaint = ""
    try:
        read_whole(source(settings_of), str(tmp_path / "x"))
    except UserError as error:
        complaint = str(error)
    assert "\n" not in complaint
