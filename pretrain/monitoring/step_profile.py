"""A Chrome trace of a few training steps, on request."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch.profiler import profile

from dataprep.runtime.storage import Folder

# The first steps of a process allocate memory and compile; they say nothing about the others.
STEPS_BEFORE = 2


class StepProfile:
    """Records ``steps`` steps on rank 0 and leaves ``profile/step-N.json.gz`` in the run's folder."""

    def __init__(self, steps: int, folder: Folder, log: Callable[[str], None]) -> None:
        self._steps = steps
        self._folder = folder
        self._log = log
        self._seen = 0
        self._profiler: Any = None

    def step_begins(self) -> None:
        if self._steps and self._seen == STEPS_BEFORE:
            self._profiler = profile()
            self._profiler.start()

    def step_ended(self, step: int) -> None:
        """``step``: optimizer steps done."""
        self._seen += 1
        if self._profiler is not None and self._seen == STEPS_BEFORE + self._steps:
            self.close(step)

    def close(self, step: int) -> None:
        """Write what was recorded; also when the run ends before all wanted steps were."""
        if self._profiler is None:
            return
        recorded, self._profiler = self._profiler, None
        recorded.stop()
        name = f"profile/step-{step:08d}.json.gz"
        with tempfile.TemporaryDirectory() as local:
            trace = Path(local) / "trace.json.gz"
            recorded.export_chrome_trace(str(trace))
            self._folder.upload(trace, name)
        self._log(f"profile: {self._folder.uri}/{name} (open it in chrome://tracing or ui.perfetto.dev)")
