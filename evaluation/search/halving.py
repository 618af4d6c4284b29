"""What the trials of searches have to score, handed to Ray Tune, which runs them.

T trials, K outer folds, I inner folds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ray.tune.search import Searcher

from evaluation.search.inner_folds import Method, best, kept
from evaluation.search.nested import Choice
from evaluation.search.progress import Progress
from evaluation.search.search_state import Place, SearchState, TrialRecord

# What a trial of Tune is given, and what it reports.
SHELF, SEARCH, CHOICE, PLACES = "shelf", "search", "choice", "places"
SCORES, SECONDS, ERROR = "scores", "seconds", "error"


class HalvingInFolds:
    """Successive halving of one search, inside every outer fold.

    In two rungs: all choices on first inner folds, the kept on the others. A rung begins when the one before it is
    complete, so what is kept never depends on which trial is done first; and
    :func:`~evaluation.search.inner_folds.kept` looks at one outer fold at a time. What ``records`` have is not asked
    for again; what comes is stored in ``state``.
    """

    def __init__(self, subject: str, method: Method, records: Sequence[TrialRecord], state: SearchState) -> None:
        self.subject = subject
        self._method = method
        self._records = records
        self._state = state
        self._weights_KI = method.weights
        self._rungs = deque([self._first_places, self._other_places])
        self._waiting: deque[tuple[int, list[Place]]] = deque()
        self._running: set[int] = set()
        self._progress = Progress("", 0, 0)
        self._begin_rung()

    @property
    def finished(self) -> bool:
        """Whether nothing is left to score."""
        return not (self._waiting or self._running or self._rungs)

    def outcome(self) -> tuple[np.ndarray, np.ndarray]:
        """The number of the trial that each outer fold takes, int [K], and inner scores, float [T, K]."""
        assert self.finished
        scores_TKI = self._scores()
        return best(scores_TKI, self._weights_KI, kept(scores_TKI[:, :, 0]))

    def next_trial(self) -> tuple[int, list[Place]] | None:
        """The number of a trial and what it has to score; None where there is nothing, or not before a rung is done."""
        if not self._waiting:
            return None
        number, places = self._waiting.popleft()
        self._running.add(number)
        return number, places

    def choice(self, number: int) -> Choice:
        """The choice of a trial."""
        return self._records[number].choice

    def done(self, number: int, scores: Sequence[tuple[int, int, float]], seconds: float) -> None:
        """Keep the scores of a trial, by outer and inner fold; the last one of a rung begins the next."""
        self._running.remove(number)
        record = self._records[number]
        record.scores |= {(outer, inner): score for outer, inner, score in scores}
        record.seconds += seconds
        self._state.store(number, record)
        self._progress.done(record.mean_score())
        self._begin_rung()

    def _begin_rung(self) -> None:
        """Put the next rung that lacks scores in line, if this one is complete."""
        while self._rungs and not (self._waiting or self._running):
            where, wanted = self._rungs.popleft()()
            missing = [(number, sorted(places - set(self._records[number].scores))) for number, places in wanted]
            self._waiting.extend((number, places) for number, places in missing if places)
            doing = f"{self.subject}: trials {where}"
            self._progress = Progress(doing, len(wanted), len(self._waiting))

    def _first_places(self) -> tuple[str, list[tuple[int, set[Place]]]]:
        first = {(outer, 0) for outer, parts in enumerate(self._method.inner) if parts}
        return "on first inner folds", [(number, first) for number in range(len(self._records))]

    def _other_places(self) -> tuple[str, list[tuple[int, set[Place]]]]:
        kept_TK = kept(self._scores()[:, :, 0])
        wanted = [
            (
                number,
                {
                    (outer, inner)
                    for outer, parts in enumerate(self._method.inner)
                    for inner in range(1, len(parts))
                    if kept_TK[number, outer]
                },
            )
            for number in range(len(self._records))
        ]
        return "on the others", [(number, places) for number, places in wanted if places]

    def _scores(self) -> np.ndarray:
        """Inner scores as far as they are known, float [T, K, I]."""
        scores = np.full((len(self._records), *self._weights_KI.shape), np.nan)
        for number, record in enumerate(self._records):
            for (outer, inner), score in record.scores.items():
                scores[number, outer, inner] = score
        return scores


class Trials(Searcher):
    """The trials of several searches for Tune, those of the first search first; their methods are on the ``shelf``.

    ``raised``: what a method raised; ``killed``: the name of a trial whose processes were killed. Either ends all.
    """

    def __init__(self, searches: Sequence[HalvingInFolds], shelf: str) -> None:
        super().__init__(metric=SECONDS, mode="min")
        self._searches = searches
        self._shelf = shelf
        self._running: dict[str, tuple[int, int]] = {}
        self.raised: BaseException | None = None
        self.killed: str | None = None

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        """The next trial; None where all wait for the end of a rung."""
        if self.raised or self.killed is not None or all(search.finished for search in self._searches):
            return self.FINISHED
        for position, search in enumerate(self._searches):
            if found := search.next_trial():
                number, places = found
                self._running[trial_id] = position, number
                choice = dict(search.choice(number))
                return {SHELF: self._shelf, SEARCH: position, CHOICE: choice, PLACES: places}
        return None

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """Nothing: a trial has one result."""

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        """Hand the scores of a trial to its search."""
        position, number = self._running.pop(trial_id)
        search = self._searches[position]
        if error or result is None:
            self.killed = f"{search.subject}, trial {number}"
        elif result.get(ERROR) is not None:
            self.raised = result[ERROR]
        else:
            search.done(number, result[SCORES], result[SECONDS])

    def save(self, checkpoint_path: str) -> None:
        """Nothing: searches go on from their own states, not from Tune's."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, see :meth:`save`."""

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune writes the searcher beside its experiment, which would be all arrays of the methods."""
        return {}
