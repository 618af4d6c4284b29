"""The grid of a sweep: what each point trains on and takes, and what is not trained again."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import mlflow
import pandas as pd
import pytest
from made_corpora import make_corpus
from pydantic import ValidationError

from dataprep.corpus import Corpus
from dataprep.runtime.command_line import UserError
from dataprep.runtime.storage import Folder
from evaluation.config import ScalingSweepSettings
from evaluation.scaling import sweep as sweeping
from evaluation.scaling.grid import grid, grid_table, shared_settings
from evaluation.scaling.points import read_points
from evaluation.scaling.trials import runs_at_once
from pretrain.config import RunSettings
from pretrain.driver.run import needed_cpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return make_corpus(str(tmp_path_factory.mktemp("sweep") / "corpus"))


@pytest.fixture
def settings(corpus: Corpus, tmp_path: Path) -> Callable[..., ScalingSweepSettings]:
    def made(**changes: Any) -> ScalingSweepSettings:
        shared = tmp_path / "training.yaml"
        shared.write_text("batch: {global_profiles: 16, micro_profiles: 8}\nmodel: {dim: 16, heads: 4}\n")
        given = {
            "corpus": corpus.folder.uri,
            "output": str(tmp_path / "out"),
            "sizes": ["tiny", "37M"],
            "fractions": [0.4, 1.0],
            "training": str(shared),
            "budget_steps": 20,
        }
        return ScalingSweepSettings(**given | changes)

    return made


def test_a_budget_of_flops_gives_larger_models_fewer_steps(settings, corpus, tmp_path) -> None:
    (tmp_path / "wide.yaml").write_text("dim: 64\nperformer_layers: 2\nheads: 4\nblocks: 1\n")
    shared = tmp_path / "batch.yaml"
    shared.write_text("batch: {global_profiles: 16, micro_profiles: 8}\n")
    chosen = settings(
        sizes=["tiny", str(tmp_path / "wide.yaml")], budget_steps=None, budget_flops=1e10, training=str(shared)
    )
    points = grid(chosen, shared_settings(chosen.training), corpus, {0.4: 40, 1.0: 100})
    assert [(point.name, point.profiles) for point in points] == [
        ("tiny-0.4-seed0", 40),
        ("tiny-1-seed0", 100),
        ("wide-0.4-seed0", 40),
        ("wide-1-seed0", 100),
    ]
    tiny, wide = points[0], points[2]
    assert wide.parameters > tiny.parameters
    assert wide.steps < tiny.steps
    table = grid_table(points, teraflops_per_second=1e-6, hourly_cost=3.0)
    assert "wide-0.4-seed0" in table
    assert "cost" in table


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"budget_profiles": 100}, "not budget_steps and budget_profiles"),
        ({"budget_steps": None}, "give one of budget_steps"),
        ({"fractions": [0.5, 0.5]}, "names one twice"),
        ({"fractions": [1.5]}, "1.5 is not over 0 and up to 1"),
        ({"hourly_cost": 2.0}, "hourly_cost"),
        ({"learning_rates": [0.001, 10]}, "10 is not over 0 and under 1"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(settings, changes, said) -> None:
    with pytest.raises(ValidationError, match=said):
        settings(**changes)


def test_what_the_sweep_decides_cannot_be_shared_settings(settings, corpus, tmp_path) -> None:
    chosen = settings()
    for content, said in {
        "seed: 3": "seed is the sweep's to decide",
        "tracking: {experiment: mine}": "tracking.experiment is the sweep's to decide",
        "tracking: 3": "holds no settings",
        "model: {size: 37M}": "model.size is the sweep's to decide",
        "optimizer: {rate: 1}": "optimizer.rate",
        "[1, 2]": "holds no settings",
    }.items():
        (tmp_path / "training.yaml").write_text(content)
        with pytest.raises(UserError, match=said):
            grid(chosen, shared_settings(chosen.training), corpus, {0.4: 40, 1.0: 100})


def test_finished_runs_are_read_and_the_others_trained_on_their_parts(settings, corpus, monkeypatch) -> None:
    trained: list[RunSettings] = []

    def train(runs: list[RunSettings], concurrency: int | None, ended: Callable[[str], None]) -> None:
        for one in runs:
            if one.seed == 1 and one.model.size == "tiny" and not trained:
                continue
            trained.append(one)
            folder = Folder(one.storage) / one.name
            (folder / "export").write_text("config.json", "{}")
            loss = 0.5 if one.model.size == "tiny" else 0.4
            folder.write_text(
                "metrics.jsonl",
                f'{{"step": 1, "validation_loss": {loss}}}\n{{"step": 2, "validation_loss": {loss + 0.1}}}\n',
            )

    monkeypatch.setattr(sweeping, "train", train)
    chosen = settings()
    result = sweeping.sweep(chosen)
    assert len(trained) == 4
    assert {one.corpus.rsplit("/", 1)[1] for one in trained} == {"0.4", "1"}
    assert all(one.max_steps == 20 and one.validation.every_steps == 2 for one in trained)
    # the smallest of a run's validation losses
    points = read_points(result["table"])
    assert points.loss.tolist() == [0.5, 0.5, 0.4, 0.4]
    assert points.profiles is not None
    assert points.profiles.tolist() == [40, 100, 40, 100]
    # again: nothing is trained; more seeds: only those
    sweeping.sweep(chosen)
    assert len(trained) == 4
    sweeping.sweep(settings(seeds=[0, 1]))
    assert sorted((one.model.size, one.seed) for one in trained[4:]) == [
        ("37M", 1),
        ("37M", 1),
        ("tiny", 1),
        ("tiny", 1),
    ]
    assert len(pd.read_csv(result["table"])) == 8


class Trained:
    """In place of Ray Tune: notes the runs and gives each a loss, lowest at a learning rate of the size's own."""

    BEST: ClassVar = {"tiny": 0.01, "37M": 0.001}

    def __init__(self) -> None:
        self.runs: list[RunSettings] = []

    def __call__(self, runs: list[RunSettings], concurrency: int | None, ended: Callable[[str], None]) -> None:
        for one in runs:
            self.runs.append(one)
            folder = Folder(one.storage) / one.name
            (folder / "export").write_text("config.json", "{}")
            loss = 0.5 + abs(one.optimizer.learning_rate - self.BEST[one.model.size])
            folder.write_text("metrics.jsonl", f'{{"step": 1, "validation_loss": {loss}}}\n')
            ended(one.name)


def test_each_size_gets_the_learning_rate_that_was_best_on_its_largest_share(settings, monkeypatch, capsys) -> None:
    trained = Trained()
    monkeypatch.setattr(sweeping, "train", trained)
    chosen = settings(seeds=[0, 1], learning_rates=[0.001, 0.003, 0.01])
    dry = sweeping.sweep(chosen.model_copy(update={"dry_run": True}))
    result = sweeping.sweep(chosen)
    table = pd.read_csv(result["table"])
    assert dict(zip(table["size"], table["learning_rate"], strict=True)) == Trained.BEST
    assert len(table) == dry["points"] == 8
    # six to choose from, whose two best are points, and six more points
    assert len(trained.runs) == dry["runs"] == 12
    assert {(one.seed, one.corpus.rsplit("/", 1)[1]) for one in trained.runs[:6]} == {(0, "1")}
    said = capsys.readouterr().err
    assert "tiny: learning rate 0.01, validation loss 0.5000; it is the largest tried" in said
    # again: nothing is left to train
    sweeping.sweep(chosen)
    assert len(trained.runs) == 12


def test_two_answers_for_the_learning_rate_are_refused(settings, tmp_path) -> None:
    (tmp_path / "both.yaml").write_text("optimizer: {learning_rate: 0.1}")
    with pytest.raises(UserError, match=r"optimizer\.learning_rate is that of --learning-rates"):
        sweeping.sweep(settings(learning_rates=[0.001], training=str(tmp_path / "both.yaml")))


@pytest.fixture
def mlflow_database(tmp_path, monkeypatch) -> str:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    # where files of runs go without a server
    monkeypatch.chdir(tmp_path)
    return "scaling"


def test_the_points_are_runs_under_that_of_the_sweep_which_says_how_many_are_trained(
    settings, monkeypatch, mlflow_database
) -> None:
    trained = Trained()

    def killed(runs: list[RunSettings], *rest: Any) -> None:
        trained(runs[:1], *rest)
        raise KeyboardInterrupt

    monkeypatch.setattr(sweeping, "train", killed)
    with pytest.raises(KeyboardInterrupt):
        sweeping.sweep(settings())
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name(mlflow_database).experiment_id
    (run,) = client.search_runs([experiment])
    assert (run.info.status, run.data.metrics["runs/trained"]) == ("KILLED", 1)
    monkeypatch.setattr(sweeping, "train", trained)
    result = sweeping.sweep(settings())
    (run,) = client.search_runs([experiment])
    assert (run.info.status, run.data.metrics["runs/trained"]) == ("FINISHED", 4)
    assert {one.tracking.parent_run for one in trained.runs} == {run.info.run_id} == {result["mlflow_run_id"]}
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["points.csv"]


def test_a_server_that_is_away_costs_a_line_and_no_sweep(settings, monkeypatch, capsys) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    trained = Trained()
    monkeypatch.setattr(sweeping, "train", trained)
    assert sweeping.sweep(settings())["mlflow_run_id"] is None
    assert {one.tracking.parent_run for one in trained.runs} == {None}
    assert capsys.readouterr().err.count("MLflow ") == 1


@pytest.mark.parametrize(
    ("have", "workers", "at_once"),
    [
        ({"CPU": 8.0}, {"count": 2}, 2),
        ({"CPU": 2.0}, {"count": 2}, 1),
        ({"CPU": 64.0, "GPU": 6.0}, {"count": 2, "gpu": True}, 3),
    ],
)
def test_as_many_runs_train_at_a_time_as_the_cluster_holds(have, workers, at_once) -> None:
    one = RunSettings(corpus="/c", storage="/s", name="n", workers=workers)
    assert runs_at_once(one, needed_cpus(one), have) == at_once


def test_a_part_of_another_corpus_is_not_taken_for_ones_own(settings, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(sweeping, "train", lambda runs, concurrency, ended: None)
    monkeypatch.setattr(sweeping, "_loss", lambda one: 0.5)
    sweeping.sweep(settings())
    other = make_corpus(str(tmp_path / "other"), seed=5)
    with pytest.raises(UserError, match="is a part of another corpus"):
        sweeping.sweep(settings(corpus=other.folder.uri))
