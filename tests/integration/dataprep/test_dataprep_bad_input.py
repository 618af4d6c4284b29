"""Bad input ends with one line that says what and where, the right exit code, and nothing half-written."""

import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataprep.__main__ import COMMANDS
from dataprep.runtime.command_line import main
from tests.made_sources import GENES, build_settings, counts, gene_ids, names, symbols, write_source

pytestmark = pytest.mark.usefixtures("ray_session")

Sources = list[dict[str, Any]]


def changed(place: tuple[int, int], value: float) -> np.ndarray:
    values = counts(6).astype(float)
    values[place] = value
    return values


def text_column(root: Path) -> Sources:
    source = write_source(root, "a")
    path = root / "a.tsv.gz"
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    lines[4] = lines[4].rpartition("\t")[0] + "\tprotein_coding"
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    return [source]


def truncated(root: Path) -> Sources:
    source = write_source(root, "a", counts(300), samples=names("a", 300))
    path = root / "a.tsv.gz"
    path.write_bytes(path.read_bytes()[:-2000])
    return [source]


def empty(root: Path) -> Sources:
    source = write_source(root, "a")
    (root / "a.tsv.gz").write_bytes(b"")
    return [source]


def without_metadata(root: Path) -> Sources:
    (root / "a.samples.tsv").write_text("sample\ttissue\na_000\tliver\n")
    return [write_source(root, "a", samples=names("a", 6)) | {"samples": "a.samples.tsv"}]


def headerless(root: Path) -> dict[str, Any]:
    source = write_source(root, "a")
    lines = gzip.decompress((root / "a.tsv.gz").read_bytes()).split(b"\n", 1)
    (root / "a.tsv.gz").write_bytes(gzip.compress(lines[1]))
    return source


# the last of the genes has more reads than all others together
OTHERS = np.where(np.arange(GENES) == GENES - 1, 1000, 1)
MOUSE = [f"ENSMUSG{number:011d}" for number in range(GENES)]
CASES: dict[str, tuple[Callable[[Path], Sources], str]] = {
    "unknown genes": (
        lambda root: [write_source(root, "a", genes=[f"probe_{n}_at" for n in range(GENES)])],
        r"source a .*: 40 of 40 gene ids are not human genes as ensembl, e\.g\. 'probe_0_at'",
    ),
    "duplicate genes": (
        lambda root: [write_source(root, "a", genes=[*gene_ids()[:-1], gene_ids()[0]], repeated_genes="refuse")],
        r"1 of 40 gene ids occur more than once, e\.g\. 'ENSG00000000003'",
    ),
    "duplicate samples": (
        lambda root: [write_source(root, "a", samples=["s1", "s1", "s2", "s3", "s4", "s5"])],
        r"1 of 6 sample ids occur more than once, e\.g\. 's1'",
    ),
    "mouse ids": (lambda root: [write_source(root, "a", genes=MOUSE)], r"40 of 40 gene ids .* mouse genes"),
    "mouse symbols": (
        lambda root: [write_source(root, "a", genes=[s.capitalize() + "a" for s in symbols()], gene_id="symbol")],
        "written like mouse symbols",
    ),
    "negative": (
        lambda root: [write_source(root, "a", changed((2, 1), -3))],
        r"1 of 240 values are negative, e\.g\. -3 \(gene ENSG00000000005, sample a_002\)",
    ),
    "fractional": (
        lambda root: [write_source(root, "a", changed((0, 0), 7.25))],
        r"1 of 240 values are fractional, though declared as counts, e\.g\. 7\.25",
    ),
    "infinite": (
        lambda root: [write_source(root, "a", changed((0, 0), np.inf))],
        "1 of 240 values are not finite",
    ),
    "no header": (
        lambda root: [headerless(root)],
        r"a\.tsv\.gz has no header: its first line is 'ENSG00000000003' with",
    ),
    "a sample in two files": (
        lambda root: [write_source(root, name, samples=names("s", 6)) | {"path": "[ab].tsv.gz"} for name in "ab"][:1],
        r"source a: 6 samples are in several of its 2 files, e\.g\. 's_000' in",
    ),
    "unknown reads": (
        lambda root: [write_source(root, "a", counts(6) * OTHERS, [*gene_ids()[:-1], "ENSG00000999999"])],
        r"source a: 9\d\.\d% of what is counted is in 1 ids that no table of genes has",
    ),
    "logarithms": (
        lambda root: [write_source(root, "a", np.log2(counts(6) + 1))],
        "6 of 6 samples look like logarithms, not counts",
    ),
    "empty file": (empty, r"a\.tsv\.gz is empty"),
    "truncated gzip": (truncated, r"a\.tsv\.gz is cut off or damaged"),
    "text column": (text_column, r"column 'a_005' holds text, not numbers, e\.g\. 'protein_coding'"),
    "no such file": (lambda root: [write_source(root, "a") | {"path": "b.tsv"}], r"no such file: .*/b\.tsv"),
    "no match": (lambda root: [write_source(root, "a") | {"path": "b*.tsv"}], "source a: no file matches"),
    "no metadata": (without_metadata, r"source a: 5 of 6 samples have no row in the sample metadata, e\.g\. 'a_001'"),
    "nothing passes": (
        lambda root: [write_source(root, "a", np.where(np.arange(GENES) < 5, counts(6), 0))],
        r"none of 6 samples can be kept \(too_few_nonzero_genes 6\); min_nonzero_genes is 10",
    ),
}


def run(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> tuple[int, str]:
    """Exit code and the last line on standard error; standard output has to stay empty."""
    code = main("dataprep", "", COMMANDS, arguments)
    said = capsys.readouterr()
    assert said.out == ""
    return code, said.err.splitlines()[-1]


@pytest.mark.parametrize("case", CASES)
def test_one_bad_source_among_good_ones_ends_the_build(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, message = CASES[case]
    good = [] if case == "nothing passes" else [write_source(tmp_path, "good")]
    settings = build_settings(tmp_path, [*good, *make(tmp_path)])
    code, line = run(capsys, ["build", "--config", str(tmp_path / "build.yaml")])
    assert code == 1
    assert re.search(message, line), line
    assert line.startswith("error: ")
    assert not [path for path in Path(settings.corpus).iterdir() if not path.name.startswith(".")]


def test_a_vocabulary_smaller_than_the_threshold_is_a_bad_argument(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build_settings(tmp_path, [write_source(tmp_path, "a")], min_nonzero_genes=14_000)
    code, line = run(capsys, ["build", "--config", str(tmp_path / "build.yaml")])
    assert (code, line) == (2, "error: min_nonzero_genes 14,000 is more than the vocabulary's 40 genes")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["build", "--no-such", "1"], "unknown setting no_such"),
        (["build", "--corpus", "x"], "setting sources is missing"),
        (["build", "--config", "/nowhere.yaml"], "no such file: --config /nowhere.yaml"),
        (["builds"], "unknown command 'builds' (did you mean 'build'?)"),
        (["graph"], "setting corpus is missing"),
        (["inspect", "ftp://x"], "only a folder or s3://bucket/prefix is understood"),
    ],
)
def test_bad_arguments_end_with_exit_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, line = run(capsys, arguments)
    assert code == 2
    assert message in line


def test_a_corpus_without_manifest_is_no_corpus_for_any_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build_settings(tmp_path, [write_source(tmp_path, "a")])
    assert main("dataprep", "", COMMANDS, ["build", "--config", str(tmp_path / "build.yaml"), "--json"]) == 0
    corpus = json.loads(capsys.readouterr().out.splitlines()[-1])["corpus"]
    (Path(corpus) / "manifest.json").unlink()
    for arguments in (
        ["inspect", corpus],
        ["graph", "--corpus", corpus],
        ["export", "--corpus", corpus, "--output", str(tmp_path / "x.h5ad")],
    ):
        code, line = run(capsys, arguments)
        assert (code, line) == (1, f"error: {corpus} is not a corpus: it has no manifest.json")
