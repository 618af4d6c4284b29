"""Wildcards in paths mean what they mean in a shell."""

from pathlib import Path

import pytest

from dataprep.pipeline.listing import list_files
from dataprep.sources.file_patterns import matches
from tests.made_sources import build_settings, counts, write_source


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("counts/*.tsv", ["counts/a.tsv"]),
        ("counts/**/*.tsv", ["counts/a.tsv", "counts/backup/old.tsv"]),
        ("**/a.tsv", ["a.tsv", "counts/a.tsv"]),
        ("*/?.tsv", ["counts/a.tsv"]),
        ("[ab].tsv", ["a.tsv"]),
        ("[[]x].tsv", ["[x].tsv"]),
    ],
)
def test_a_star_stays_within_a_folder(pattern: str, names: list[str]) -> None:
    there = ["a.tsv", "counts/a.tsv", "counts/backup/old.tsv", "[x].tsv", "counts/a.tsv.bak"]
    assert [name for name in there if matches(name, pattern)] == names


def test_a_file_whose_name_has_a_bracket_is_that_file(tmp_path: Path) -> None:
    source = write_source(tmp_path, "a", counts(3))
    (tmp_path / "a.tsv.gz").rename(tmp_path / "a[1].tsv.gz")
    (file,) = list_files(build_settings(tmp_path, [source | {"path": "a[1].tsv.gz"}]))
    assert file.address.endswith("a[1].tsv.gz")


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    source = write_source(tmp_path, "a", counts(3))
    for settings in (
        build_settings(tmp_path, [source | {"path": "~/a.tsv.gz"}]),
        build_settings(tmp_path, [source], root="~"),
    ):
        (file,) = list_files(settings)
        assert file.address == f"{tmp_path}/a.tsv.gz"
