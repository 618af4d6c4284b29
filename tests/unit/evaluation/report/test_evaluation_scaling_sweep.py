"""The grid of a sweep: what each point trains on and takes, and what is not trained again."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

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
from pretrain.config import RunSettings


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
    ],
)
def test_settings_that_cannot_be_meant_are_refused(settings, changes, said) -> None:
    with pytest.raises(ValidationError, match=said):
        settings(**changes)


def test_what_the_sweep_decides_cannot_be_shared_settings(settings, corpus, tmp_path) -> None:
    chosen = settings()
    for content, said in {
        "seed: 3": "seed is the sweep's to decide",
        "model: {size: 37M}": "model.size is the sweep's to decide",
        "optimizer: {rate: 1}": "optimizer.rate",
        "[1, 2]": "holds no settings",
    }.items():
        (tmp_path / "training.yaml").write_text(content)
        with pytest.raises(UserError, match=said):
            grid(chosen, shared_settings(chosen.training), corpus, {0.4: 40, 1.0: 100})


def test_finished_runs_are_read_and_the_others_trained_on_their_parts(settings, corpus, monkeypatch) -> None:
    trained: list[RunSettings] = []

    def train(runs: list[RunSettings], concurrency: int | None) -> None:
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

    monkeypatch.setattr(sweeping, "_train", train)
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


def test_a_part_of_another_corpus_is_not_taken_for_ones_own(settings, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(sweeping, "_train", lambda runs, concurrency: None)
    monkeypatch.setattr(sweeping, "_loss", lambda one: 0.5)
    sweeping.sweep(settings())
    other = make_corpus(str(tmp_path / "other"), seed=5)
    with pytest.raises(UserError, match="is a part of another corpus"):
        sweeping.sweep(settings(corpus=other.folder.uri))
