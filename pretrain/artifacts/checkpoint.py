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

import errno
import hashlib
import json
import queue
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from dataprep.runtime.background import BackgroundThread
from dataprep.runtime.command_line import UserError, one_line
from dataprep.runtime.lease import LeaseLostError
from dataprep.runtime.storage import Folder

FORMAT_VERSION = 1
MARKER = "complete.json"
WEIGHTS = "weights.safetensors"
OPTIMIZER = "optimizer.safetensors"
ACCOUNTING = "accounting.safetensors"
STATE = "state.json"
_FILES = {WEIGHTS, OPTIMIZER, ACCOUNTING, STATE}
_NAME = re.compile(r"step-(\d{8,})")
_CHECK_EVERY_SECONDS = 1.0


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
    """The checkpoints of one run.

    It remembers which of them this process has written, read or verified, so that each is verified once.
    """

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self._found_good: dict[int, bool] = {}

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, oldest first; damaged ones are among them."""
        paths = (path.split("/") for path in self.folder.files())
        steps = (_step_of(path[0]) for path in paths if path[1:] == [MARKER])
        return sorted(step for step in steps if step is not None)

    def write(self, checkpoint: Checkpoint, before_marker: Callable[[], None] = lambda: None) -> None:
        """Write all files, then the marker. What an interrupted attempt at the same step left is replaced.

        ``before_marker`` stores what a run that resumes from this checkpoint will rely on.
        """
        place = self._place(checkpoint.step)
        self._found_good.pop(checkpoint.step, None)
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
        self._found_good[checkpoint.step] = True

    def read(self, step: int) -> Checkpoint:
        """Read and verify. Raises DamagedCheckpointError where a file is missing or is not what the marker says."""
        place = self._place(step)
        with self._verifying(step):
            files = _marked_files(place)
            contents = {name: _verified(place, name, files[name]) for name in (WEIGHTS, OPTIMIZER, ACCOUNTING)}
            state = _verified_state(place, step, files)
            tensors = {name: load_tensors(content) for name, content in contents.items()}
        return Checkpoint(tensors[WEIGHTS], tensors[OPTIMIZER], tensors[ACCOUNTING], state)

    def read_state(self, step: int) -> dict[str, Any]:
        """``state.json`` alone, verified. Raises DamagedCheckpointError."""
        place = self._place(step)
        with self._verifying(step, wholly=False):
            return _verified_state(place, step, _marked_files(place))

    def is_good(self, step: int) -> bool:
        """Whether all files are what the marker says; those of earlier processes are read for that, in pieces."""
        if step not in self._found_good:
            try:
                self._verify(step)
            except DamagedCheckpointError:
                return False
        return self._found_good[step]

    def newest_good(self, log: Callable[[str], None]) -> Checkpoint | None:
        """The newest checkpoint that verifies; ``log`` is told of every damaged one passed over.

        Raises UserError where there are checkpoints but none of them is good: to start anew would lose the run.
        """
        steps = self.steps()
        for step in reversed(steps):
            try:
                return self.read(step)
            except DamagedCheckpointError as error:
                log(f"CHECKPOINT PASSED OVER: {error}; going back to an older one")
        if steps:
            raise UserError(f"all {len(steps)} checkpoints in {self.folder.uri} are damaged; remove them to start anew")
        return None

    def retain(self, keep: int, best_step: int | None) -> None:
        """Keep the newest ``keep`` good checkpoints, and the best; delete older ones and what kills left half-written.

        A damaged checkpoint counts for nothing, so the last good one always stays.
        """
        complete = self.steps()
        good = list(islice(filter(self.is_good, reversed(complete)), keep))
        if not good:
            return
        kept = {*good}
        if best_step in complete and self.is_good(best_step):
            kept.add(best_step)
        for name in self.folder.children():
            step = _step_of(name)
            if step is not None and step not in kept and step < good[0]:
                # the marker first: a half-deleted checkpoint must not be chosen
                (self.folder / name).remove(MARKER)
                self.folder.remove(name)
                self._found_good.pop(step, None)

    def _verify(self, step: int) -> None:
        place = self._place(step)
        with self._verifying(step):
            files = _marked_files(place)
            for name, expected in files.items():
                _require_checksum(place, name, _checksum(place, name), expected)
            _verified_state(place, step, files)

    @contextmanager
    def _verifying(self, step: int, wholly: bool = True) -> Iterator[None]:
        """Turn whatever says that a file is not what was written into DamagedCheckpointError, and remember it."""
        try:
            yield
        except Exception as error:
            if not _says_damaged(error):
                raise
            self._found_good[step] = False
            if isinstance(error, DamagedCheckpointError):
                raise
            raise DamagedCheckpointError(f"{self._place(step).uri} is damaged: {one_line(error)}") from None
        if wholly:
            self._found_good[step] = True

    def _place(self, step: int) -> Folder:
        return self.folder / _name(step)


class CheckpointWriter:
    """Writes checkpoints in a thread, one after the other, while training continues.

    A checkpoint that the store does not take is reported through ``log`` and training continues; :meth:`close` raises
    if that was the last one. Any other error ends the run: :meth:`check` and the next :meth:`submit` raise it.
    """

    def __init__(
        self,
        store: CheckpointStore,
        keep: int,
        before_marker: Callable[[], None],
        log: Callable[[str], None],
        require_lease: Callable[[], None] = lambda: None,
    ) -> None:
        """``require_lease`` raises LeaseLostError where another process has the run: nothing is written then."""
        self._require_lease = require_lease
        self._store = store
        self._keep = keep
        self._before_marker = before_marker
        self._log = log
        self._not_written: UserError | None = None
        self._best_kept: int | None = None
        # one being written, one waiting: more would hold more copies of the model in memory
        self._waiting: queue.Queue[tuple[Checkpoint, int | None] | None] = queue.Queue(1)
        self._thread = BackgroundThread(self._work, "checkpoint-writer")

    def submit(self, checkpoint: Checkpoint, best_step: int | None) -> None:
        """Hand a checkpoint over; returns at once unless two are already under way. Raises what the thread died of."""
        self._put((checkpoint, best_step))

    @property
    def is_idle(self) -> bool:
        """Whether all that was submitted has been dealt with."""
        return self._waiting.unfinished_tasks == 0

    def check(self) -> None:
        """Raise UserError if checkpoints are no longer written because of an error that nobody expected."""
        self._thread.check()

    def close(self) -> None:
        """Wait for what was submitted. Raises UserError if the last checkpoint could not be written."""
        self._put(None)
        self._thread.join()
        if self._not_written is not None:
            raise self._not_written

    def _put(self, item: tuple[Checkpoint, int | None] | None) -> None:
        """Wait for a free place, but not for a thread that has died."""
        while True:
            self._thread.check()
            try:
                self._waiting.put(item, timeout=_CHECK_EVERY_SECONDS)
            except queue.Full:
                continue
            return

    def _work(self) -> None:
        while (item := self._waiting.get()) is not None:
            checkpoint, best_step = item
            try:
                self._write(checkpoint, best_step)
            except LeaseLostError:
                raise
            except Exception as error:
                reason = f"{type(error).__name__}: {one_line(error)}"
                raise UserError(f"checkpoint of step {checkpoint.step} not written: {reason}") from error
            finally:
                self._waiting.task_done()

    def _write(self, checkpoint: Checkpoint, best_step: int | None) -> None:
        try:
            self._require_lease()
            self._store.write(checkpoint, self._confirm)
        except LeaseLostError:
            raise
        except (UserError, OSError) as error:
            self._not_written = UserError(f"checkpoint of step {checkpoint.step} not written: {error}")
            self._log(f"CHECKPOINT NOT WRITTEN at step {checkpoint.step}: {error}; training continues")
            return
        self._not_written = None
        try:
            # a new best that could not be written does not cost the one before
            if self._best_kept is None or best_step in self._store.steps():
                self._best_kept = best_step
            self._store.retain(self._keep, self._best_kept)
        except (UserError, OSError) as error:
            self._log(f"older checkpoints not deleted yet, which is tried again after the next one: {error}")

    def _confirm(self) -> None:
        """Called when all files of a checkpoint are there, and only its marker is not."""
        self._before_marker()
        self._require_lease()


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _step_of(name: str) -> int | None:
    """The step that a folder is the checkpoint of; None for whatever else people keep beside them."""
    found = _NAME.fullmatch(name)
    return int(found[1]) if found and _name(int(found[1])) == name else None


def _marked_files(place: Folder) -> Mapping[str, Any]:
    """Size and SHA-256 of each file, as the marker has them."""
    files = json.loads(place.read_bytes(MARKER))["files"]
    if set(files) != _FILES:
        raise DamagedCheckpointError(f"{place.uri}/{MARKER} names other files than a checkpoint has")
    return dict(files)


def _verified(place: Folder, name: str, expected: Mapping[str, Any]) -> bytes:
    content = place.read_bytes(name)
    _require_checksum(place, name, hashlib.sha256(content).hexdigest(), expected)
    return content


def _verified_state(place: Folder, step: int, files: Mapping[str, Any]) -> dict[str, Any]:
    """``state.json``, which is of the step that its folder is named after, unless somebody has copied it there."""
    state = json.loads(_verified(place, STATE, files[STATE]))
    if not isinstance(state, dict) or state.get("step") != step:
        of = state.get("step") if isinstance(state, dict) else type(state).__name__
        raise DamagedCheckpointError(f"{place.uri}/{STATE} is that of step {of!r}")
    if state.get("format_version") != FORMAT_VERSION:
        raise DamagedCheckpointError(
            f"{place.uri}/{STATE} has format {state.get('format_version')!r}, not {FORMAT_VERSION}"
        )
    return state


def _require_checksum(place: Folder, name: str, found: str, expected: Mapping[str, Any]) -> None:
    if found != expected["sha256"]:
        raise DamagedCheckpointError(
            f"{place.uri}/{name} is not what its marker says ({place.size_bytes(name)} bytes of {expected['bytes']})"
        )


def _checksum(place: Folder, name: str) -> str:
    # reading a large file in pieces can meet an outage half-way
    return place.attempt(lambda: place.sha256(name))


def _says_damaged(error: Exception) -> bool:
    """Whether an error while reading is about the files; that a store does not answer says nothing about them."""
    if isinstance(error, UserError):
        # Folder makes one line of a disk's errors
        return isinstance(error, DamagedCheckpointError) or _is_unreadable(error.__context__)
    absent = isinstance(error, FileNotFoundError | NotADirectoryError)
    return absent or isinstance(error, KeyError | TypeError | ValueError | SafetensorError)


def _is_unreadable(error: BaseException | None) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.EIO, errno.EISDIR)


def _unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies where several names share one storage (performer-pytorch registers its layers twice)."""
    seen: set[int] = set()
    copies = {}
    for name, tensor in tensors.items():
        shared = tensor.data_ptr() in seen
        seen.add(tensor.data_ptr())
        copies[name] = tensor.clone() if shared else tensor
    return copies
