"""`inspect --html` shows what is in a corpus, and finds the profiles whose sex is not the one on their label."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from dataprep.__main__ import COMMANDS
from dataprep.corpus import MANIFEST_FILE
from dataprep.genes.gene_sets import XIST, Y_GENES, SexGenes, sex_by_genes
from dataprep.genes.vocabulary import GeneVocabulary
from dataprep.inspection.sex_check import sex_section
from dataprep.runtime.command_line import main
from tests.made_corpora import make_corpus

HARMFUL = "<script>alert(1)</script>"


@pytest.fixture
def page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Of a corpus with labels, one harmful name among them, and samples that were refused."""
    labels = {"tissue": [["liver", HARMFUL][row % 2] for row in range(140)], "sex": ["male", "female"] * 70}
    corpus = make_corpus(str(tmp_path / "corpus"), labels=labels)
    manifest = json.loads(corpus.folder.read_text(MANIFEST_FILE))
    manifest["samples"] = {"read": 150, "kept": 140, "rejected": {"too_few_nonzero_genes": 7, "no_expression": 3}}
    corpus.folder.write_text(MANIFEST_FILE, json.dumps(manifest))
    output = tmp_path / "corpus.html"
    assert main("dataprep", "", COMMANDS, ["inspect", corpus.folder.uri, "--html", str(output)]) == 0
    assert capsys.readouterr().err.endswith(f"page: {output}\n")
    return output.read_text()


def test_the_page_has_counts_refusals_genes_and_a_map_and_nothing_foreign_runs(page: str) -> None:
    assert "140 of 150 samples" in page
    assert "Bar chart of refused samples by reason: no expression 3, too few nonzero genes 7." in page
    assert "Bar chart of profiles by study: " in page
    assert "Box plots of genes detected by source: made median" in page
    assert "By label tissue." in page
    assert "The same map by study." in page
    assert "measures none of the Y chromosome" in page
    assert "<script" not in page
    assert page.count('role="img"') == page.count("<svg ") == 6


def test_another_file_is_not_written_over_and_nothing_is_read_before_that_is_known(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.html").write_text("mine")
    assert main("dataprep", "", COMMANDS, ["inspect", "/nowhere", "--html", str(tmp_path / "mine.html")]) == 2
    assert "exists and is no report" in capsys.readouterr().err
    assert main("dataprep", "", COMMANDS, ["inspect", "/nowhere", "--html", str(tmp_path / "mine.txt")]) == 2
    assert "must end in .html" in capsys.readouterr().err


def test_genes_tell_sex_by_the_mean_of_those_that_are_measured() -> None:
    ids = ("ENSG00000000001", *Y_GENES[:3], XIST)
    genes = SexGenes.of(GeneVocabulary(ids, ids, np.ones(5)))
    nan = np.nan
    expression = np.array([[9, 3, nan, 1, 0], [9, 0, 0, 0.3, 4], [9, nan, nan, nan, 4], [9, 2, 2, 2, 5]], np.float16)
    values = genes.expression(expression)
    np.testing.assert_allclose(values[:, 0], [2, 0.1, nan, 2], atol=1e-3)
    np.testing.assert_allclose(values[:, 1], [0, 4, 4, 5], atol=1e-3)
    # without a Y gene nothing is said, and with both not either
    assert sex_by_genes(values).tolist() == ["male", "female", "", ""]
    without_xist = np.stack([values[:, 0], np.full(4, nan)], axis=1)
    assert sex_by_genes(without_xist).tolist() == ["male", "female", "", "male"]


def test_profiles_whose_label_and_genes_disagree_are_named() -> None:
    samples = pa.table({
        "sample_id": ["a", "b", "c", "d"], "study_id": ["s"] * 4, "Gender": ["M", "Female", "male", "unknown"],
    })  # fmt: skip
    values = np.array([[3, np.nan], [2.5, np.nan], [0.7, np.nan], [3, np.nan]])
    section = sex_section(samples, values, has_xist=False)
    (table,) = (block for block in section.blocks if block.kind == "table")
    assert [list(row) for row in table.rows] == [["b", "s", "female", "male", "2.50"]]
    assert "3 profiles labelled male or female" in section.blocks[0].text
    assert "tell the sex of 2" in section.blocks[0].text


def test_a_study_whose_women_seem_to_have_y_genes_has_borders_of_its_own_or_none() -> None:
    """As where reads of their relatives on the X chromosome were counted for them."""
    women, men = [1.7, 1.8, 1.8, 1.9, 2.1], [2.9, 3.0, 3.0, 3.1, 1.8]
    samples = pa.table({
        "sample_id": [f"p{row}" for row in range(18)],
        "study_id": ["background"] * 10 + ["women"] * 6 + ["usual"] * 2,
        "sex": [None] * 10 + ["female"] * 8,
        "gender": ["female"] * 5 + ["male"] * 5 + [None] * 8,
    })  # fmt: skip
    values = np.stack([np.array([*women, *men, *[1.8] * 6, 0.1, 2.0]), np.full(18, np.nan)], axis=1)
    section = sex_section(samples, values, has_xist=False)
    (table,) = (block for block in section.blocks if block.kind == "table")
    assert [list(row)[:4] for row in table.rows] == [
        ["p9", "background", "male", "female"],
        ["p17", "usual", "female", "male"],
    ]
    assert "sex of 12" in section.blocks[0].text
    said = " ".join(block.text for block in section.blocks if block.kind == "note")
    assert "in background the Y genes of most profiles labelled female" in said
    assert "nothing is told of this study" in said


def test_a_column_is_of_sex_only_by_a_whole_word() -> None:
    samples = pa.table({"sample_id": ["a"], "study_id": ["s"], "sextant": ["male"]})
    assert "no column" in sex_section(samples, np.array([[3.0, np.nan]]), has_xist=False).blocks[0].text
