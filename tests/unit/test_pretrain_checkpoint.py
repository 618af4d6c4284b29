"""A checkpoint exists when its marker does, and is what it was when it was written."""

import hashlib
import json
import pickle
from pathlib import Path

import pytest
import torch

from dataprep.command_line import UserError
from dataprep.storage import Folder
from pretrain.checkpoint import MARKER, OPTIMIZER, WEIGHTS, Checkpoint, CheckpointStore, CheckpointWriter


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


def told() -> tuple[list[str], object]:
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
    lines, tell = told()
    assert store.newest_good(tell).step == 1
    assert lines == []


@pytest.mark.parametrize("name", [WEIGHTS, OPTIMIZER, "state.json", "accounting.safetensors"])
def test_a_flipped_bit_sends_the_run_back_to_the_checkpoint_before_and_is_told(store, tmp_path, name):
    store.write(make_checkpoint(1))
    store.write(make_checkpoint(2))
    path = tmp_path / "step-00000002" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    lines, tell = told()
    assert store.newest_good(tell).step == 1
    assert len(lines) == 1
    assert "PASSED OVER" in lines[0]
    assert name in lines[0]


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


def test_a_checkpoint_that_cannot_be_written_is_told_and_raised_at_the_end(tmp_path):
    (tmp_path / "blocked").write_text("a file where the folder should be")
    lines, tell = told()
    writer = CheckpointWriter(CheckpointStore(Folder(str(tmp_path / "blocked"))), 2, tell)
    writer.submit(make_checkpoint(1), None)
    with pytest.raises(UserError, match="checkpoint of step 1 not written"):
        writer.close()
    assert "training goes on" in lines[0]
