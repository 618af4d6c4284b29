"""Rates of a CPU by kinds of work, and the seconds of a pass that follow from a trace.

On a CPU no operation runs beside another, so a pass takes what its operations take together. A product takes time for
its FLOPs and time for its bytes, any other operation time for its bytes at a rate of its own (an exponential is slower
than a sum), and each launch some time, however small it is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import NamedTuple

import numpy as np
from scipy.optimize import nnls

from pretrain.planning.trace import Work

# Launches that move less than this take the time of a launch and hardly more.
_SMALL_BYTES = 16_384


class TimedWork(NamedTuple):
    """A launch with the seconds that it took."""

    work: Work
    seconds: float


class ProductRate(NamedTuple):
    """Seconds for each FLOP of a product and for each byte that it moves."""

    per_flop: float
    per_byte: float


@dataclass(frozen=True)
class CpuRates:
    """Seconds of work on one worker's cores.

    - ``launch``: of a launch, beside what its size takes.
    - ``products``: of products whose operands are narrower than fp32 (True) or not.
    - ``per_byte``: of each other operation by its name, and of any that is not among them (``per_other_byte``).
    - ``optimizer_bandwidth``: bytes per second of the optimizer.
    """

    launch: float
    products: Mapping[bool, ProductRate]
    per_byte: Mapping[str, float]
    per_other_byte: float
    optimizer_bandwidth: float

    def pass_seconds(self, work: Iterable[Work]) -> float:
        """Seconds of a forward and a backward pass."""
        return sum(self._seconds(launch) for launch in work)

    def matched(self, work: Sequence[Work], seconds: float) -> CpuRates:
        """The rates that give ``seconds`` for a pass which took that long.

        What they are short of is the time of launches (of Python between operations); where they give too much, all of
        them are too slow.
        """
        estimated = self.pass_seconds(work)
        if estimated <= seconds:
            return replace(self, launch=self.launch + (seconds - estimated) / len(work))
        scale = seconds / estimated
        return replace(
            self,
            launch=scale * self.launch,
            products={narrow: ProductRate(*(scale * part for part in rate)) for narrow, rate in self.products.items()},
            per_byte={name: scale * rate for name, rate in self.per_byte.items()},
            per_other_byte=scale * self.per_other_byte,
        )

    def product(self, narrow: bool) -> ProductRate:
        """The rate of products; the other kind's where none of this kind was measured."""
        return self.products.get(narrow) or next(iter(self.products.values()))

    def _seconds(self, launch: Work) -> float:
        if launch.flops:
            rate = self.product(launch.narrow)
            return self.launch + launch.flops * rate.per_flop + launch.bytes * rate.per_byte
        return self.launch + launch.bytes * self.per_byte.get(launch.operation, self.per_other_byte)


def fitted_rates(timed: Sequence[TimedWork], optimizer_bandwidth: float) -> CpuRates:
    """The rates that explain the times of launches best."""
    launch = median(each.seconds for each in timed if each.work.bytes < _SMALL_BYTES)
    products: dict[bool, list[TimedWork]] = defaultdict(list)
    others: dict[str, list[TimedWork]] = defaultdict(list)
    for each in timed:
        if each.work.flops:
            products[each.work.narrow].append(each)
        else:
            others[each.work.operation].append(each)
    return CpuRates(
        launch=launch,
        products={narrow: _product_rate(of_kind, launch) for narrow, of_kind in products.items()},
        per_byte={name: _per_byte(of_name, launch) for name, of_name in others.items()},
        per_other_byte=_per_byte([each for of_name in others.values() for each in of_name], launch),
        optimizer_bandwidth=optimizer_bandwidth,
    )


def _product_rate(timed: Sequence[TimedWork], launch: float) -> ProductRate:
    sizes = np.array([(each.work.flops, each.work.bytes) for each in timed])
    seconds = np.array([max(0.0, each.seconds - launch) for each in timed])
    scale = sizes.max(axis=0)
    found, _ = nnls(sizes / scale, seconds)
    per_flop, per_byte = found / scale
    return ProductRate(float(per_flop), float(per_byte))


def _per_byte(timed: Sequence[TimedWork], launch: float) -> float:
    seconds = sum(max(0.0, each.seconds - launch) for each in timed)
    return seconds / max(1.0, sum(each.work.bytes for each in timed))
