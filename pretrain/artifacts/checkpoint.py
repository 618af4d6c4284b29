"""Checkpoints: universal, free of pickles, there only when their marker is.

    RUN/checkpoints/step-00000100/weights.safetensors     model, released names, fp32
                                  optimizer.safetensors   AdamW's moments by parameter name, fp32
                                  accounting.safetensors  profiles consumed of the running epoch, one bit each
                                  state.json              position, plan, validation loss
                                  complete.json           size and SHA-256 of every file; written last

Nothing in it depends on the ZeRO stage, the number of workers or the precision of the run that wrote it. The learning
rate, masks, random features and dropout follow from seed and step, so there is no random state to keep.
"""

from __future__ import annotations

import hashlib
import json
import queue
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from dataprep.runtime.command_line import UserError
from dataprep.runtime.storage import Folder

FORMAT_VERSION = 1
MARKER = "complete.json"
WEIGHTS = "weights.safetensors"
OPTIMIZER = "optimizer.safetensors"
ACCOUNTING = "accounting.safetensors"
STATE = "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run after ``state["step"]`` optimizer steps; tensors on the CPU."""

    weights: Mapping[str, Tensor]
    moments: Mapping[str, Tensor]
    accounting: Mapping[str, Tensor]
    state: Mapping[str, Any]

    @property
    def step(self) -> int:
        return int(self.state["step"])


class DamagedCheckpointError(UserError):
    """A checkpoint with a marker whose files do not match it."""


class CheckpointStore:
    """The checkpoints of one run."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, oldest first."""
        names = {path.partition("/")[0] for path in self.folder.files() if path.endswith(f"/{MARKER}")}
        return sorted(int(name.removeprefix("step-")) for name in names if name.startswith("step-"))

    def write(self, checkpoint: Checkpoint, before_marker: Callable[[], None] = lambda: None) -> None:
        """Write all files, then the marker. What an interrupted attempt at the same step left is replaced.

        ``before_marker`` stores what a run that goes on from this checkpoint will rely on.
        """
        place = self._place(checkpoint.step)
        place.remove(MARKER)
        state = {"format_version": FORMAT_VERSION, **checkpoint.state}
        contents = {
            WEIGHTS: lambda: save_tensors(_unshared(checkpoint.weights)),
            OPTIMIZER: lambda: save_tensors(dict(checkpoint.moments)),
            ACCOUNTING: lambda: save_tensors(dict(checkpoint.accounting)),
            STATE: lambda: (json.dumps(state, indent=1) + "\n").encode(),
        }
        files = {}
        for name, make in contents.items():
            content = make()  # one file in memory at a time
            place.write_bytes(name, content)
            files[name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        before_marker()
        place.write_text(MARKER, json.dumps({"format_version": FORMAT_VERSION, "files": files}, indent=1) + "\n")

    def read(self, step: int) -> Checkpoint:
        """Read and verify. Raises DamagedCheckpointError where a file is missing or is not what the marker says."""
        place = self._place(step)
        try:
            marker = json.loads(place.read_bytes(MARKER))
            files = marker["files"]
            if set(files) != {WEIGHTS, OPTIMIZER, ACCOUNTING, STATE}:
                raise DamagedCheckpointError(f"{place.uri}/{MARKER} names other files than a checkpoint has")
            contents = {name: _verified(place, name, files[name]) for name in (WEIGHTS, OPTIMIZER, ACCOUNTING)}
            state = json.loads(_verified(place, STATE, files[STATE]))
            tensors = {name: load_tensors(content) for name, content in contents.items()}
        except (FileNotFoundError, KeyError, TypeError, ValueError, SafetensorError) as error:
            if isinstance(error, UserError):
                raise
            raise DamagedCheckpointError(f"{place.uri} is damaged: {' '.join(str(error).split())}") from None
        return Checkpoint(tensors[WEIGHTS], tensors[OPTIMIZER], tensors[ACCOUNTING], state)

    def read_state(self, step: int) -> dict[str, Any]:
        """``state.json`` alone, without the tensors."""
        return dict(json.loads(self._place(step).read_bytes(STATE)))

    def newest_good(self, tell: Callable[[str], None]) -> Checkpoint | None:
        """The newest checkpoint that verifies; ``tell`` hears of every damaged one passed over.

        Raises UserError where there are checkpoints but none of them is good: to start anew would lose the run.
        """
        steps = self.steps()
        for step in reversed(steps):
            try:
                return self.read(step)
            except DamagedCheckpointError as error:
                tell(f"CHECKPOINT PASSED OVER: {error}; going back to an older one")
        if steps:
            raise UserError(f"all {len(steps)} checkpoints in {self.folder.uri} are damaged; remove them to start anew")
        return None

    def retain(self, keep: int, best_step: int | None) -> None:
        """Delete all checkpoints but the newest ``keep`` and the best, and what kills have left half-written."""
        complete = self.steps()
        begun = [name for name in self.folder.children() if name.startswith("step-")]
        kept = {_name(step) for step in [*complete[-keep:], best_step] if step is not None}
        for name in begun:
            if name not in kept and complete and name < _name(complete[-1]):
                # the marker first: a half-deleted checkpoint must not be chosen
                (self.folder / name).remove(MARKER)
                self.folder.remove(name)

    def _place(self, step: int) -> Folder:
        return self.folder / _name(step)


class CheckpointWriter:
    """Writes checkpoints in a thread, one after the other, while training goes on.

    A checkpoint that cannot be written is reported through ``tell`` and training goes on; :meth:`close` raises if the
    last one failed.
    """

    def __init__(
        self, store: CheckpointStore, keep: int, before_marker: Callable[[], None], tell: Callable[[str], None]
    ) -> None:
        self._store = store
        self._keep = keep
        self._before_marker = before_marker
        self._tell = tell
        self._failure: UserError | None = None
        # one being written, one waiting: more would hold more copies of the model in memory
        self._waiting: queue.Queue[tuple[Checkpoint, int | None] | None] = queue.Queue(1)
        self._thread = threading.Thread(target=self._work, name="checkpoint-writer", daemon=True)
        self._thread.start()

    def submit(self, checkpoint: Checkpoint, best_step: int | None) -> None:
        """Hand a checkpoint over; returns at once unless two are already under way."""
        self._waiting.put((checkpoint, best_step))

    @property
    def is_idle(self) -> bool:
        """Whether all that was submitted has been dealt with."""
        return self._waiting.unfinished_tasks == 0

    def close(self) -> None:
        """Wait for what was submitted. Raises UserError if the last checkpoint could not be written."""
        self._waiting.put(None)
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def _work(self) -> None:
        while (item := self._waiting.get()) is not None:
            checkpoint, best_step = item
            try:
                self._store.write(checkpoint, self._before_marker)
                self._store.retain(self._keep, best_step)
                self._failure = None
            except (UserError, OSError) as error:
                self._failure = UserError(f"checkpoint of step {checkpoint.step} not written: {error}")
                self._tell(f"CHECKPOINT NOT WRITTEN at step {checkpoint.step}: {error}; training goes on")
            finally:
                self._waiting.task_done()


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _verified(place: Folder, name: str, expected: Mapping[str, Any]) -> bytes:
    content = place.read_bytes(name)
    if len(content) != expected["bytes"] or hashlib.sha256(content).hexdigest() != expected["sha256"]:
        raise DamagedCheckpointError(f"{place.uri}/{name} is not what its marker says ({len(content)} bytes)")
    return content


def _unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies where several names share one storage (performer-pytorch registers its layers twice)."""
    seen: set[int] = set()
    copies = {}
    for name, tensor in tensors.items():
        shared = tensor.data_ptr() in seen
        seen.add(tensor.data_ptr())
        copies[name] = tensor.clone() if shared else tensor
    return copies
