"""How often to write checkpoints, and what losses of machines cost.

With C the seconds that a checkpoint takes from training, M the mean seconds between losses and R the seconds of a
restart: the interval that loses least is sqrt(2 C M) to first order (Young 1974, CACM 17(9), A first order
approximation to the optimum checkpoint interval), and its refinement and the expected time of a run are those of Daly
2006, Future Generation Computer Systems 22(3), A higher order estimate of the optimum checkpoint interval for restart
dumps. Losses are taken to be independent, and equally likely at all times.
"""

from __future__ import annotations

import math


def best_interval(checkpoint_seconds: float, between_losses: float) -> float:
    """Seconds of training between two checkpoints that lose the least time; infinite where nothing is ever lost."""
    if math.isinf(between_losses):
        return math.inf
    if checkpoint_seconds >= 2 * between_losses:
        return between_losses
    half = checkpoint_seconds / (2 * between_losses)
    return (
        math.sqrt(2 * checkpoint_seconds * between_losses) * (1 + math.sqrt(half) / 3 + half / 9) - checkpoint_seconds
    )


def expected_seconds(
    training_seconds: float, interval: float, checkpoint_seconds: float, between_losses: float, restart_seconds: float
) -> float:
    """Expected time of a run that trains for ``training_seconds``, with checkpoints, losses and restarts (Daly)."""
    if math.isinf(between_losses):
        checkpoints = 0 if math.isinf(interval) else training_seconds / interval
        return training_seconds + checkpoints * checkpoint_seconds
    segment = min(interval, training_seconds) + checkpoint_seconds
    # per loss-free segment; exp overflows where no segment can be expected to end
    if segment / between_losses > 700:
        return math.inf
    repeats = math.expm1(segment / between_losses) * math.exp(restart_seconds / between_losses)
    return between_losses * repeats * training_seconds / min(interval, training_seconds)
