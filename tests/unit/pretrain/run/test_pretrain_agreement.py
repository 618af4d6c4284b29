"""What workers agree on once a step."""

from dataclasses import dataclass, field

import numpy as np
import torch

from pretrain.monitoring.throughput import SLOW_STEPS, SlowWorkerWatch
from pretrain.training.agreement import Agreed, Requests, agree
from pretrain.training.ranks import Ranks


@dataclass(frozen=True)
class RanksInOneProcess(Ranks):
    """Keeps what a rank gives; ``total`` is what it gets back."""

    given: list[torch.Tensor] = field(default_factory=list)
    total: torch.Tensor | None = None

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        self.given.append(values)
        return values if self.total is None else self.total


def agreement_of(
    losses: list[list[float]],
    requests: list[Requests],
    seconds: list[float],
    failed: list[bool] | None = None,
) -> Agreed:
    """The agreement of several ranks, whose sum is taken here: what the last of them gets."""
    given: list[torch.Tensor] = []
    failed = failed or [False] * len(losses)

    def part_of(rank: int, total: torch.Tensor | None) -> Agreed:
        ranks = RanksInOneProcess(rank, len(losses), torch.device("cpu"), given, total)
        return agree(torch.tensor(losses[rank]), failed[rank], requests[rank], seconds[rank], ranks)

    for rank in range(len(losses)):
        part_of(rank, None)
    return part_of(len(losses) - 1, torch.stack(given).sum(dim=0))


def test_losses_profiles_and_seconds_of_all_ranks_arrive():
    agreed = agreement_of([[1.0, 2.0], [4.0], []], [Requests()] * 3, [0.1, 0.2, 0.3])
    assert (agreed.loss_sum, agreed.profiles, agreed.finite) == (7.0, 3, True)
    assert agreed.requests == Requests()
    np.testing.assert_allclose(agreed.own_seconds, [0.1, 0.2, 0.3])


def test_one_rank_that_is_not_finite_is_enough():
    assert not agreement_of([[1.0], [float("nan")]], [Requests()] * 2, [0, 0]).finite


def test_one_rank_that_has_failed_is_enough():
    quiet = ([[1.0], [1.0]], [Requests()] * 2, [0, 0])
    assert not agreement_of(*quiet).failed
    assert agreement_of(*quiet, failed=[True, False]).failed
    assert agreement_of(*quiet, failed=[False, True]).failed


def test_only_rank_0_has_requests():
    wanted = Requests(stop=True, checkpoint=False, ask_ray=True)
    assert agreement_of([[1.0], [1.0]], [wanted, Requests()], [0, 0]).requests == wanted
    assert agreement_of([[1.0], [1.0]], [Requests(), wanted], [0, 0]).requests == Requests()


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
