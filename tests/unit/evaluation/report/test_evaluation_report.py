"""A report says what there is and, in its place, what there is not; nothing foreign becomes part of the page."""

import json
import re
import shutil
from html.parser import HTMLParser

import pytest

from dataprep.runtime.command_line import main
from evaluation.__main__ import COMMANDS
from evaluation.report.training import series
from tests.made_corpora import make_corpus
from tests.made_reports import HARMFUL, METHODS, RUNS, made_results, made_scaling, write_embeddings, write_json


class Reader(HTMLParser):
    """What a screen reader is told: headings, pictures, heads of tables; and what a browser would run or load."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.levels: list[int] = []
        self.pictures: list[str | None] = []
        self.heads: list[str | None] = []
        self.suspicious: list[str] = []
        self.ids: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        if re.fullmatch("h[1-6]", tag):
            self.levels.append(int(tag[1]))
        if tag == "svg":
            self.pictures.append(given.get("aria-label") if given.get("role") == "img" else None)
        if tag == "th":
            self.heads.append(given.get("scope"))
        if tag in ("script", "iframe", "object", "embed", "form", "img") or any(
            name.startswith("on") for name in given
        ):
            self.suspicious.append(tag)
        for name in ("src", "href"):
            if not (given.get(name) or "#").startswith(("#", "data:")):
                self.suspicious.append(f"{tag} {given[name]}")
        if "id" in given:
            self.ids.append(given["id"] or "")


@pytest.fixture
def report(tmp_path, monkeypatch, capsys):
    """Make a report of the given inputs; returns the page."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def make(**inputs: object) -> str:
        output = tmp_path / "report.html"
        arguments = [part for name, value in inputs.items() for part in (f"--{name}", str(value))]
        code = main("evaluation", "", COMMANDS, ["report", "--output", str(output), *arguments])
        said = capsys.readouterr()
        assert code == 0, said.err
        assert said.out == f"report: {output}\n"
        return output.read_text()

    return make


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory) -> str:
    """The page of an evaluation alone, with everything that one can have; drawn once."""
    folder = tmp_path_factory.mktemp("evaluated")
    results = write_json(folder / "results.json", made_results())
    output = folder / "report.html"
    assert main("evaluation", "", COMMANDS, ["report", "--output", str(output), "--results", str(results)]) == 0
    return output.read_text()


@pytest.fixture
def results(tmp_path):
    return write_json(tmp_path / "results.json", made_results())


@pytest.fixture
def small(tmp_path):
    """A results file that takes one picture."""
    content = made_results()
    content["results"] = [content["results"][1] | {"curves": {}}]
    content["results"][0]["scores"] = content["results"][0]["scores"][:2]
    return write_json(tmp_path / "small.json", content)


def section(page: str, title: str) -> str:
    """The section with this heading, up to the next one of its level."""
    found = re.search(rf"<h2[^>]*>{title}</h2>(.*?)(?=<h2|</main>)", page, re.DOTALL)
    assert found is not None, title
    return found[1]


def test_a_whole_report_has_every_part_and_can_be_read_aloud(report, results, tmp_path):
    corpus = make_corpus(
        str(tmp_path / "corpus"), labels={"tissue": [["liver", HARMFUL][row % 2] for row in range(140)]}
    )
    embeddings = write_embeddings(tmp_path / "e.parquet", [f"S{row}" for row in range(140)])
    scaling = write_json(tmp_path / "s.json", made_scaling())
    page = report(
        run=RUNS / "two_workers", results=results, scaling=scaling, embeddings=embeddings, corpus=corpus.folder.uri
    )
    read = Reader(page)
    assert 'lang="en"' in page
    assert read.levels[0] == 1
    assert read.levels.count(1) == 1
    assert all(after - before <= 1 for before, after in zip(read.levels, read.levels[1:], strict=False))
    assert len(read.pictures) > 15
    assert all(read.pictures)
    assert set(read.heads) == {"col", "row"}
    assert len(read.ids) == len(set(read.ids))
    for title in ("Scaling", "Embeddings", "Intended use and limits"):
        assert "Not here:" not in section(page, title)


def test_nothing_foreign_becomes_part_of_the_page_and_no_secret_is_shown(evaluated):
    assert Reader(evaluated).suspicious == []
    assert "<script" not in evaluated
    assert "&lt;script&gt;" in evaluated
    assert "hunter2" not in evaluated
    assert "do-not-show" not in evaluated
    assert "default-src &#39;none&#39;" in evaluated or "default-src 'none'" in evaluated


def test_the_leak_audit_says_what_was_found_and_counts_it(evaluated):
    part = section(evaluated, "Leak audit")
    assert "4 of 90 profiles were trained on" in part
    assert "same profile</th>" in part
    assert '<td class="number">4</td>' in part


def test_each_part_that_is_missing_says_so_in_its_place(report, evaluated):
    for title, said in (
        ("Training", "no pretraining run was given"),
        ("Scaling", "no fit of scaling laws was given"),
        ("Embeddings", "no embeddings were given"),
    ):
        assert said in section(evaluated, title)
    page = report(run=RUNS / "two_workers")
    assert "no evaluation was given" in section(page, "Evaluation")
    assert "no evaluation given here looked for" in section(page, "Leak audit")


def test_a_run_that_failed_says_how_far_it_came(report, tmp_path):
    shutil.copytree(RUNS / "two_workers", tmp_path / "broken", ignore=shutil.ignore_patterns("export", "checkpoints"))
    page = report(run=tmp_path / "broken")
    assert "Failed:" in section(page, "Training")
    assert "its metrics end at step 5" in section(page, "Training")
    (tmp_path / "broken" / "metrics.jsonl").unlink()
    assert "the run recorded no step" in report(run=tmp_path / "broken")


def test_an_interruption_stands_in_the_report_with_its_length(report, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    write_json(
        folder / "settings.json", {"corpus": "/nowhere", "storage": str(tmp_path), "name": "run", "max_steps": 20}
    )
    times = [10.0 * step + (3600 if step > 12 else 0) for step in range(1, 21)]
    rows = [
        {"step": step, "epoch": 0, "loss": 1 / step, "samples_per_second": 5.0, "time": time, "pause_seconds": 0.0}
        for step, time in enumerate(times, start=1)
    ]
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    speed = section(report(run=folder), "Training")
    assert re.search(r"<tr><th scope=\"row\">12</th>\s*<td class=\"number\">60\.2</td>", speed)
    assert speed.count('<td class="number">60.2</td>') == 1


def test_scores_stand_with_intervals_baselines_and_differences(evaluated):
    part = section(evaluated, "Evaluation")
    assert "0.310 [0.260, 0.360]" in part
    assert "gene mean (simple)" in part
    assert "BulkFormer − rectified Gaussian" in part
    assert part.count("includes zero") == 1
    assert part.count("excludes zero") == 2
    # the method without any defined value of a metric has no picture of it, but stands in the table
    assert "Forest plot of pearson per gene mean" not in part
    assert f"Forest plot of mse: {METHODS[0]} 0.310 [0.260, 0.360]" in part


def test_curves_of_the_results_are_drawn(evaluated):
    drawn = Reader(evaluated).pictures
    for described in (
        "Line chart of mse over share of genes masked",
        "Line chart of mse over mean log1p TPM",
        "Kaplan-Meier curves, BulkFormer",
        "ROC curves, true positive rate",
        "Calibration curves, observed over predicted",
        "Confusion matrix, BulkFormer of 3 classes",
        "Learning curves, weighted f1 over training samples: BulkFormer 0.533 from 8,",
        "Dot plot of C by study: <script>document.title='taken'</script>, 19 events: BulkFormer 0.600,",
    ):
        assert any(str(text).startswith(described) for text in drawn), described


def test_curves_with_unknown_columns_are_shown_as_tables(report, tmp_path):
    content = made_results()
    content["results"] = content["results"][:1]
    content["results"][0]["scores"] = []
    content["results"][0]["curves"] = {"roc": [{"of": "another version", "value": 0.25}]}
    page = report(results=write_json(tmp_path / "r.json", content))
    assert "another version" in page
    assert "0.250" in page
    assert "ROC curves" not in page


@pytest.mark.parametrize(
    ("content", "said"),
    [("[1]", "it holds list"), ("{", "does not hold results"), ('{"about": {}, "results": [{}]}', "results.0.task")],
)
def test_what_is_no_results_file_is_one_line(tmp_path, capsys, content, said):
    (tmp_path / "r.json").write_text(content)
    arguments = ["report", "--output", str(tmp_path / "x.html"), "--results", str(tmp_path / "r.json")]
    assert main("evaluation", "", COMMANDS, arguments) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert said in error
    assert not (tmp_path / "x.html").exists()


def test_only_a_report_is_written_over(report, small, tmp_path, capsys):
    report(results=small)
    report(results=small)
    (tmp_path / "mine.html").write_text("<html>mine</html>")
    arguments = ["report", "--output", str(tmp_path / "mine.html"), "--results", str(small)]
    assert main("evaluation", "", COMMANDS, arguments) == 2
    assert "exists and is no report" in capsys.readouterr().err
    assert (tmp_path / "mine.html").read_text() == "<html>mine</html>"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "nothing to report"),
        (("--run", "a", "--label", "tissue"), "label"),
        (("--run", "a", "--newest", "2"), "newest"),
        (("--experiment", "evaluation"), "set MLFLOW_TRACKING_URI"),
        (("--run", "/nowhere/at/all"), "is not a pretraining run"),
    ],
)
def test_settings_without_effect_and_inputs_that_are_not_there_are_refused(
    tmp_path, monkeypatch, capsys, arguments, said
):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert main("evaluation", "", COMMANDS, ["report", "--output", str(tmp_path / "x.html"), *arguments]) > 0
    assert said in capsys.readouterr().err
    assert not (tmp_path / "x.html").exists()


def test_many_steps_are_averaged_and_keep_their_mean():
    rows = [{"step": step, "loss": float(step % 7)} for step in range(3000)]
    steps, values = series(rows, "loss")
    assert len(steps) == 300
    assert values.mean() == pytest.approx(sum(row["loss"] for row in rows) / 3000)
