"""Tasks are found by name, also those of other people, and share one reading of the corpus and one embedding."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from made_corpora import make_corpus
from made_exports import write_model
from own_task import Neighbours

from dataprep.runtime.command_line import UserError, main, read_settings
from evaluation.__main__ import COMMANDS
from evaluation.inference.embedder import Embedder
from evaluation.tasks.registry import register_task, run_settings, tasks
from evaluation.tasks.task import Task

ROWS = {"train": 48, "validation": 16, "test": 32}
ROW_GROUP = 8
FAST = ("--imputation.resamples", "100", "--imputation.ranks", "2", "--classification.trees", "5", "--batch-size", "16")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A corpus with two labels, each of many studies, and a model that fits it."""
    place = tmp_path_factory.mktemp("tasks")
    total = sum(ROWS.values())
    labels = {
        "tissue": [("brain", "liver")[row % 2] for row in range(total)],
        "sex": [("female", "male", "NA", "female")[row // 2 % 4] for row in range(total)],
    }
    corpus = make_corpus(str(place / "corpus"), ROWS, row_group=ROW_GROUP, labels=labels)
    write_model(place / "model", corpus.vocabulary)
    return place


@pytest.fixture
def score(folder, monkeypatch, capsys):
    """Run `evaluation run`; returns (exit code, standard output, standard error)."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def call(*more):
        given = ["run", "--model", str(folder / "model"), "--corpus", str(folder / "corpus"), *FAST, *more]
        code = main("evaluation", "", COMMANDS, given)
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def row_groups_read(monkeypatch):
    """How often each row group of a shard was read, by (rows of the file, row group)."""
    counts = Counter()
    for name in ("read_row_group", "read_row_groups"):
        original = getattr(pq.ParquetFile, name)

        def counted(self, groups, *arguments, original=original, **named):
            shard = self.metadata.num_rows
            counts.update((shard, group) for group in ([groups] if isinstance(groups, int) else groups))
            return original(self, groups, *arguments, **named)

        monkeypatch.setattr(pq.ParquetFile, name, counted)
    return counts


def test_a_task_in_a_file_of_its_own_runs_through_the_ordinary_command(folder, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    environment.pop("MLFLOW_TRACKING_URI", None)
    output = tmp_path / "results.json"
    arguments = ["--plugins", "own_task", "--tasks", "neighbours", "--neighbours.max-profiles", "20"]
    line = [sys.executable, "-m", "evaluation", "run", "--model", folder / "model", "--corpus", folder / "corpus"]
    done = subprocess.run(
        [*line, *arguments, "--output", output], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(output.read_text())["results"]
    assert (result["task"], result["facts"], result["baselines"]) == (
        "neighbours",
        {
            "profiles": 20,
            "leak_audit": "not made for BulkFormer, whose export carries no fingerprints of its train profiles",
        },
        ["raw expression"],
    )
    assert [score["method"] for score in result["scores"]] == ["BulkFormer mean embedding", "raw expression"]
    assert "neighbours" in done.stdout


@pytest.mark.usefixtures("score")
def test_settings_of_a_plugins_task_come_from_yaml_too_and_are_checked(tmp_path):
    given = ["--model", "m", "--corpus", "c"]
    (tmp_path / "run.yaml").write_text("plugins: own_task\ntasks: [neighbours]\nneighbours: {max_profiles: 7}\n")
    arguments = [*given, "--config", str(tmp_path / "run.yaml")]
    settings = read_settings(run_settings(arguments), arguments)
    assert (settings.tasks, settings.neighbours.max_profiles) == (["neighbours"], 7)
    arguments = [*given, "--plugins", "own_task", "--neighbours.max-profiles", "1"]
    with pytest.raises(UserError, match="max_profiles: Input should be greater than or equal to 2"):
        read_settings(run_settings(arguments), arguments)


def test_names_that_are_taken_cannot_be_had():
    class Second(Neighbours):
        name = "imputation"

    with pytest.raises(ValueError, match="two tasks are named 'imputation'"):
        register_task(Second)
    Second.name = "seed"
    with pytest.raises(ValueError, match="is a setting of the command"):
        register_task(Second)


def test_every_task_has_defaults_for_all_its_settings_and_a_line_of_help():
    for task in tasks().values():
        assert issubclass(task, Task)
        assert task.settings_type().__doc__


def test_a_corpus_is_read_once_for_all_tasks_and_labels(score, row_groups_read):
    code, out, err = score("--json")
    assert code == 0, err
    scores = json.loads(out.splitlines()[-1])["scores"]
    assert {name.split("/")[0] + "/" + name.split("/")[1] for name in scores} >= {
        "classification/tissue",
        "classification/sex",
    }
    groups = sum(rows // ROW_GROUP for rows in ROWS.values())
    assert row_groups_read.total() == len(row_groups_read) == groups


def test_row_groups_without_wanted_profiles_are_skipped(score, row_groups_read):
    code, _, err = score("--tasks", "imputation", "--imputation.max-profiles", "8", "--imputation.fit-profiles", "16")
    assert code == 0, err
    # 8 to score, 16 to fit on, 16 to choose the rank with
    assert row_groups_read == {(32, 0): 1, (48, 0): 1, (48, 1): 1, (16, 0): 1, (16, 1): 1}


def test_a_profile_with_several_labels_is_embedded_once(score, monkeypatch):
    embedded = []
    original = Embedder.embed_poolings

    def counted(self, expression, *arguments):
        embedded.append(len(expression))
        return original(self, expression, *arguments)

    monkeypatch.setattr(Embedder, "embed_poolings", counted)
    assert score("--tasks", "classification")[0] == 0
    assert sum(embedded) == sum(ROWS.values())


def test_words_for_a_missing_label_are_no_class_unless_told(score, tmp_path):
    output = tmp_path / "results.json"
    code, _, err = score("--tasks", "classification", "--label", "sex", "--output", str(output))
    assert code == 0, err
    assert json.loads(output.read_text())["results"][0]["facts"]["classes"] == {"female": 48, "male": 24}
    assert "label sex: 24 samples count as unlabelled ('NA' 24; classification.missing_labels)" in err
    more = ("--classification.missing-labels", "unknown", "--output", str(output))
    assert score("--tasks", "classification", "--label", "sex", *more)[0] == 0
    assert json.loads(output.read_text())["results"][0]["facts"]["classes"]["NA"] == 24


def test_a_task_that_does_not_apply_is_left_out_only_beside_others(score):
    assert score("--classification.min-class-samples", "90")[0] == 0
    code, _, err = score("--classification.min-class-samples", "90", "--tasks", "classification")
    assert code == 1
    assert "no label with two classes of 90 samples" in err.splitlines()[-1]


def test_results_that_no_file_takes_have_gone_to_mlflow(score, monkeypatch, tmp_path):
    sent = []
    place = tmp_path / "results"

    def lose_the_place(*given):
        sent.append(given)
        place.rmdir()
        place.write_text("a file now")

    monkeypatch.setattr("evaluation.run.send_results", lose_the_place)
    code, out, err = score("--tasks", "imputation", "--output", str(place / "x.json"))
    assert (code, len(sent)) == (1, 1)
    assert err.splitlines()[-1] == f"error: {place}: File exists"
    assert "imputation" in out


@pytest.mark.parametrize("place", ["taken/scores.json", "folder.json", f"{'x' * 300}.json"])
def test_a_place_where_nothing_can_be_written_is_known_before_the_model_is_opened(score, monkeypatch, tmp_path, place):
    (tmp_path / "taken").write_text("a file")
    (tmp_path / "folder.json").mkdir()
    monkeypatch.setattr(Embedder, "open", lambda *_: pytest.fail("the model was opened"))
    code, out, err = score("--output", str(tmp_path / place))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert any(why in err for why in ("File exists", "is a folder, not a file to write", "File name too long"))


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--tasks", "imputation", "--label", "sex"), "--label would have no effect with --tasks imputation"),
        (("--tasks", "classification", "--split", "validation"), "--split would have no effect with --tasks class"),
        (("--split", "validation", "--imputation.tuning-profiles", "9"), "tuning_profiles would have no effect"),
        (("--label", "sex", "--classification.max-labels", "2"), "max_labels would have no effect where a label is"),
        (("--tasks", "imputation,lincs"), "LINCS measures 978 genes with beads"),
    ],
)
def test_settings_of_tasks_that_are_not_run_and_a_withdrawn_task_are_refused(folder, capsys, arguments, complaint):
    given = ["run", "--model", str(folder / "model"), "--corpus", str(folder / "corpus"), *arguments]
    assert main("evaluation", "", COMMANDS, given) == 2
    assert complaint in capsys.readouterr().err.splitlines()[-1]


def test_a_task_of_a_plugin_may_look_at_any_setting():
    class Own(Task):
        name = "own"

    assert Own.uses == ("split", "label")


def test_printed_settings_of_one_task_can_be_given_again(folder, tmp_path):
    arguments = ["--model", "m", "--corpus", "c", "--tasks", "imputation"]
    printed = yaml.safe_dump(read_settings(run_settings(arguments), arguments).resolved())
    (tmp_path / "run.yaml").write_text(printed)
    again = ["--config", str(tmp_path / "run.yaml")]
    assert read_settings(run_settings(again), again).tasks == ["imputation"]
