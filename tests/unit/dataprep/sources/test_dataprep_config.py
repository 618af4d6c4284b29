"""Build files are read strictly; contradictions are named before anything is read."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from dataprep.config import BuildSettings, InspectSettings, SimulateSettings
from dataprep.runtime.command_line import UserError, read_settings

SOURCE = {"name": "x", "path": "x.tsv", "gene_id": "ensembl", "units": "counts", "study": "x"}
EXAMPLE = Path(__file__).parents[4] / "examples" / "real_studies.yaml"


def read(tmp_path: Path, *arguments: str, **content: Any) -> BuildSettings:
    (tmp_path / "build.yaml").write_text(yaml.safe_dump({"corpus": "c", "sources": [SOURCE]} | content))
    return read_settings(BuildSettings, ["--config", str(tmp_path / "build.yaml"), *arguments])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"source": []}, r"unknown setting source \(did you mean 'sources'\?\)"),
        ({"sources": [SOURCE | {"unit": "counts"}]}, r"sources\.0: unknown setting 'unit' \(did you mean 'units'\?\)"),
        ({"sources": [SOURCE | {"format": "tabel"}]}, r"unknown format 'tabel' \(did you mean 'table'\?\); there are"),
        ({"sources": ["x.tsv"]}, r"sources\.0: a source is settings \(key: value\), not str"),
        ({"sources": [SOURCE | {"units": "reads"}]}, r"sources\.0\.units: .*'counts', 'estimated_counts'.* 'reads'"),
        ({"sources": [{k: v for k, v in SOURCE.items() if k != "units"}]}, r"setting sources\.0\.units is missing"),
        ({"sources": []}, "sources: .*at least 1"),
        ({"sources": [SOURCE | {"gene_id": "entrez"}]}, "source x: gene_id entrez needs gene_aliases"),
        ({"tpm_over": "genes"}, "tpm_over: .*'source' or 'vocabulary'"),
        ({"sources": [SOURCE, SOURCE]}, "source names used twice: x"),
        ({"sources": [SOURCE | {"study_column": "s"}]}, "give either study or study_column"),
        (
            {"sources": [SOURCE | {"layer": "counts"}]},
            "valid for format table: .*orientation",
        ),
        ({"seed": -1}, "seed: .*greater than or equal to 0"),
        ({"sources": [SOURCE | {"encoding": "rot13"}]}, "encoding: 'rot13' is none of text files that Python knows"),
        ({"sources": [SOURCE | {"encoding": "idna"}]}, "encoding: 'idna' is none of text files"),
        ({"sources": [SOURCE | {"encoding": "unicode_escape"}]}, "encoding: 'unicode_escape' is none of text files"),
        ({"sources": [SOURCE | {"encoding": "x\0"}]}, "encoding: .* is none of text files"),
        ({"sources": [SOURCE | {"delimiter": "\u00df"}]}, "delimiter: '\u00df' is not an ASCII character"),
        (
            {"split": {"test": ["a"], "validation_fraction": 0.2}},
            "split: validation_fraction would have no effect where groups are named",
        ),
        ({"gene_aliases": "a.csv"}, "--gene-aliases would have no effect where all sources have Ensembl ids"),
        ({"sources": [SOURCE | {"missing_labels": ["x"]}]}, "missing_labels would have no effect without a samples"),
        (
            {"sources": [SOURCE | {"orientation": "samples_x_genes", "drop_annotation": False}]},
            "drop_annotation would have no effect with samples_x_genes",
        ),
        (
            {"sources": [SOURCE | {"value_column": "n", "drop_columns": ["m"]}]},
            "drop_columns would have no effect with value_column",
        ),
        (
            {"sources": [SOURCE | {"format": "h5ad", "encoding": "latin-1"}]},
            "encoding would have no effect without a samples table",
        ),
        ({"max_missing_share": float("nan")}, "max_missing_share: .*finite number"),
        ({"split": {"tests": []}}, r"unknown setting split\.tests \(did you mean 'test'\?\)"),
    ],
)
def test_a_bad_build_file_is_a_bad_argument(tmp_path: Path, content: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        read(tmp_path, **content)
    assert raised.value.exit_code == 2
    assert "\n" not in str(raised.value)


def test_paths_start_from_the_build_file_unless_there_is_a_root(tmp_path: Path) -> None:
    assert read(tmp_path).address("a/b.tsv") == f"{tmp_path}/a/b.tsv"
    assert read(tmp_path, "--root", "/data/").address("a/b.tsv") == "/data/a/b.tsv"
    assert read(tmp_path, root="s3://bucket/raw").address("a/b.tsv") == "s3://bucket/raw/a/b.tsv"
    assert read(tmp_path, "--root", "/data").address("s3://bucket/b.tsv") == "s3://bucket/b.tsv"
    assert read(tmp_path, "--root", "/data").address("/else/b.tsv") == "/else/b.tsv"


def test_addresses_are_absolute_since_workers_have_working_directories_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert read(tmp_path, "--root", "raw").address("a/b.tsv") == f"{tmp_path}/raw/a/b.tsv"


def test_shards_are_about_the_size_asked_for_and_whole_row_groups(tmp_path: Path) -> None:
    rows = read(tmp_path).rows_per_shard(20_024)
    assert rows % 64 == 0
    assert 0.97 * 128e6 < rows * (2 * 20_024 + 8) <= 128e6
    assert read(tmp_path, "--shard-bytes", "1").rows_per_shard(20_024) == 64


def test_the_build_file_of_the_real_studies_is_valid() -> None:
    settings = read_settings(BuildSettings, ["--config", str(EXAMPLE), "--corpus", "c"])
    assert len(settings.sources) >= 20
    assert len(settings.split.test) >= 7


def test_inspect_takes_the_corpus_by_position() -> None:
    assert read_settings(InspectSettings, ["s3://bucket/corpus"]).corpus == "s3://bucket/corpus"


def test_more_studies_than_samples_is_a_bad_argument() -> None:
    with pytest.raises(UserError, match="20 samples are too few for 30 studies"):
        read_settings(SimulateSettings, ["--output", "x", "--samples", "20", "--studies", "30"])


def test_a_negative_seed_is_a_bad_argument() -> None:
    with pytest.raises(UserError, match=r"seed: .*greater than or equal to 0"):
        read_settings(SimulateSettings, ["--output", "x", "--seed", "-1"])


def test_the_examples_of_published_studies_make_one_build(tmp_path: Path) -> None:
    further = yaml.safe_load((EXAMPLE.parent / "further_studies.yaml").read_text())["sources"]
    both = [*yaml.safe_load(EXAMPLE.read_text())["sources"], *further]
    settings = read(tmp_path, sources=both, gene_aliases="aliases.csv.gz")
    assert len(settings.sources) == 43
    assert {source.format for source in settings.sources} == {"table", "salmon"}
