"""The trace of a few steps that was asked for."""

from __future__ import annotations

from pretrain.monitoring.step_profile import StepProfile
from pretrain.training.observers.observer import DoneStep, Observer


class Profile(Observer):
    """Records a trace of steps on rank 0."""

    def __init__(self, profile: StepProfile, first_step: int) -> None:
        self._profile = profile
        self._steps_done = first_step

    def before_step(self) -> None:
        self._profile.step_begins()

    def after_step(self, done: DoneStep) -> None:
        self._steps_done = done.step
        self._profile.step_ended(done.step)

    def close(self) -> None:
        self._profile.close(self._steps_done)
