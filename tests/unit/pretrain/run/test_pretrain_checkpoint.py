"""A checkpoint exists when its marker does, and is what it was when it was written."""

import errno
import hashlib
import itertools
import json
import pickle
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dataprep.runtime.command_line import UserError, read_settings
from dataprep.runtime.lease import LeaseLostError
from dataprep.runtime.storage import Folder
from pretrain.artifacts.checkpoint import MARKER, OPTIMIZER, WEIGHTS, Checkpoint, CheckpointStore, CheckpointWriter
from pretrain.config import RunSettings


def make_checkpoint(step: int) -> Checkpoint:
    shared = torch.full((3,), float(step))
    return Checkpoint(
        weights={"a.weight": shared, "again.weight": shared},
        moments={"exp_avg.a.weight": torch.ones(3), "exp_avg_sq.a.weight": torch.ones(3)},
        accounting={"consumed": torch.zeros(2, dtype=torch.uint8)},
        state={"step": step, "best": None},
    )


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(Folder(str(tmp_path)))


def logged() -> tuple[list[str], object]:
    lines: list[str] = []
    return lines, lines.append


def test_what_is_read_is_what_was_written(store):
    store.write(make_checkpoint(7))
    read = store.read(7)
    assert read.step == 7
    assert {name: tensor.tolist() for name, tensor in read.weights.items()} == {
        "a.weight": [7.0] * 3,
        "again.weight": [7.0] * 3,
    }


def test_a_checkpoint_without_marker_is_none(store, tmp_path):
    store.write(make_checkpoint(1))
    store.write(make_checkpoint(2))
    (tmp_path / "step-00000002" / MARKER).unlink()
    assert store.steps() == [1]
    lines, log = logged()
    assert store.newest_good(log).step == 1
    assert lines == []


@pytest.mark.parametrize("name", [WEIGHTS, OPTIMIZER, "state.json", "accounting.safetensors"])
def test_a_flipped_bit_sends_the_run_back_to_the_checkpoint_before_and_is_logged(store, tmp_path, name):
    store.write(make_checkpoint(1))
    store.write(make_checkpoint(2))
    path = tmp_path / "step-00000002" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    lines, log = logged()
    assert store.newest_good(log).step == 1
    assert len(lines) == 1
    assert "PASSED OVER" in lines[0]
    assert name in lines[0]


def test_a_copy_under_the_name_of_a_later_step_is_none_and_counts_for_nothing(store, tmp_path):
    store.write(make_checkpoint(1))
    shutil.copytree(tmp_path / "step-00000001", tmp_path / "step-00000002")
    later = CheckpointStore(store.folder)
    lines, log = logged()
    assert later.newest_good(log).step == 1
    assert "step-00000002/state.json is that of step 1" in lines[0]
    CheckpointStore(store.folder).retain(1, None)
    assert later.read(1).step == 1


def test_a_run_whose_checkpoints_are_all_damaged_does_not_start_anew(store, tmp_path):
    store.write(make_checkpoint(1))
    (tmp_path / "step-00000001" / WEIGHTS).unlink()
    with pytest.raises(UserError, match=r"all 1 checkpoints in .* are damaged"):
        store.newest_good(lambda line: None)


def test_a_pickle_in_place_of_tensors_is_refused_and_runs_nothing(store, tmp_path):
    store.write(make_checkpoint(1))
    witness = tmp_path / "code-was-run"

    class Attack:
        def __reduce__(self):
            return (Path.touch, (witness,))

    place = tmp_path / "step-00000001"
    payload = pickle.dumps(Attack())
    (place / WEIGHTS).write_bytes(payload)
    # even with a marker that vouches for it
    marker = (place / MARKER).read_text()
    content = json.loads(marker)
    content["files"][WEIGHTS] = {"bytes": len(payload), "sha256": hashlib.sha256(payload).hexdigest()}
    (place / MARKER).write_text(json.dumps(content))
    with pytest.raises(UserError, match="damaged"):
        store.read(1)
    assert not witness.exists()


def test_the_newest_and_the_best_are_kept(store):
    for step in (1, 2, 3, 4, 5):
        store.write(make_checkpoint(step))
    store.retain(keep=2, best_step=2)
    assert store.steps() == [2, 4, 5]


def damage(store: CheckpointStore, step: int) -> None:
    (store.folder / f"step-{step:08d}").write_bytes(WEIGHTS, b"bit rot")


def good_steps(store: CheckpointStore) -> list[int]:
    fresh = CheckpointStore(store.folder)
    return [step for step in fresh.steps() if fresh.is_good(step)]


@pytest.mark.parametrize("keep", [1, 3])
def test_damaged_checkpoints_count_for_nothing_when_older_ones_are_deleted(store, keep):
    """Good is 100 alone. The run resumes from it, and its next checkpoints come before the damaged ones."""
    for step in (100, 200, 300, 400):
        store.write(make_checkpoint(step))
    for step in (200, 300, 400):
        damage(store, step)
    resumed = CheckpointStore(store.folder)
    assert resumed.newest_good(lambda line: None).step == 100
    for step in (120, 140, 160):
        resumed.write(make_checkpoint(step))
        resumed.retain(keep, best_step=None)
        assert good_steps(resumed)[-1] == step
    assert good_steps(resumed) == [120, 140, 160][-keep:]
    assert CheckpointStore(store.folder).newest_good(lambda line: None).step == 160


def test_the_last_good_checkpoint_stays_whatever_is_damaged_after_it(store):
    for step in (1, 2, 3, 4):
        store.write(make_checkpoint(step))
    for step in (2, 3, 4):
        damage(store, step)
    CheckpointStore(store.folder).retain(keep=1, best_step=3)
    assert store.steps() == [1, 2, 3, 4]


@pytest.mark.parametrize("number", [errno.EIO, errno.EISDIR])
def test_a_checkpoint_that_the_disk_cannot_read_is_damaged(store, monkeypatch, number):
    for step in (1, 2):
        store.write(make_checkpoint(step))
    read = Folder.read_bytes

    def unreadable(folder: Folder, name: str) -> bytes:
        if "step-00000002" in folder.uri and name == WEIGHTS:

            def fail() -> bytes:
                raise OSError(number, "no")

            return folder.attempt(fail)
        return read(folder, name)

    monkeypatch.setattr(Folder, "read_bytes", unreadable)
    lines, log = logged()
    assert CheckpointStore(store.folder).newest_good(log).step == 1
    assert len(lines) == 1


def test_an_outage_while_checkpoints_are_verified_deletes_nothing(store, monkeypatch):
    for step in (1, 2, 3):
        store.write(make_checkpoint(step))

    def unavailable(*_: object) -> str:
        raise UserError("the object store does not answer")

    monkeypatch.setattr(Folder, "sha256", unavailable)
    with pytest.raises(UserError, match="does not answer"):
        CheckpointStore(store.folder).retain(keep=1, best_step=None)
    assert store.steps() == [1, 2, 3]


def test_what_people_keep_beside_the_checkpoints_is_left_alone(store, tmp_path):
    for step in (1, 2):
        store.write(make_checkpoint(step))
    for name in ("step-00000001.keep", "step-1", "notes"):
        (tmp_path / name).mkdir()
        (tmp_path / name / MARKER).write_text("{}")
    assert store.steps() == [1, 2]
    store.retain(keep=1, best_step=None)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "notes",
        "step-00000001.keep",
        "step-00000002",
        "step-1",
    ]


def test_what_kills_have_left_half_written_is_cleared_away(store, tmp_path):
    for step in (1, 2, 3, 4):
        store.write(make_checkpoint(step))
    (tmp_path / "step-00000001" / MARKER).unlink()
    (tmp_path / "step-00000005").mkdir()
    store.retain(keep=2, best_step=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step-00000002",
        "step-00000003",
        "step-00000004",
        "step-00000005",
    ], "a later one may be in the writing"


def test_what_a_restart_relies_on_is_stored_before_the_marker(store):
    seen = []
    store.write(make_checkpoint(1), before_marker=lambda: seen.append(store.steps()))
    assert (seen, store.steps()) == ([[]], [1])


def test_a_marker_that_names_files_elsewhere_is_refused(store, tmp_path):
    store.write(make_checkpoint(1))
    marker = tmp_path / "step-00000001" / MARKER
    content = json.loads(marker.read_text())
    content["files"]["../../elsewhere"] = content["files"][WEIGHTS]
    marker.write_text(json.dumps(content))
    with pytest.raises(UserError, match="names other files than a checkpoint has"):
        store.read(1)


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/../../b", ""])
def test_no_name_leads_out_of_a_folder(tmp_path, name):
    with pytest.raises(ValueError, match="is not a name below the folder"):
        Folder(str(tmp_path)).read_bytes(name)
    with pytest.raises(ValueError, match="is not a name below the folder"):
        Folder(str(tmp_path)) / name


@pytest.mark.parametrize(
    "option", [["--name", "../elsewhere"], ["--name", "n/../../m"], ["--name", ".."], ["--name", "/n"]]
)
def test_a_run_is_named_within_its_storage(option):
    with pytest.raises(UserError, match="name: ") as caught:
        read_settings(RunSettings, ["--corpus", "c", "--storage", "s", *option])
    assert caught.value.exit_code == 2


def test_a_full_disk_costs_the_checkpoint_and_not_the_one_before(small_disk):
    store = CheckpointStore(Folder(str(small_disk)))
    lines, log = logged()
    writer = CheckpointWriter(store, 2, lambda: None, log)
    writer.submit(make_checkpoint(1), None)
    large = make_checkpoint(2)
    large = replace(large, weights={"a.weight": torch.zeros(2**19)})
    writer.submit(large, None)
    with pytest.raises(UserError, match=r"step 2 not written: .*No space left"):
        writer.close()
    assert store.steps() == [1]
    assert store.newest_good(log).step == 1
    assert any("training continues" in line for line in lines)
    assert not [path for path in small_disk.rglob("*") if path.name.endswith(".partial")], "nothing is left behind"


def test_a_checkpoint_that_cannot_be_written_is_logged_and_raised_at_the_end(tmp_path):
    (tmp_path / "blocked").write_text("a file where the folder should be")
    lines, log = logged()
    writer = CheckpointWriter(CheckpointStore(Folder(str(tmp_path / "blocked"))), 2, lambda: None, log)
    writer.submit(make_checkpoint(1), None)
    with pytest.raises(UserError, match="checkpoint of step 1 not written"):
        writer.close()
    assert "training continues" in lines[0]


def test_an_error_that_nobody_expected_ends_the_run_instead_of_blocking_it(store, monkeypatch):
    def out_of_memory(*_: object) -> None:
        raise MemoryError("no room for another copy")

    writer = CheckpointWriter(store, 2, lambda: None, logged()[1])
    monkeypatch.setattr(store, "write", out_of_memory)

    def go_on_for_ever() -> None:
        for step in itertools.count(500, 100):
            writer.submit(make_checkpoint(step), None)

    expected = "^checkpoint of step 500 not written: MemoryError: no room for another copy$"
    with pytest.raises(UserError, match=expected):
        go_on_for_ever()
    for ask in (writer.check, writer.close):
        with pytest.raises(UserError, match=expected):
            ask()


def test_a_best_checkpoint_that_could_not_be_written_does_not_cost_the_best_before_it(store, monkeypatch):
    lines, log = logged()
    writer = CheckpointWriter(store, 1, lambda: None, log)
    writer.submit(make_checkpoint(1), 1)
    writer.submit(make_checkpoint(2), 1)
    with monkeypatch.context() as patch:
        wait_until_idle(writer)

        def full(*_: object) -> None:
            raise OSError("No space left on device")

        patch.setattr(store, "write", full)
        writer.submit(make_checkpoint(3), 3)
        wait_until_idle(writer)
    writer.submit(make_checkpoint(4), 3)
    writer.close()
    assert store.steps() == [1, 4]
    assert len(lines) == 1


def wait_until_idle(writer: CheckpointWriter) -> None:
    give_up_at = time.monotonic() + 10
    while not writer.is_idle:
        assert time.monotonic() < give_up_at
        time.sleep(0.01)


def test_a_writer_whose_run_another_process_has_taken_over_touches_nothing(store):
    """Both are at the same step: the marker of the other one's checkpoint must stay."""
    store.write(make_checkpoint(5))

    def taken_over() -> None:
        raise LeaseLostError("process 9 on new has taken over run first: this one stops")

    writer = CheckpointWriter(CheckpointStore(store.folder), 1, lambda: None, logged()[1], taken_over)
    writer.submit(make_checkpoint(5), None)
    with pytest.raises(LeaseLostError, match=r"^process 9 on new has taken over run first"):
        writer.close()
    assert good_steps(store) == [5]


def test_a_checkpoint_that_was_being_written_when_the_run_was_taken_over_gets_no_marker(store):
    answers = iter([False, True])

    def require_lease() -> None:
        if next(answers):
            raise LeaseLostError("process 9 on new has taken over run first: this one stops")

    writer = CheckpointWriter(store, 1, lambda: None, logged()[1], require_lease)
    writer.submit(make_checkpoint(5), None)
    with pytest.raises(LeaseLostError):
        writer.close()
    assert store.steps() == []


def test_an_outage_in_which_nobody_can_say_who_has_the_run_costs_that_checkpoint_alone(store):
    answers = iter([UserError("the object store does not answer"), None, None])

    def require_lease() -> None:
        if answer := next(answers):
            raise answer

    lines, log = logged()
    writer = CheckpointWriter(store, 1, lambda: None, log, require_lease)
    writer.submit(make_checkpoint(5), None)
    writer.submit(make_checkpoint(6), None)
    writer.close()
    assert store.steps() == [6]
    assert lines == ["CHECKPOINT NOT WRITTEN at step 5: the object store does not answer; training continues"]
