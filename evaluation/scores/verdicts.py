"""What an evaluation says: p-values corrected over all of its differences, and a sentence for each task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from evaluation.scores.intervals import CONFIDENCE
from evaluation.scores.results import Score, TaskResult

# So many baselines are not named one by one.
_MANY_BASELINES = 5


def judged(results: Sequence[TaskResult]) -> list[TaskResult]:
    """The results with corrected p-values of differences to baselines, and a verdict where a metric decides.

    Holm's correction, over the differences that decide (those of ``judged_by``; all of a task that names no metric) of
    all tasks together: the chance that one of those called real is none is 5 % at the most. The other metrics say much
    the same of the same rows, and would only blunt it: they keep their own p-values.
    """
    corrected = iter(_holm([score.p for result in results for score in result.scores if _decides(score, result)]))
    judged_results = []
    for result in results:
        scores = [
            replace(score, p_corrected=next(corrected)) if _decides(score, result) else score for score in result.scores
        ]
        result = replace(result, scores=scores)
        judged_results.append(replace(result, verdict=_verdict(result)) if result.judged_by else result)
    return judged_results


def _decides(score: Score, result: TaskResult) -> bool:
    return bool(score.baseline) and score.compared == (result.judged_by or score.compared)


def _holm(values: Sequence[float]) -> list[float]:
    """Corrected p-values; NaN stays and does not count."""
    # statsmodels takes a second to import, and --help does without it
    from statsmodels.stats.multitest import multipletests

    found = np.array(values, dtype=np.float64)
    tested = np.isfinite(found)
    if tested.any():
        found[tested] = multipletests(found[tested], method="holm")[1]
    return found.tolist()


def _verdict(result: TaskResult) -> str:
    """In one sentence, which baselines each method is better or worse than, or not to be told from."""
    of_method: dict[str, dict[str, list[str]]] = {}
    for score in result.scores:
        if _decides(score, result):
            outcomes = of_method.setdefault(
                score.method, {"better than": [], "worse than": [], "not to be told from": []}
            )
            outcomes[_outcome(score, result.higher_is_better)].append(score.baseline)
    if not of_method:
        return ""
    # methods of which the same is to be said are named together
    alike: dict[str, list[str]] = {}
    for method, outcomes in of_method.items():
        known = sum(map(len, outcomes.values()))
        compared = ", ".join(f"{how} {_baselines(how, names, known)}" for how, names in outcomes.items() if names)
        alike.setdefault(compared, []).append(method)
    said = "; ".join(
        f"{_listed(methods)} {'is' if len(methods) == 1 else 'are'} {compared}" for compared, methods in alike.items()
    )
    return f"by {result.judged_by.replace('_', ' ')}, {said} (paired differences, p < 0.05 after Holm's correction)"


def _outcome(score: Score, higher_is_better: bool) -> str:
    # a p-value that is not defined tells nothing
    if not score.p_corrected < 1 - CONFIDENCE:
        return "not to be told from"
    return "better than" if (score.interval.value > 0) == higher_is_better else "worse than"


def _baselines(how: str, names: Sequence[str], known: int) -> str:
    """Their names; where there are many and the same holds of all, their number."""
    if len(names) < known or known < _MANY_BASELINES:
        return _listed(names)
    return f"{'all' if how.endswith('than') else 'any'} of the {known} baselines"


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
