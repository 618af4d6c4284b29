"""What happens around the steps of training, and what ends a run on all ranks at once."""

import threading
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from dataprep.runtime.command_line import UserError
from pretrain.artifacts.checkpoint import Checkpoint
from pretrain.data.stream import MicroBatch, StepBatch
from pretrain.training.agreement import Agreed, Requests
from pretrain.training.observers.checkpoints import Checkpoints
from pretrain.training.observers.metrics import Metrics
from pretrain.training.observers.notices import NodeNotices
from pretrain.training.observers.observer import DoneStep, Observer
from pretrain.training.observers.validation import ValidationScores
from pretrain.training.ranks import Ranks
from pretrain.training.step import TrainingStep
from pretrain.training.validation import ValidationScore

ONE_RANK = Ranks(0, 1, torch.device("cpu"))


def done(step: int, last_of_epoch: bool = False, is_last: bool = False, requests: Requests | None = None) -> DoneStep:
    micro = MicroBatch(torch.tensor([7, 3]), torch.zeros(2, 4), 2, np.empty(0, np.int64))
    batch = StepBatch(0, step - 1, 2, (micro,), last_of_epoch)
    return DoneStep(
        step, batch, {"step": step}, Agreed(1.0, 2, True, False, requests or Requests(), np.zeros(1)), is_last
    )


def test_what_happens_every_n_steps_also_happens_after_the_last():
    assert [step for step in range(1, 8) if done(step, is_last=step == 7).is_due(3)] == [3, 6, 7]
    assert done(4, last_of_epoch=True).is_due(0)
    assert not done(4).is_due(0)
    assert not done(4, last_of_epoch=True).is_due(3)


class _Scores:
    """A validation with known losses."""

    def __init__(self, losses: list[float]) -> None:
        self._losses = iter(losses)

    def score(self, *_: Any) -> ValidationScore:
        return ValidationScore(next(self._losses), 0.5)


def test_the_best_step_is_the_one_with_the_lowest_validation_loss_since_the_beginning():
    rows: list[dict[str, Any]] = []
    metrics: Any = SimpleNamespace(write=rows.append)
    scores = ValidationScores(_Scores([0.9, 0.4, 0.6]), None, None, ONE_RANK, 2, metrics, best=(1, 0.8))  # type: ignore[arg-type]
    bests = []
    for step in range(2, 8):
        scores.after_step(done(step))
        bests.append(scores.best_step)
    assert bests == [1, 1, 4, 4, 4, 4]
    assert [(row["step"], row["validation_loss"]) for row in rows] == [(2, 0.9), (4, 0.4), (6, 0.6)]


def test_with_a_split_in_distribution_the_best_step_is_by_the_mean_of_both_losses():
    rows: list[dict[str, float]] = []
    metrics: Any = SimpleNamespace(write=rows.append)
    apart, inside = _Scores([0.5, 0.6]), _Scores([0.5, 0.2])
    scores = ValidationScores(apart, inside, None, ONE_RANK, 1, metrics, best=None)  # type: ignore[arg-type]
    for step in (1, 2):
        scores.after_step(done(step))
    assert scores.best == (2, pytest.approx(0.4))
    assert [(row["validation_loss"], row["in_distribution_loss"]) for row in rows] == [(0.5, 0.5), (0.6, 0.2)]


def test_a_run_that_stops_does_not_validate_first():
    scores = ValidationScores(_Scores([]), None, None, ONE_RANK, 1, None, best=None)  # type: ignore[arg-type]
    scores.after_step(done(1, requests=Requests(stop=True)))
    assert scores.best is None


class _Writer:
    """Takes checkpoints as the real one does."""

    is_idle = True

    def __init__(self) -> None:
        self.submitted: list[tuple[int, int | None]] = []

    def submit(self, checkpoint: Checkpoint, best_step: int | None) -> None:
        self.submitted.append((checkpoint.step, best_step))

    def check(self) -> None:
        raise UserError("checkpoint of step 8 not written: MemoryError: ")


@pytest.fixture
def written(monkeypatch) -> tuple[Checkpoints, SimpleNamespace, _Writer]:
    """Checkpoints of every third step, the scores that they ask for the best one, and their writer."""
    for name in ("gather_weights", "gather_moments"):
        monkeypatch.setattr(f"pretrain.training.observers.checkpoints.{name}", lambda _: {})
    scores, writer = SimpleNamespace(best=None, best_step=None), _Writer()
    position = SimpleNamespace(step=0, to_state=lambda: ({}, {}))
    progress = SimpleNamespace(confirmed=lambda: position)
    checkpoints = Checkpoints(writer, None, progress, scores, 3, lambda: False, {})  # type: ignore[arg-type]
    scores.position = position
    return checkpoints, scores, writer


def test_a_new_best_is_saved_when_it_is_found(written):
    checkpoints, scores, writer = written
    for step in range(1, 8):
        if step == 4:
            scores.best = (4, 0.5)
            scores.best_step = 4
        scores.position.step = step
        checkpoints.after_step(done(step, is_last=step == 7))
    assert writer.submitted == [(3, None), (4, 4), (6, 4), (7, 4)]


def test_a_run_that_is_asked_to_stop_is_saved_first(written):
    checkpoints, scores, writer = written
    scores.position.step = 1
    checkpoints.after_step(done(1, requests=Requests(stop=True)))
    assert writer.submitted == [(1, None)]


def test_a_writer_that_died_is_heard_of(written):
    with pytest.raises(UserError, match="step 8 not written: MemoryError"):
        written[0].check()


def test_metrics_that_are_no_longer_stored_end_the_run():
    def check() -> None:
        raise UserError("thread metrics-file failed: MemoryError: ")

    with pytest.raises(UserError, match="metrics-file failed"):
        Metrics(SimpleNamespace(check=check), None, 1).check()  # type: ignore[arg-type]
    Metrics(None, None, 1).check()


def test_ray_is_asked_about_nodes_only_where_all_ranks_agreed_to_ask(monkeypatch):
    asked = []
    notice = SimpleNamespace(preempted_node_ids=["a"], preempted_ranks=[1], deadline_ms=0)
    monkeypatch.setattr("ray.train.get_preemption_info", lambda: asked.append(1) or notice)
    lines: list[str] = []
    nodes = NodeNotices(lines.append)
    nodes.after_step(done(1))
    assert not asked
    assert not nodes.node_is_draining()
    for step in (2, 3):
        nodes.after_step(done(step, requests=Requests(ask_ray=True)))
    assert nodes.node_is_draining()
    assert lines == ["NODE DRAINING: rank 1 is lost soon; until then, one checkpoint follows another"]


def test_a_failed_background_thread_ends_the_step_on_every_rank_with_its_message(monkeypatch):
    """Two ranks as threads: rank 1's thread died, and rank 0 must not wait for it in the next step."""
    barrier = threading.Barrier(2)
    parts: dict[int, Any] = {}

    class ThreadRanks(Ranks):
        def gather(self, item: Any) -> list[Any]:
            parts[self.rank] = item
            barrier.wait(5)
            items = [parts[0], parts[1]]
            barrier.wait(5)
            return items

        def sum(self, values: torch.Tensor) -> torch.Tensor:
            return torch.stack(self.gather(values)).sum(dim=0)

    applied: list[int] = []
    engine = SimpleNamespace(backward=lambda _: None, module=None)
    clock = SimpleNamespace(working=lambda: threading.Lock(), own_seconds=lambda: 0.0)
    monkeypatch.setattr("pretrain.training.step.set_learning_rate", lambda *_: None)
    monkeypatch.setattr("pretrain.training.step.apply_step", lambda _: applied.append(1))
    monkeypatch.setattr("pretrain.training.step.accumulating", lambda _: nullcontext())
    monkeypatch.setattr(TrainingStep, "_profile_losses", lambda *_: torch.ones(2))
    settings = SimpleNamespace(
        seed=0,
        model=SimpleNamespace(redraw_every_steps=0),
        optimizer=SimpleNamespace(learning_rate_at=lambda *_: 0.1),
    )
    raised: dict[int, str] = {}

    def work(rank: int, failure: UserError | None) -> None:
        step = TrainingStep(settings, engine, ThreadRanks(rank, 2, torch.device("cpu")), clock, 10)  # type: ignore[arg-type]
        try:
            step.take(done(1).batch, 0, Requests(), failure)
        except UserError as error:
            raised[rank] = str(error)

    threads = [
        threading.Thread(target=work, args=(0, None)),
        threading.Thread(target=work, args=(1, UserError("thread checkpoint-writer failed: MemoryError: "))),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    message = "rank 1: thread checkpoint-writer failed: MemoryError: "
    assert raised == {0: message, 1: message}
    assert not applied


def test_an_observer_does_nothing_unless_it_says_otherwise():
    observer = Observer()
    observer.before_step()
    observer.after_step(done(1))
    observer.check()
    observer.close()
    assert observer.requests() == Requests()


def test_requests_add_up():
    assert Requests(stop=True) | Requests(checkpoint=True) == Requests(stop=True, checkpoint=True)
