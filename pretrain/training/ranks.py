"""The workers of a run and what they can do together. Every rank must call each method, in the same order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Ranks:
    """This worker's ``rank`` among ``count``, and the ``device`` that it computes on."""

    rank: int
    count: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which alone writes and speaks."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all ranks, on the CPU."""
        values = values.to(self.device)
        dist.all_reduce(values)
        return values.cpu()

    def gather(self, item: Any) -> list[Any]:
        """The items of all ranks, in their order."""
        items: list[Any] = [None] * self.count
        dist.all_gather_object(items, item)
        return items

    def from_first(self, item: Any) -> Any:
        """Rank 0's item."""
        items = [item]
        dist.broadcast_object_list(items)
        return items[0]
