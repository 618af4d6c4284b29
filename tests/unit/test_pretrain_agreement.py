"""What workers tell one another once a step."""

import numpy as np
import torch

from pretrain.monitoring.throughput import SLOW_STEPS, SlowWorkerWatch
from pretrain.training.agreement import Wishes, agree


def told(losses: list[list[float]], finite: list[bool], wishes: list[Wishes], seconds: list[float]):
    """The agreement of several ranks, whose sum is taken here: what rank 0 gets."""
    parts: list[torch.Tensor] = []

    def keep(values: torch.Tensor) -> torch.Tensor:
        parts.append(values)
        return values

    ranks = range(len(losses))
    for rank in ranks:
        agree(torch.tensor(losses[rank]), finite[rank], wishes[rank], seconds[rank], rank, len(ranks), keep)
    total = torch.stack(parts).sum(dim=0)
    return agree(torch.tensor(losses[0]), finite[0], wishes[0], seconds[0], 0, len(ranks), lambda _: total)


def test_losses_profiles_and_seconds_of_all_ranks_arrive():
    agreed = told([[1.0, 2.0], [4.0], []], [True] * 3, [Wishes()] * 3, [0.1, 0.2, 0.3])
    assert (agreed.loss_sum, agreed.profiles, agreed.finite) == (7.0, 3, True)
    assert agreed.wishes == Wishes()
    np.testing.assert_allclose(agreed.own_seconds, [0.1, 0.2, 0.3])


def test_one_rank_that_is_not_finite_is_enough():
    assert not told([[1.0], [float("nan")]], [True, True], [Wishes()] * 2, [0, 0]).finite
    assert not told([[1.0], [2.0]], [True, False], [Wishes()] * 2, [0, 0]).finite


def test_only_rank_0_has_wishes():
    wanted = Wishes(stop=True, checkpoint=False, ask_ray=True)
    assert told([[1.0], [1.0]], [True] * 2, [wanted, Wishes()], [0, 0]).wishes == wanted
    assert told([[1.0], [1.0]], [True] * 2, [Wishes(), wanted], [0, 0]).wishes == Wishes()


def test_a_worker_that_stays_slow_is_named_once():
    lines: list[str] = []
    watch = SlowWorkerWatch(lines.append)
    for _ in range(2 * SLOW_STEPS):
        metrics = watch.look(np.array([1.0, 1.1, 2.2, 0.9]))
    assert metrics == {"slowest_rank": 2, "slowest_ratio": 2.2}
    assert len(lines) == 1
    assert "rank 2 has taken 2.2 times as long" in lines[0]


def test_a_worker_that_is_slow_now_and_then_is_not_named():
    lines: list[str] = []
    watch = SlowWorkerWatch(lines.append)
    for step in range(5 * SLOW_STEPS):
        watch.look(np.array([1.0, 3.0 if step % 3 else 1.0]))
    assert lines == []
    assert SlowWorkerWatch(lines.append).look(np.array([1.0])) == {}, "one worker waits for nobody"
