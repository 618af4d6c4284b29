"""Figures beside their bounds: printed by the benchmarks that have any, which end with 1 where one is broken."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Bound:
    """A figure that has to be ``least`` at the least, or ``most`` at the most."""

    name: str
    figure: float
    least: float | None = None
    most: float | None = None

    @property
    def holds(self) -> bool:
        """NaN holds no bound."""
        return (self.least is None or self.figure >= self.least) and (self.most is None or self.figure <= self.most)

    def __str__(self) -> str:
        limits = [
            f"at {word} {limit:g}" for word, limit in (("least", self.least), ("most", self.most)) if limit is not None
        ]
        return f"{'held  ' if self.holds else 'BROKEN'}  {self.name}: {self.figure:.3g} ({', '.join(limits)})"


def end_with(bounds: Sequence[Bound]) -> None:
    """Print each figure beside its bound, and end the process with 1 where one is broken."""
    for bound in bounds:
        print(bound)
    if not all(bound.holds for bound in bounds):
        sys.exit(1)
