"""Scores of imputation from sums per profile and per gene, with intervals over studies. G genes, N profiles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from evaluation.scores.comparison import Metric, Scored, difference
from evaluation.scores.intervals import CORRELATION, ERROR, Interval, Resamples
from evaluation.scores.metrics import ErrorSums
from evaluation.scores.results import Score

# Groups of genes by expression that errors are given for.
_LEVELS = 5
_PEARSON = Metric("pearson", CORRELATION)
_COMPARED = (_PEARSON, Metric("mse", ERROR, higher_is_better=False))


@dataclass
class MethodSums:
    """What one method got right, summed per profile and per gene; ``measured`` entries, hidden or not."""

    profiles: list[ErrorSums] = field(default_factory=list)
    genes: ErrorSums | None = None
    measured: int = 0

    def add(self, truth: np.ndarray, predicted: np.ndarray, counted: np.ndarray) -> None:
        self.measured += int(np.isfinite(truth).sum())
        self.profiles.append(ErrorSums.over(truth, predicted, counted, axis=1))
        per_gene = ErrorSums.over(truth, predicted, counted, axis=0)
        self.genes = per_gene if self.genes is None else self.genes + per_gene

    def per_profile(self) -> ErrorSums:
        return ErrorSums(np.concatenate([part.values for part in self.profiles]))


@dataclass(frozen=True)
class Summary:
    scores: list[Score]
    facts: dict[str, object]
    by_study: list[dict[str, object]]


def summarise(sums: Mapping[str, MethodSums], studies: list[str], resamples: int, seed: int) -> Summary:
    """Scores with 95 % intervals over studies (over profiles, where there is one study).

    Scores per gene have no interval: resampling them would need the sums of every study and gene.
    """
    drawn = Resamples.draw(studies, resamples, seed)
    per_profile = {name: method.per_profile() for name, method in sums.items()}
    scored = {
        metric.name: {name: _scored(metric, of, drawn) for name, of in per_profile.items()} for metric in _COMPARED
    }
    scores: list[Score] = []
    for name, method in sums.items():
        for metric in _COMPARED:
            of = scored[metric.name][name]
            scores.append(Score(name, metric.name, drawn.interval(of.value, of.without, metric.scale)))
        scores.append(Score(name, "pearson_per_profile", _mean_interval(per_profile[name].pearson(), drawn)))
        scores += _gene_scores(name, method)
    model, *others = sums
    scores += [difference(drawn, metric, model, other, scored[metric.name]) for other in others for metric in _COMPARED]
    first = sums[model]
    assert first.genes is not None
    facts: dict[str, object] = {
        "profiles": len(studies),
        "studies": len(set(studies)),
        "masked_entries": int(first.genes.total().count),
        "genes_scored": int((first.genes.count > 0).sum()),
        "hidden_share": round(float(first.genes.total().count / first.measured), 4),
        "intervals": drawn.described,
    }
    return Summary(scores, facts, _by_study(per_profile, studies))


def scores_of(sums: Mapping[str, MethodSums], rows: np.ndarray) -> list[Score]:
    """Pearson and MSE of every method over the profiles at positions ``rows`` alone, without intervals."""
    totals = {name: ErrorSums(method.per_profile().values[rows]).total() for name, method in sums.items()}
    return [
        Score(name, metric, Interval(float(value)))
        for name, total in totals.items()
        for metric, value in (("pearson", total.pearson()), ("mse", total.mean_squared_error()))
    ]


def error_by_level(sums: Mapping[str, MethodSums], train_NG: np.ndarray) -> list[dict[str, object]]:
    """Error of each method on genes of like expression: fifths by their mean in train, of equal numbers of genes.

    Rows have ``from`` and ``to`` (means of log1p TPM), ``genes``, ``method``, ``mse`` and ``pearson``.
    """
    # loads torch, which --help and refused settings do without
    from pretrain.prior.principal import by_gene

    level_G = by_gene(np.nanmean, train_NG)
    rows: list[dict[str, object]] = []
    for part in np.array_split(np.argsort(level_G, kind="stable"), _LEVELS):
        for name, method in sums.items():
            assert method.genes is not None
            total = ErrorSums(method.genes.values[part]).total()
            rows.append(
                {
                    "from": round(float(level_G[part].min()), 3),
                    "to": round(float(level_G[part].max()), 3),
                    "genes": len(part),
                    "method": name,
                    "mse": float(total.mean_squared_error()),
                    "pearson": float(total.pearson()),
                }
            )
    return rows


def _gene_scores(name: str, method: MethodSums) -> list[Score]:
    assert method.genes is not None
    pearson = method.genes.pearson()
    defined = pearson[np.isfinite(pearson)]
    # a method that predicts the same value for a gene everywhere has no correlation over profiles
    median, mean = (float(np.median(defined)), float(defined.mean())) if len(defined) else (np.nan, np.nan)
    return [
        Score(name, "pearson_per_gene_median", Interval(median)),
        Score(name, "pearson_per_gene_mean", Interval(mean)),
    ]


def _scored(metric: Metric, per_profile: ErrorSums, drawn: Resamples) -> Scored:
    def value(sums: ErrorSums) -> np.ndarray:
        return sums.pearson() if metric is _PEARSON else sums.mean_squared_error()

    return Scored(float(value(per_profile.total())), value(ErrorSums(drawn.sums(per_profile.values))))


def _mean_interval(values_N: np.ndarray, drawn: Resamples) -> Interval:
    defined = np.isfinite(values_N)
    if not defined.any():
        return Interval(float("nan"))
    totals = drawn.sums(np.stack([np.where(defined, values_N, 0.0), defined.astype(float)], axis=1))
    means = np.divide(totals[:, 0], totals[:, 1], out=np.full(len(totals), np.nan), where=totals[:, 1] > 0)
    return drawn.interval(float(values_N[defined].mean()), means, CORRELATION)


def _by_study(per_profile: Mapping[str, ErrorSums], studies: list[str]) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for study in sorted(set(studies)):
        own = np.array([other == study for other in studies])
        for name, sums in per_profile.items():
            total = ErrorSums(sums.values[own].sum(axis=0))
            rows.append(
                {
                    "study": study,
                    "profiles": int(own.sum()),
                    "method": name,
                    "pearson": float(total.pearson()),
                    "mse": float(total.mean_squared_error()),
                }
            )
    return rows
