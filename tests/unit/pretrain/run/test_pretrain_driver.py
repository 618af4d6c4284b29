"""What the driver of a run refuses before Ray is started, and what it tells afterwards."""

import json
import signal
import threading
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import torch
from made_corpora import grow, make_corpus, make_graph

from dataprep.corpus import Corpus, GeneGraph
from dataprep.runtime.command_line import UserError
from dataprep.runtime.lease import Holder, Lease, LeaseLostError
from dataprep.runtime.process import Process
from dataprep.runtime.storage import Folder
from pretrain.artifacts.checkpoint import Checkpoint, CheckpointStore
from pretrain.artifacts.run_inputs import keep_inputs, read_inputs
from pretrain.artifacts.run_settings import LEASE_FILE, SETTINGS_FILE, corpus_of_run, require_run_folder, store_settings
from pretrain.config import RunSettings
from pretrain.driver import progress
from pretrain.driver import run as driver
from pretrain.driver.progress import ProgressDisplay
from pretrain.driver.run import require_finished, run


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    return make_corpus(str(tmp_path / "corpus"))


@pytest.fixture
def settings(corpus: Corpus, tmp_path: Path) -> RunSettings:
    return RunSettings(corpus=corpus.folder.uri, storage=str(tmp_path / "runs"), name="first")


@pytest.fixture
def folder(settings: RunSettings) -> Folder:
    return Folder(settings.storage) / settings.name


@pytest.fixture(autouse=True)
def no_ray(monkeypatch) -> None:
    """Nothing here gets as far as to start Ray."""

    def started(*_: object, **__: object) -> None:
        raise AssertionError("Ray would be started")

    monkeypatch.setattr(driver, "connected", started)


def everything_in(place: Path) -> dict[str, bytes]:
    return {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*") if path.is_file()}


# ---- whose folder it is ----------------------------------------------------------------------------------------------


def test_a_folder_of_something_else_is_not_written_to(settings, folder):
    for name in ("README.md", "metrics.jsonl", "export/config.json"):
        folder.write_text(name, "mine")
    before = everything_in(Path(folder.path))
    with pytest.raises(
        UserError, match=r"is not empty and is not a run: it has README\.md, export, metrics\.jsonl, and no"
    ):
        run(settings)
    assert everything_in(Path(folder.path)) == before


@pytest.mark.parametrize("content", ['{"editor": "vi"}', "[]", "{", '"text"'])
def test_a_settings_file_of_something_else_is_not_written_over(settings, folder, content):
    folder.write_text(SETTINGS_FILE, content)
    with pytest.raises(UserError, match=r"settings\.json is damaged, or not the settings of a run"):
        run(settings)
    assert folder.read_text(SETTINGS_FILE) == content


def test_a_run_that_another_process_has_is_refused_and_left_as_it_is(settings, folder):
    with Lease(folder, LEASE_FILE, "run first"):
        folder.write_text(SETTINGS_FILE, json.dumps(settings.resolved()))
        before = everything_in(Path(folder.path))
        with pytest.raises(UserError, match=r"^run first is in the hands of process \d+ on .*: wait for that one"):
            run(settings)
        assert everything_in(Path(folder.path)).keys() == before.keys()
        assert folder.read_text(SETTINGS_FILE) == json.dumps(settings.resolved())


def test_what_a_start_that_was_killed_at_once_leaves_is_a_run(folder):
    folder.write_bytes(LEASE_FILE, Holder("gone", Process("elsewhere", 7)).to_bytes())
    require_run_folder(folder)


def work_until_taken_over(folder: Folder) -> None:
    with driver._lease(folder, "first"):
        folder.write_bytes(LEASE_FILE, Holder("another", Process("new", 9)).to_bytes())
        time.sleep(10)


def test_a_run_that_is_taken_over_is_interrupted_with_that_message(settings, folder, monkeypatch):
    monkeypatch.setattr(driver, "Lease", lambda *given: Lease(*given, heartbeat_seconds=0.05, silence_seconds=0.5))

    def as_ray_train_does(*_: object) -> None:
        raise SystemExit(0)

    before = signal.signal(signal.SIGINT, as_ray_train_does)
    try:
        with pytest.raises(LeaseLostError, match=r"^process 9 on new has taken over run first: this one stops$"):
            work_until_taken_over(folder)
        with pytest.raises(KeyboardInterrupt), driver._lease(folder, "second"):
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


# ---- which run it is -------------------------------------------------------------------------------------------------


def test_a_run_has_one_uid_from_its_first_start_on(settings, folder):
    first = store_settings(folder, settings)
    assert not first.begun_without_uid
    assert store_settings(folder, settings.model_copy(update={"max_steps": 5})) == first
    assert json.loads(folder.read_text(SETTINGS_FILE))["max_steps"] == 5
    folder.remove(SETTINGS_FILE)
    assert store_settings(folder, settings).uid != first.uid, "started anew it is another"


def test_a_run_of_the_first_version_is_remembered_as_such(settings, folder):
    folder.write_text(SETTINGS_FILE, json.dumps(settings.resolved()))
    identity = store_settings(folder, settings)
    assert identity.begun_without_uid
    assert store_settings(folder, settings) == identity


def test_a_run_of_the_first_version_may_have_stored_a_relative_address(settings, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder.write_text(SETTINGS_FILE, json.dumps(settings.resolved() | {"corpus": "corpus"}))
    assert store_settings(folder, settings).begun_without_uid


def test_other_settings_are_refused_and_the_old_ones_stay(settings, folder):
    store_settings(folder, settings)
    before = folder.read_text(SETTINGS_FILE)
    with pytest.raises(UserError, match=r"run first exists with other settings \(seed: 0 -> 1\)"):
        store_settings(folder, settings.model_copy(update={"seed": 1}))
    assert folder.read_text(SETTINGS_FILE) == before


# ---- what it was trained on ------------------------------------------------------------------------------------------


def trained(folder: Folder, corpus: Corpus, with_graph: bool) -> None:
    """Leave a checkpoint in the run's folder, as the first version did or as this one does."""
    state: dict[str, Any] = {
        "step": 5, "best": None, "corpus": corpus.fingerprint, "vocabulary_sha256": corpus.vocabulary.fingerprint,
        "model": {}, "settings": {"name": "first", "corpus": corpus.folder.uri},
    }  # fmt: skip
    if with_graph:
        state["graph_sha256"] = corpus.graph().fingerprint
    tensors = {"a": torch.zeros(1)}
    CheckpointStore(folder / "checkpoints").write(Checkpoint(tensors, tensors, tensors, state))


def test_a_run_does_not_resume_on_another_graph(settings, folder, corpus):
    store_settings(folder, settings)
    keep_inputs(folder, corpus)
    trained(folder, corpus, with_graph=True)
    before = read_inputs(folder)
    make_graph(corpus.vocabulary, neighbours=9).write(corpus.folder)
    with pytest.raises(UserError, match=r"has changed since run first .*: other gene graph .*; choose another"):
        run(settings)
    after = read_inputs(folder)
    assert before is not None
    assert after is not None
    assert after[1].fingerprint == before[1].fingerprint, "the run keeps its own"
    assert not folder.exists(LEASE_FILE)


@pytest.mark.parametrize("with_graph", [True, False])
def test_a_run_does_not_resume_on_a_corpus_that_was_rebuilt(settings, folder, corpus, with_graph):
    store_settings(folder, settings)
    trained(folder, corpus, with_graph)
    make_corpus(corpus.folder.uri, seed=1)
    with pytest.raises(UserError, match="has changed since run first was made from it: other profiles"):
        run(settings)
    assert read_inputs(folder) is None


def test_a_run_that_has_trained_nothing_yet_takes_the_corpus_as_it_is(settings, folder, corpus):
    keep_inputs(folder, corpus)
    make_graph(corpus.vocabulary, neighbours=9).write(corpus.folder)
    keep_inputs(folder, corpus)
    assert GeneGraph.read(folder).fingerprint == GeneGraph.read(corpus.folder).fingerprint


def test_a_damaged_copy_of_the_inputs_is_made_again(settings, folder, corpus):
    keep_inputs(folder, corpus)
    folder.write_bytes("gene_graph.parquet", b"bit rot")
    keep_inputs(folder, corpus)
    assert GeneGraph.read(folder).fingerprint == corpus.graph().fingerprint


# ---- what it tells ---------------------------------------------------------------------------------------------------


class Now:
    """The method of an actor whose answer is there at once."""

    def __init__(self, act: Any) -> None:
        self.remote = act


def ended(monkeypatch, fatal: tuple[str, int] | None, stopped_after: int | None) -> Any:
    monkeypatch.setattr(ray, "get", lambda answers, timeout=None: answers)
    return SimpleNamespace(fatal=Now(lambda: fatal), stopped_after=Now(lambda: stopped_after))


def test_a_run_that_had_finished_when_it_was_asked_to_stop_has_finished(monkeypatch):
    require_finished(ended(monkeypatch, None, None), "first")


def test_a_run_that_was_stopped_says_after_which_step(monkeypatch):
    with pytest.raises(UserError, match="run first was stopped by SIGTERM at step 12; the same command resumes"):
        require_finished(ended(monkeypatch, None, 12), "first")


def test_a_mistake_of_the_user_comes_first(monkeypatch):
    with pytest.raises(UserError, match=r"^the shard is damaged$") as caught:
        require_finished(ended(monkeypatch, ("the shard is damaged", 2), 12), "first")
    assert caught.value.exit_code == 2


def test_no_error_ends_the_display_which_also_passes_on_that_the_run_shall_stop(monkeypatch, capsys):
    monkeypatch.setattr(progress, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(ray, "get", lambda answers, timeout=None: answers)
    rows = [[("row", {"step": 1})], [("row", "no row")], [("line", "text [/with] :smile: [bold]markup")]]
    asked, unreachable = threading.Event(), iter([True, False])

    def request_stop() -> None:
        if next(unreachable):
            raise ray.exceptions.RayActorError
        asked.set()

    coordinator = SimpleNamespace(take=Now(lambda: rows.pop(0) if rows else []), request_stop=Now(request_stop))
    with ProgressDisplay(coordinator, 10) as display:
        time.sleep(0.2)
        display.ask_to_stop()
        assert asked.wait(5)
    shown = capsys.readouterr().err
    assert "text [/with] :smile: [bold]markup" in shown
    assert shown.count("progress is not shown in full") == 1
    assert "asked to stop" in shown


def test_a_run_stays_on_the_version_of_the_corpus_that_it_began_with(settings, folder):
    corpus = settings.corpus
    assert corpus_of_run(folder, corpus) == corpus
    store_settings(folder, settings.model_copy(update={"corpus": f"{corpus}@2"}))
    assert corpus_of_run(folder, corpus) == f"{corpus}@2"
    assert corpus_of_run(folder, f"{corpus}@3") == f"{corpus}@3"
    assert corpus_of_run(folder, f"{corpus}-other") == f"{corpus}-other"
    with pytest.raises(UserError, match=r"other settings \(corpus: .*corpus@2 -> .*corpus@3\)"):
        store_settings(folder, settings.model_copy(update={"corpus": f"{corpus}@3"}))


def test_workers_are_given_the_version_and_a_resumed_run_its_own(settings, folder, corpus, monkeypatch):
    given: list[str] = []
    monkeypatch.setattr(driver, "connected", lambda min_cpus: nullcontext())
    monkeypatch.setattr(driver, "_require_resources", lambda _: None)
    monkeypatch.setattr(driver, "start_coordinator", lambda: None)
    monkeypatch.setattr(driver, "_train", lambda job, _: given.append(job.settings.corpus))
    run(settings)
    grow(corpus)
    run(settings)
    run(settings.model_copy(update={"name": "second"}))
    assert given == [f"{settings.corpus}@1", f"{settings.corpus}@1", f"{settings.corpus}@2"]
    assert json.loads(folder.read_text(SETTINGS_FILE))["corpus"] == f"{settings.corpus}@1"
    with pytest.raises(UserError, match=r"corpus@1 -> .*corpus@2"):
        run(settings.model_copy(update={"corpus": f"{settings.corpus}@2"}))


def test_a_run_that_recorded_no_version_is_of_the_first(settings, folder):
    folder.write_text(SETTINGS_FILE, json.dumps(settings.resolved()))
    assert corpus_of_run(folder, settings.corpus) == f"{settings.corpus}@1"
