"""What a worker does, with everything real but Ray: corpus, engine, checkpoints and metrics, in this very process.

Whole runs through Ray are in test_pretrain_run.py; here a run takes a second or two, so that what happens around the
steps can be tried in many ways. With TEST_WITH_GPU=1 they run on a GPU, where there is one.
"""

import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
import torch
import torch.distributed as dist
from made_corpora import make_corpus

from dataprep.corpus import GRAPH_FILE, Corpus, GeneGraph
from dataprep.runtime.code_identity import code_fingerprint
from dataprep.runtime.command_line import UserError
from dataprep.runtime.lease import Holder, LeaseKey
from dataprep.runtime.process import Process
from dataprep.runtime.storage import Folder
from pretrain.artifacts.checkpoint import Checkpoint, CheckpointStore
from pretrain.artifacts.run_settings import RunIdentity
from pretrain.config import PriorSettings, RunSettings
from pretrain.data.stream import ProfileStream
from pretrain.data.window_reader import read_window
from pretrain.model.export_file import open_export
from pretrain.monitoring.metrics_file import read_rows
from pretrain.prior.command import fit_prior
from pretrain.training.job import TrainingJob
from pretrain.training.step import TrainingStep
from pretrain.training.worker import train

ON_GPU = os.environ.get("TEST_WITH_GPU") == "1" and torch.cuda.is_available()
PROFILES = 40
# of a step of 12 profiles, 4 at a time
PASSES = 3


class Coordinator:
    """Stands for the actor of the driver: keeps what is posted, and asks to stop after a step."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.lines: list[str] = []
        self._stop_after = stop_after
        self._asks_to_stop = False
        self._was_asked = threading.Event()
        self.post = SimpleNamespace(remote=self._post)
        self.stop_requested = SimpleNamespace(remote=self._answer)
        self.stopped_after: int | None = None
        self.stop_after = SimpleNamespace(remote=self._note_stop)

    def _note_stop(self, step: int) -> None:
        self.stopped_after = step

    def _post(self, kind: str, content: Any) -> None:
        if kind == "line":
            self.lines.append(content)
        elif "loss" in content and content["step"] + 1 == self._stop_after:
            self._asks_to_stop = True
            assert self._was_asked.wait(10)
            # until the one who asked has taken note of the answer
            time.sleep(0.1)

    def _answer(self) -> bool:
        answer = self._asks_to_stop
        if answer:
            self._was_asked.set()
        return answer


@pytest.fixture(scope="module")
def one_worker(tmp_path_factory) -> Iterator[None]:
    """A process group of this process alone."""
    store = tmp_path_factory.mktemp("group") / "store"
    threads = torch.get_num_threads()
    dist.init_process_group("nccl" if ON_GPU else "gloo", init_method=f"file://{store}", rank=0, world_size=1)
    yield
    torch.set_num_threads(threads)
    dist.destroy_process_group()


@pytest.fixture
def without_ray(one_worker, monkeypatch) -> None:
    """Answers what is asked of Ray, and reads windows in this process."""
    numbers = {"get_world_rank": 0, "get_world_size": 1, "get_local_world_size": 1, "get_node_rank": 0}
    context = SimpleNamespace(**{name: lambda number=number: number for name, number in numbers.items()})
    monkeypatch.setattr("ray.train.get_context", lambda: context)
    monkeypatch.setattr("ray.train.torch.get_device", lambda: torch.device("cuda" if ON_GPU else "cpu"))
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setattr("ray.train.get_preemption_info", lambda: None)
    monkeypatch.setattr("ray.get", lambda value, timeout=None: value)
    monkeypatch.setattr("pretrain.training.observers.notices.POLL_SECONDS", 0.01)
    # concerns the whole process, to its end
    monkeypatch.setattr("pretrain.training.worker.retain_freed_memory", lambda _: True)

    def read(stream: ProfileStream, windows) -> Iterator[pa.Table]:
        return (read_window(stream._folder, window) for window in windows)

    monkeypatch.setattr(ProfileStream, "_read", read)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def corpus(tmp_path) -> Corpus:
    return make_corpus(str(tmp_path / "corpus"), {"train": PROFILES, "validation": 10, "test": 0}, rows_per_shard=24)


@pytest.fixture
def start(without_ray, corpus, tmp_path):
    """Starts a run of 4 steps per epoch; returns its coordinator."""

    def start(name: str, coordinator: Coordinator | None = None, **changes: Any) -> Coordinator:
        base: dict[str, Any] = {
            "epochs": 2,
            "batch": {"global_profiles": 12, "micro_profiles": 4},
            "optimizer": {"learning_rate": 1e-3, "warmup_fraction": 0.5, "decay": "linear"},
            "data": {"shuffle_window_profiles": 16},
            "checkpoint": {"every_steps": 3},
            "model": {"redraw_every_steps": 3},
            "workers": {"threads_each": 1, "gpu": ON_GPU},
            "deterministic": ON_GPU,
        }
        settings = RunSettings(corpus=corpus.folder.uri, storage=str(tmp_path / "runs"), name=name, **(base | changes))
        coordinator = coordinator or Coordinator()
        lease = LeaseKey(Folder(settings.storage) / name, "lease.json", f"run {name}", "this driver")
        train(TrainingJob(settings, code_fingerprint(), coordinator, RunIdentity("a1"), lease))
        return coordinator

    return start


@pytest.fixture
def run_folder(tmp_path) -> Callable[[str], Folder]:
    return lambda name: Folder(str(tmp_path / "runs")) / name


def values(folder: Folder, metric: str) -> list[float]:
    return [row[metric] for row in read_rows(folder) if metric in row]


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="original"),
        pytest.param({"model": {"family": "latest"}, "mask": {"rate": 0.05, "highest_rate": 0.3}}, id="latest"),
        pytest.param({"model": {"prior": "ppca"}}, id="with a prior"),
    ],
)
def test_a_stopped_run_resumes_in_mid_epoch_and_repeats_the_uninterrupted_one_to_the_bit(
    start, run_folder, corpus, changes
):
    """Learning rate, masks, order, dropout, random features and moments are all in it, and validation."""
    if changes.get("model", {}).get("prior"):
        fit_prior(PriorSettings(corpus=corpus.folder.uri, ranks=[4], tuning_profiles=10))
    start("whole", **changes)
    stopped = start("stopped", Coordinator(stop_after=6), **changes)
    assert "stopped as asked after step 6, with a checkpoint" in stopped.lines
    assert stopped.stopped_after == 6
    assert len(values(run_folder("stopped"), "loss")) == 6
    resumed = start("stopped", **changes)
    assert "resuming from the checkpoint of step 6" in resumed.lines
    for metric in ("loss", "lr", "grad_norm", "validation_loss", "validation_pearson"):
        assert values(run_folder("stopped"), metric) == values(run_folder("whole"), metric), metric
    assert len(values(run_folder("whole"), "loss")) == 8


def test_random_features_of_the_latest_family_are_weights_that_no_step_changes(start, run_folder):
    names = []
    for family, fixed in (("latest", True), ("original", False)):
        start(
            family, model={"family": family, "redraw_every_steps": 1000 if fixed else 3}, checkpoint={"every_steps": 2}
        )
        store = CheckpointStore(run_folder(family) / "checkpoints")
        first, last = (store.read(step).weights for step in (store.steps()[0], 8))
        names += [name for name in first if name.endswith("projection_matrix")]
        assert all(torch.equal(first[name], last[name]) == fixed for name in names if name in first)
    assert len(names) == 4, "one layer each, under two names"


def test_steps_added_on_resume_follow_the_schedule_that_the_run_began_with(start, run_folder):
    start("extended", max_steps=6)
    lines = start("extended").lines
    rates = values(run_folder("extended"), "lr")
    assert rates[:3] == pytest.approx([1e-3 / 3, 2e-3 / 3, 1e-3])
    assert rates[6:] == pytest.approx([1e-4, 1e-4]), "what the decay of the first 6 steps ended at"
    assert "the learning rate keeps the schedule of 6 steps that the run began with" in lines


def test_each_step_that_was_best_when_it_was_validated_has_a_checkpoint(start, run_folder):
    start("best", validation={"every_steps": 2}, checkpoint={"every_steps": 100, "keep": 100})
    scores = {row["step"]: row["validation_loss"] for row in read_rows(run_folder("best")) if "validation_loss" in row}
    bests = [step for step in scores if scores[step] == min(loss for at, loss in scores.items() if at <= step)]
    store = CheckpointStore(run_folder("best") / "checkpoints")
    assert store.steps() == sorted({*bests, 8})
    assert store.read_state(8)["best"] == [bests[-1], scores[bests[-1]]]


def test_a_run_is_not_resumed_on_another_graph(start, corpus, run_folder):
    start("first", max_steps=3)
    graph = corpus.graph()
    replaced = GeneGraph(graph.source, graph.target, graph.weight / 2, graph.vocabulary_sha256)
    replaced.write(corpus.folder, GRAPH_FILE)
    with pytest.raises(UserError, match="has changed since run first was made from it: other gene graph"):
        start("first")
    assert CheckpointStore(run_folder("first") / "checkpoints").steps() == [3]


def test_a_checkpoint_that_names_no_graph_is_resumed(start, run_folder, monkeypatch):
    """As those of the first version."""
    monkeypatch.setattr("pretrain.artifacts.run_inputs.RECORDED_INPUTS", {"corpus": "corpus"})
    start("first", max_steps=3)
    assert "resuming from the checkpoint of step 3" in start("first").lines


def test_a_checkpoint_writer_that_dies_ends_the_run_at_the_next_step_with_its_message(start, run_folder, monkeypatch):
    def fail(*_: object) -> None:
        raise MemoryError("no room for step 3")

    monkeypatch.setattr(CheckpointStore, "write", fail)
    with pytest.raises(UserError, match="rank 0: checkpoint of step 3 not written: MemoryError: no room for step 3"):
        start("dying", epochs=5)
    assert len(values(run_folder("dying"), "loss")) < 20, "not only at the run's end"


@pytest.mark.parametrize("last", [OSError("no space left on device"), MemoryError("no room for step 8")])
def test_a_last_checkpoint_that_was_not_written_is_an_error_at_the_end(start, monkeypatch, last):
    write = CheckpointStore.write

    def fail_at_the_end(store: CheckpointStore, checkpoint: Checkpoint, *others: Any) -> None:
        if checkpoint.step == 8:
            raise last
        write(store, checkpoint, *others)

    monkeypatch.setattr(CheckpointStore, "write", fail_at_the_end)
    with pytest.raises(UserError, match=f"rank 0: checkpoint of step 8 not written: .*{last}"):
        start("unfinished")


@pytest.mark.parametrize(
    ("what", "explode"),
    [("loss", lambda loss_B: loss_B * torch.inf), ("gradient", lambda loss_B: loss_B + (loss_B - loss_B).sqrt())],
)
def test_what_is_not_finite_is_not_applied_and_names_its_step(start, run_folder, monkeypatch, what, explode):
    profile_losses = TrainingStep._profile_losses

    def explode_in_step_5(step: TrainingStep, micro, epoch):
        loss_B = profile_losses(step, micro, epoch)
        return explode(loss_B) if next(passes) >= 4 * PASSES else loss_B

    passes = itertools.count()
    monkeypatch.setattr(TrainingStep, "_profile_losses", explode_in_step_5)
    with pytest.raises(UserError, match=rf"step 5: the {what} of 12 profiles is not finite \(row_id "):
        start("exploding")
    assert CheckpointStore(run_folder("exploding") / "checkpoints").steps() == [3, 4]


def test_a_run_asked_to_stop_in_its_last_step_has_finished(start, run_folder):
    coordinator = start("late", Coordinator(stop_after=8))
    assert coordinator.stopped_after is None
    assert open_export(f"{run_folder('late').uri}/export").training["step"] == 8


TAKEN_OVER = "process 9 on new has taken over run taken: this one stops$"


def test_a_run_that_another_driver_has_taken_over_ends_and_leaves_everything_to_that_one(start, run_folder):
    """The other one comes while step 5 is shown; from then on nothing is written."""

    class Witness(Coordinator):
        def _post(self, kind: str, content: Any) -> None:
            if kind == "row" and content["step"] == 5:
                folder.write_bytes("lease.json", Holder("another", Process("new", 9)).to_bytes())

    folder = run_folder("taken")
    with pytest.raises(UserError, match=TAKEN_OVER):
        start("taken", Witness(), checkpoint={"every_steps": 6})
    assert [row["step"] for row in read_rows(folder) if row["step"] > 5] == []
    assert [step for step in CheckpointStore(folder / "checkpoints").steps() if step > 5] == []
    assert not folder.exists("export/config.json")
    with pytest.raises(UserError, match=TAKEN_OVER):
        start("taken")


def test_a_best_step_that_was_never_saved_is_forgotten_on_resume(start, run_folder):
    """As the first version could leave it: later steps would have to beat a score that nothing is left of."""
    start("unsaved", max_steps=4, checkpoint={"every_steps": 4})
    store = CheckpointStore(run_folder("unsaved") / "checkpoints")
    checkpoint = store.read(4)
    store.write(replace(checkpoint, state={**checkpoint.state, "best": [3, 0.0]}))
    start("unsaved")
    assert CheckpointStore(store.folder).read_state(8)["best"][0] in store.steps()
