"""What a check is: something measured at each place of a cluster, and what is said of it.

A place is a node or a GPU. ``measure`` runs there, ``judge`` where the command runs, with all measurements at hand, so
that places can be compared with each other and with the driver.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Generic, Literal, TypeVar

from cluster.config import CheckSettings
from dataprep.runtime.command_line import one_line

M = TypeVar("M")
Outcome = Literal["ok", "failed", "not applicable"]
_NAMED_PLACES = 3


@dataclass(frozen=True)
class Unmeasured:
    """Why there is no measurement."""

    reason: str


@dataclass(frozen=True)
class Judgement:
    """What a check says of one place. Of several that are ok, the one of least ``goodness`` is shown."""

    outcome: Outcome
    value: str
    advice: str = ""
    goodness: float = 0.0


@dataclass(frozen=True)
class Check(Generic[M]):
    """One check.

    ``measure`` takes the settings and may raise anything, which counts as a failure at that place, with ``advice``.
    With ``compares_with_driver``, the driver is measured, too, and ``judge`` gets that as its second argument.
    """

    name: str
    measure: Callable[[CheckSettings], M]
    judge: Callable[[Mapping[str, M], M | None, CheckSettings], Mapping[str, Judgement]]
    advice: str
    compares_with_driver: bool = False


@dataclass(frozen=True)
class Verdict:
    """A line of the table: what a check says of the cluster."""

    check: str
    outcome: Outcome
    value: str
    advice: str
    places: Mapping[str, Judgement]

    def row(self) -> dict[str, Any]:
        """As ``--json`` prints it."""
        return asdict(self)


def ok(value: str, goodness: float = 0.0) -> Judgement:
    return Judgement("ok", value, goodness=goodness)


def failed(value: str, advice: str) -> Judgement:
    return Judgement("failed", value, advice)


def not_applicable(value: str) -> Judgement:
    return Judgement("not applicable", value)


def measured_here(check: Check[M], settings: CheckSettings) -> M | Unmeasured:
    """The measurement at this place; whatever is raised, one line of it."""
    try:
        return check.measure(settings)
    except Exception as error:  # noqa: BLE001 - a check that breaks is a finding, and the others go on
        return Unmeasured(one_line(error))


def verdict_on(
    check: Check[M], found: Mapping[str, M | Unmeasured], driver: M | Unmeasured | None, settings: CheckSettings
) -> Verdict:
    """Judge what was found at all places."""
    if isinstance(driver, Unmeasured):
        return verdict(check.name, {"driver": failed(driver.reason, check.advice)})
    measured = {place: content for place, content in found.items() if not isinstance(content, Unmeasured)}
    judgements = {
        place: failed(content.reason, check.advice)
        for place, content in found.items()
        if isinstance(content, Unmeasured)
    }
    return verdict(check.name, judgements | dict(check.judge(measured, driver, settings)))


def verdict(name: str, judgements: Mapping[str, Judgement]) -> Verdict:
    """One line out of what is said of all places: failed if one place is, with the places and values that are."""
    places = dict(judgements) or {"cluster": not_applicable("no node to look at")}
    bad = {place: judgement for place, judgement in places.items() if judgement.outcome == "failed"}
    if bad:
        first = next(iter(bad.values()))
        return Verdict(name, "failed", _listed(bad, len(places)), first.advice, places)
    good = {place: judgement for place, judgement in places.items() if judgement.outcome == "ok"}
    if not good:
        return Verdict(name, "not applicable", next(iter(places.values())).value, "", places)
    worst = min(good, key=lambda place: good[place].goodness)
    same = len({judgement.value for judgement in good.values()}) == 1
    value = good[worst].value if same else f"{good[worst].value} (the least of {len(good)}: {worst})"
    return Verdict(name, "ok", value, "", places)


def _listed(bad: Mapping[str, Judgement], places: int) -> str:
    named = [f"{place}: {bad[place].value}" for place in list(bad)[:_NAMED_PLACES]]
    if len(bad) > _NAMED_PLACES:
        named.append("...")
    share = f"{len(bad)} of {places}: " if places > 1 else ""
    return share + "; ".join(named)
