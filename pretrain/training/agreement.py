"""What the workers agree on once per optimizer step, in one small sum. W workers.

A worker must not act on something that the others do not know: they would wait for it in the next collective for ever.
So whatever comes from outside (a signal, a draining node) goes through rank 0 and this agreement, and so does the
failure of a background thread on any rank.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dataprep.runtime.command_line import UserError
from pretrain.training.ranks import Ranks


@dataclass(frozen=True)
class Requests:
    """What rank 0 asks of all ranks at the end of a step: to stop, to checkpoint, to ask Ray about draining nodes."""

    stop: bool = False
    checkpoint: bool = False
    ask_ray: bool = False

    def __or__(self, other: Requests) -> Requests:
        return Requests(self.stop or other.stop, self.checkpoint or other.checkpoint, self.ask_ray or other.ask_ray)


@dataclass(frozen=True)
class Agreed:
    """The same on all ranks. ``own_seconds`` W: what each took by itself, without waiting for others."""

    loss_sum: float
    profiles: int
    finite: bool
    failed: bool
    requests: Requests
    own_seconds: np.ndarray


def raise_failures(failure: UserError | None, ranks: Ranks) -> None:
    """Raise UserError on all ranks if any of them has failed, with what each that did had to say. All ranks call it."""
    of_ranks = ranks.gather(str(failure) if failure is not None else None)
    named = [f"rank {rank}: {message}" for rank, message in enumerate(of_ranks) if message is not None]
    if named:
        raise UserError("; ".join(named))


def agree(losses: Tensor, failed: bool, requests: Requests, own_seconds: float, ranks: Ranks) -> Agreed:
    """Sum over workers of each rank's part.

    ``losses``: of the rank's profiles; one that is not finite, or one rank that has ``failed``, is enough for all; only
    rank 0's ``requests`` count.
    """
    flags = (requests.stop, requests.checkpoint, requests.ask_ray) if ranks.is_first else (False, False, False)
    finite = bool(torch.isfinite(losses).all())
    values = torch.zeros(7 + ranks.count, dtype=torch.float64)
    values[0] = torch.nan_to_num(losses).double().sum()
    values[1:7] = torch.tensor([len(losses), not finite, failed, *flags], dtype=torch.float64)
    values[7 + ranks.rank] = own_seconds
    loss_sum, profiles, bad, failures, *rest = ranks.sum(values).tolist()
    return Agreed(loss_sum, int(profiles), bad == 0, failures > 0, Requests(*map(bool, rest[:3])), np.array(rest[3:]))
