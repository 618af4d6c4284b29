"""What the driver hands to the workers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dataprep.runtime.storage import Folder
from pretrain.config import RunSettings
from pretrain.data.plan import steps_in


@dataclass(frozen=True)
class TrainingJob:
    """What the driver hands to every worker."""

    settings: RunSettings
    code_fingerprint: str
    board: Any

    @property
    def folder(self) -> Folder:
        """The run's folder, for a worker: patient with a store that is away."""
        settings = self.settings
        return Folder(settings.storage, settings.data.outage_patience_seconds) / settings.name


def total_steps(settings: RunSettings, profiles: int) -> int:
    """Optimizer steps of a whole run over ``profiles`` of the train split."""
    steps = settings.epochs * steps_in(profiles, settings.batch.global_profiles)
    return steps if settings.max_steps is None else min(steps, settings.max_steps)
