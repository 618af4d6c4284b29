"""Files of a corpus that hold something else than they should: one line that names the file."""

from pathlib import Path

import pytest
from made_corpora import make_corpus

from dataprep.corpus import GENES_FILE, MANIFEST_FILE, SAMPLES_FILE, open_corpus
from dataprep.runtime.command_line import UserError
from dataprep.runtime.storage import Folder


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return make_corpus(str(tmp_path / "corpus"), {"train": 4, "validation": 2, "test": 2}).folder


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "is not JSON"),
        (b"\xff\xfe\x00", "is not JSON"),
        (b"[]", "is not the manifest of a corpus"),
        (b'{"format": "bulkformer-corpus", "format_version": 9}', "format version 9; this is for 1"),
        (b'{"format": "bulkformer-corpus", "format_version": 1, "genes": "x"}', "genes: Input should be a valid int"),
    ],
)
def test_a_manifest_that_is_none(folder: Folder, content: bytes, complaint: str) -> None:
    folder.write_bytes(MANIFEST_FILE, content)
    with pytest.raises(UserError, match=f"{MANIFEST_FILE}.*{complaint}"):
        open_corpus(folder)


def test_another_table_in_place_of_the_genes(folder: Folder) -> None:
    folder.write_bytes(GENES_FILE, folder.read_bytes(SAMPLES_FILE))
    with pytest.raises(UserError, match=f"{GENES_FILE} is not a list of genes: .*ensembl_id"):
        open_corpus(folder)


def test_an_endpoint_that_is_not_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "nonsense")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    with pytest.raises(UserError, match=r"s3://bucket/corpus: AWS_ENDPOINT_URL should be http\(s\)://HOST:PORT"):
        open_corpus("s3://bucket/corpus")
