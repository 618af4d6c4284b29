"""From columns of ``samples.parquet`` to profiles with a follow-up each: a time, and whether it ended in the event.

Tables of metadata are text, and each publisher has names and units of its own. Times become days, so that studies can
be fitted together; what cannot be read is counted, never guessed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa

from dataprep.runtime.command_line import UserError

TimeUnit = Literal["days", "months", "years"]

DAYS_PER_UNIT: dict[str, float] = {"days": 1.0, "months": 365.25 / 12, "years": 365.25}

# A column that says the unit of a row's times, where the name of the time's column does not.
UNIT_COLUMN = "survival_unit"

_HAPPENED = ("1", "1.0", "true", "yes", "dead", "deceased", "died", "event", "progressed", "progression", "relapsed")
_CENSORED = ("0", "0.0", "false", "no", "alive", "living", "censored")


@dataclass(frozen=True)
class EndpointColumns:
    """Columns that hold an endpoint, as a publisher names them; ``unit`` where the time's name does not say it."""

    endpoint: str
    time: str
    event: str
    unit: TimeUnit | None = None

    @property
    def stated_unit(self) -> TimeUnit | None:
        """The unit, if it is given or stands in the name of the time's column."""
        named = [unit for unit in ("days", "months", "years") if unit[:-1] in self.time.casefold()]
        return self.unit or (named[0] if len(named) == 1 else None)  # type: ignore[return-value]


_OVERALL = "overall survival"
_PROGRESSION = "progression-free survival"
_DISEASE_FREE = "disease-free survival"

# Of one endpoint the first that a profile has counts.
KNOWN_ENDPOINTS = (
    EndpointColumns(_OVERALL, "os_days", "os_event"),
    EndpointColumns(_OVERALL, "os_months", "os_event"),
    EndpointColumns(_OVERALL, "survival_time_os", "event_occurred_os"),
    EndpointColumns(_PROGRESSION, "pfs_days", "pfs_event"),
    EndpointColumns(_PROGRESSION, "pfs_months", "pfs_event"),
    EndpointColumns(_PROGRESSION, "survival_time_pfs", "event_occurred_pfs"),
    # TCGA's clinical data resource, as UCSC Xena has it
    EndpointColumns(_OVERALL, "OS.time", "OS", "days"),
    EndpointColumns(_PROGRESSION, "PFI.time", "PFI", "days"),
    EndpointColumns(_DISEASE_FREE, "DFI.time", "DFI", "days"),
    # cBioPortal
    EndpointColumns(_OVERALL, "OS_MONTHS", "OS_STATUS"),
    EndpointColumns(_PROGRESSION, "PFS_MONTHS", "PFS_STATUS"),
    EndpointColumns(_DISEASE_FREE, "DFS_MONTHS", "DFS_STATUS"),
)


@dataclass(frozen=True)
class FollowUp:
    """N profiles with a usable follow-up, by their position in the table of samples.

    ``time``: float64 [N] in ``unit``, "days" or, where nobody says, "as given"; ``event``: bool [N], False where
    censored. ``left_out``: how many profiles lack what, by the reason.
    """

    endpoint: str
    columns: str
    positions: np.ndarray
    time: np.ndarray
    event: np.ndarray
    unit: str
    left_out: dict[str, int]


def endpoints_of(samples: pa.Table, missing: Sequence[str]) -> list[FollowUp]:
    """All endpoints whose known columns the table has, those with most profiles first."""
    found: dict[str, list[EndpointColumns]] = {}
    for known in KNOWN_ENDPOINTS:
        if {known.time, known.event} <= set(samples.column_names):
            found.setdefault(known.endpoint, []).append(known)
    follow_ups = [read_follow_up(samples, columns, missing) for columns in found.values()]
    return sorted((one for one in follow_ups if len(one.positions)), key=lambda one: -len(one.positions))


def read_follow_up(samples: pa.Table, columns: Sequence[EndpointColumns], missing: Sequence[str]) -> FollowUp:
    """The follow-up of every profile that has one in any of the columns; the first of them counts.

    ``missing``: words that stand for no value. Raises UserError for columns that the table does not have.
    """
    for column in {name for one in columns for name in (one.time, one.event)}:
        if column not in samples.column_names:
            raise UserError(f"samples.parquet has no column {column!r}; it has {', '.join(samples.column_names)}")
    words = {word.casefold() for word in missing}
    rows = samples.num_rows
    time, event, factor = np.full(rows, np.nan), np.full(rows, np.nan), np.full(rows, np.nan)
    reasons = np.full(rows, "no follow-up", dtype=object)
    for one in columns:
        times, events = _texts(samples, one.time, words), _texts(samples, one.event, words)
        units = _factors(samples, one, words)
        for row in np.flatnonzero(reasons != ""):
            if times[row] or events[row]:
                time[row], event[row], factor[row] = number_in(times[row]), _happened(events[row]), units[row]
                reasons[row] = _fault(times[row], events[row], time[row], event[row])
    usable = reasons == ""
    if np.isfinite(factor[usable]).any():
        reasons[usable & ~np.isfinite(factor)] = "no unit of time"
        time, unit, usable = time * factor, "days", reasons == ""
    else:
        unit = "as given"
    return FollowUp(
        endpoint=columns[0].endpoint,
        columns=", ".join(f"{one.time} and {one.event}" for one in columns),
        positions=np.flatnonzero(usable),
        time=time[usable],
        event=event[usable] == 1,
        unit=unit,
        left_out=dict(Counter(reason for reason in reasons if reason).most_common()),
    )


def column_texts(samples: pa.Table, column: str, missing: Sequence[str]) -> list[str]:
    """A column as text, empty where it has no value or a word of ``missing``, in any case."""
    return _texts(samples, column, {word.casefold() for word in missing})


def _texts(samples: pa.Table, column: str, missing: set[str]) -> list[str]:
    texts = ["" if value is None else str(value).strip() for value in samples.column(column).to_pylist()]
    return ["" if text.casefold() in missing else text for text in texts]


def _factors(samples: pa.Table, columns: EndpointColumns, missing: set[str]) -> list[float]:
    """Days in a unit of each row's time; NaN where nobody says."""
    if columns.stated_unit is not None:
        return [DAYS_PER_UNIT[columns.stated_unit]] * samples.num_rows
    if UNIT_COLUMN not in samples.column_names:
        return [math.nan] * samples.num_rows
    words = [text.casefold().rstrip("s") + "s" for text in _texts(samples, UNIT_COLUMN, missing)]
    return [DAYS_PER_UNIT.get(word, math.nan) for word in words]


def number_in(text: str) -> float:
    """NaN for what is no number."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def _happened(text: str) -> float:
    """1, 0, or NaN for what says neither; cBioPortal writes ``1:DECEASED``."""
    word = text.split(":")[0].casefold()
    return 1.0 if word in _HAPPENED else 0.0 if word in _CENSORED else math.nan


def _fault(time_text: str, event_text: str, time: float, event: float) -> str:
    """Why a follow-up cannot be used; empty where it can."""
    if not time_text or not event_text:
        return "time missing" if not time_text else "event missing"
    if not math.isfinite(time):
        return "time is no number"
    if time < 0:
        return "time negative"
    return "event neither 0 nor 1" if math.isnan(event) else ""
