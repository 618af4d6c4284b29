"""Imputation: predict masked genes of held-out profiles from the other genes.

The model stands beside gene mean, gene median, and two linear models given the observed genes: probabilistic PCA and
a rectified Gaussian. All methods see the same masked profiles and are scored on the same entries: masked, and measured
in truth. G genes, N profiles.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from pydantic import Field, model_validator

from dataprep.runtime.command_line import Settings, UserError, refuse_without_effect
from dataprep.runtime.terminal import log, tracked
from evaluation.scores.intervals import CORRELATION, DIFFERENCE, ERROR, Interval, Resamples
from evaluation.scores.metrics import ErrorSums
from evaluation.scores.results import Score, TaskResult
from evaluation.tasks.context import Predictor
from evaluation.tasks.registry import register_task
from evaluation.tasks.task import Needs, Task

PCA = "probabilistic PCA"
RECTIFIED = "rectified Gaussian"
_FEWEST_FIT_PROFILES = 10


class ImputationSettings(Settings):
    """Masked genes of held-out profiles, predicted from the others."""

    mask_rate: float = Field(0.15, gt=0, lt=1, description="share of genes masked in each profile")
    max_profiles: int | None = Field(None, ge=1, description="profiles to score, from the start of the split")
    fit_profiles: int = Field(3000, ge=3, description="train profiles that the baselines are fitted on, at the most")
    ranks: list[int] = Field(
        [10, 50, 200, 400, 1000], min_length=1, description="components of the linear methods to try"
    )
    tuning_profiles: int = Field(200, ge=1, description="profiles that choose rank and noise, at the most")
    resamples: int = Field(1000, ge=100, description="bootstrap resamples for the confidence intervals")

    @model_validator(mode="after")
    def _check(self) -> ImputationSettings:
        if min(self.ranks) < 1:
            raise ValueError(f"imputation.ranks: {min(self.ranks)} is not a number of components")
        return self


@dataclass(frozen=True)
class Profiles:
    """``row_ids`` and ``studies`` [N]; ``expression``: float16 N x G, NaN where not measured."""

    row_ids: np.ndarray
    studies: np.ndarray
    expression: np.ndarray


@dataclass
class MethodSums:
    """What one method got right, summed per profile and per gene."""

    profiles: list[ErrorSums] = field(default_factory=list)
    genes: ErrorSums | None = None

    def add(self, truth: np.ndarray, predicted: np.ndarray, counted: np.ndarray) -> None:
        self.profiles.append(ErrorSums.over(truth, predicted, counted, axis=1))
        per_gene = ErrorSums.over(truth, predicted, counted, axis=0)
        self.genes = per_gene if self.genes is None else self.genes + per_gene

    def per_profile(self) -> ErrorSums:
        return ErrorSums(np.concatenate([part.values for part in self.profiles]))


@register_task
class Imputation(Task[ImputationSettings]):
    """The model and the baselines on the held-out split; the baselines are fitted on the train split alone."""

    name = "imputation"
    settings_type = ImputationSettings
    uses = ("split",)

    def prepare(self) -> Needs:
        context, settings = self.context, self.settings
        split, where = context.settings.split, context.corpus.folder.uri
        if split == "validation":
            refuse_without_effect(settings, ("tuning_profiles",), "with split validation, which is scored")
        self._scored = context.row_ids(split, settings.max_profiles)
        if not len(self._scored):
            raise UserError(f"{where}: the {split} split has no profiles to score imputation on")
        self._fit = context.row_ids("train", settings.fit_profiles)
        if len(self._fit) < _FEWEST_FIT_PROFILES:
            raise UserError(f"{where}: {len(self._fit)} train profiles; the baselines need {_FEWEST_FIT_PROFILES}")
        # profiles that are scored cannot choose anything
        self._tuning = context.row_ids("validation", settings.tuning_profiles if split != "validation" else 0)
        return Needs(expression=np.concatenate([self._scored, self._fit, self._tuning]))

    def score(self) -> Sequence[TaskResult]:
        context, settings, seed = self.context, self.settings, self.context.settings.seed
        tuning = self._profiles(self._tuning) if len(self._tuning) else None
        baselines, facts = fit_baselines(self._profiles(self._fit), tuning, settings, seed)
        methods = {**context.predictors(), **baselines}
        sums = score_methods(methods, self._batches(), len(self._scored), settings.mask_rate, seed)
        summary = summarise(sums, context.studies(self._scored), settings.resamples, seed)
        facts = {**summary.facts, **facts, "split": context.settings.split, "mask_rate": settings.mask_rate}
        said = verdict(summary.scores, next(iter(methods)), list(baselines))
        return [TaskResult(self.name, "", summary.scores, facts, summary.by_study, list(baselines), said)]

    def _profiles(self, row_ids: np.ndarray) -> Profiles:
        studies = np.array(self.context.studies(row_ids))
        return Profiles(row_ids, studies, self.context.expression(row_ids))

    def _batches(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Row ids and expression, float32 [n, G], of the profiles to score."""
        for start in range(0, len(self._scored), self.context.batch_size):
            row_ids = self._scored[start : start + self.context.batch_size]
            yield row_ids, self.context.expression(row_ids).astype(np.float32)


def score_methods(
    methods: Mapping[str, Predictor],
    batches: Iterable[tuple[np.ndarray, np.ndarray]],
    profiles: int,
    mask_rate: float,
    seed: int,
) -> dict[str, MethodSums]:
    """Mask, predict and sum, one batch in memory at a time. Masks depend on seed and row id alone.

    Raises UserError where a method predicts what is not a number: that would otherwise vanish from its scores.
    """
    sums = {name: MethodSums() for name in methods}
    for row_ids, truth in tracked(((len(batch[0]), batch) for batch in batches), profiles, "imputing"):
        mask = masks(row_ids, truth.shape[1], mask_rate, seed)
        counted = mask & np.isfinite(truth)
        visible = np.where(mask, np.float32(np.nan), truth)
        for name, predict in methods.items():
            predicted = predict(visible)
            if not np.isfinite(predicted[counted]).all():
                raise UserError(f"{name} predicts values that are not finite for rows {row_ids[0]} to {row_ids[-1]}")
            sums[name].add(truth, predicted, counted)
    return sums


def masks(row_ids: np.ndarray, genes: int, rate: float, seed: int) -> np.ndarray:
    """Boolean B x G: the masks that validation in pretraining uses with this seed."""
    # torch takes seconds to import, and --help does without it
    import torch

    from pretrain.model.masking import VALIDATION_EPOCH, mask_of_profiles

    return mask_of_profiles(torch.from_numpy(row_ids.copy()), genes, rate, seed, VALIDATION_EPOCH).numpy()


def fit_baselines(
    train: Profiles, validation: Profiles | None, settings: ImputationSettings, seed: int
) -> tuple[dict[str, Predictor], dict[str, object]]:
    """Gene mean, gene median and the linear models of train profiles, and what was chosen for them.

    Rank and noise are those with the smallest error on ``validation``; without it on left-out studies of train.
    """
    # torch takes seconds to import, and --help does without it
    from evaluation.methods.baselines import Linear, fit_linear_baselines, gene_means, gene_medians
    from pretrain.prior.choice import HeldOut

    def mask_of(profiles: Profiles, rows: np.ndarray) -> np.ndarray:
        return masks(profiles.row_ids[rows], profiles.expression.shape[1], settings.mask_rate, seed)

    log(f"fitting baselines on {len(train.row_ids):,} train profiles")
    held_out = None
    if validation is not None:
        hidden = mask_of(validation, np.arange(len(validation.row_ids)))
        held_out = HeldOut.hiding(hidden, validation.expression)
    linear = fit_linear_baselines(
        train.expression,
        train.studies,
        held_out,
        lambda rows: mask_of(train, rows),
        settings.tuning_profiles,
        settings.ranks,
    )
    baselines: dict[str, Predictor] = {
        RECTIFIED: Linear(linear.rectified.prior).predict,
        PCA: Linear(linear.ppca.prior).predict,
        "gene median": gene_medians(train.expression).predict,
        "gene mean": gene_means(train.expression).predict,
    }
    facts: dict[str, object] = {
        "fit_profiles": len(train.row_ids),
        "pca_rank": linear.ppca.choice.rank,
        "pca_noise": linear.ppca.choice.noise,
        "rectified_rank": linear.rectified.choice.rank,
        "rectified_noise": linear.rectified.choice.noise,
        "pca_rank_chosen_on": linear.chosen_on,
    }
    return baselines, facts


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
    scores: list[Score] = []
    resampled_scores: dict[str, dict[str, np.ndarray]] = {}
    for name, method in sums.items():
        per_profile = method.per_profile()
        resampled = ErrorSums(drawn.sums(per_profile.values))
        again = {"pearson": resampled.pearson(), "mse": resampled.mean_squared_error()}
        resampled_scores[name] = again
        total = per_profile.total()
        scores += [
            Score(name, "pearson", drawn.interval(float(total.pearson()), again["pearson"], CORRELATION)),
            Score(name, "mse", drawn.interval(float(total.mean_squared_error()), again["mse"], ERROR)),
            Score(name, "pearson_per_profile", _mean_interval(per_profile.pearson(), drawn)),
            *_gene_scores(name, method),
        ]
    scores += _differences(sums, resampled_scores, drawn)
    first = next(iter(sums.values()))
    assert first.genes is not None
    facts: dict[str, object] = {
        "profiles": len(studies),
        "studies": len(set(studies)),
        "masked_entries": int(first.genes.total().count),
        "genes_scored": int((first.genes.count > 0).sum()),
        "intervals": drawn.described,
    }
    return Summary(scores, facts, _by_study(sums, studies))


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


def _differences(
    sums: Mapping[str, MethodSums], resampled: Mapping[str, Mapping[str, np.ndarray]], drawn: Resamples
) -> list[Score]:
    """Pearson and MSE of the first method minus those of each other, on the same resamples."""
    first, *others = sums
    totals = {name: method.per_profile().total() for name, method in sums.items()}
    values = {
        name: {"pearson": float(total.pearson()), "mse": float(total.mean_squared_error())}
        for name, total in totals.items()
    }
    return [
        Score(
            first,
            f"{metric}_minus_{other.replace(' ', '_')}",
            drawn.interval(
                values[first][metric] - values[other][metric],
                resampled[first][metric] - resampled[other][metric],
                DIFFERENCE,
            ),
        )
        for other in others
        for metric in ("pearson", "mse")
    ]


def verdict(scores: Sequence[Score], model: str, baselines: Sequence[str]) -> str:
    """In one sentence, which baselines' error the model's is under, over, or not to be told from."""
    found: dict[str, list[str]] = {"under": [], "over": [], "not to be told from": []}
    intervals = {score.metric: score.interval for score in scores if score.method == model}
    for name in baselines:
        interval = intervals[f"mse_minus_{name.replace(' ', '_')}"]
        if interval.high < 0:
            found["under"].append(name)
        elif interval.low > 0:
            found["over"].append(name)
        else:
            found["not to be told from"].append(name)
    parts = [f"{how} that of {', '.join(names)}" for how, names in found.items() if names]
    return f"the error (MSE) of {model} is {'; '.join(parts)}: 95 % intervals of paired differences"


def _mean_interval(values_N: np.ndarray, drawn: Resamples) -> Interval:
    defined = np.isfinite(values_N)
    if not defined.any():
        return Interval(float("nan"))
    totals = drawn.sums(np.stack([np.where(defined, values_N, 0.0), defined.astype(float)], axis=1))
    means = np.divide(totals[:, 0], totals[:, 1], out=np.full(len(totals), np.nan), where=totals[:, 1] > 0)
    return drawn.interval(float(values_N[defined].mean()), means, CORRELATION)


def _by_study(sums: Mapping[str, MethodSums], studies: list[str]) -> list[dict[str, object]]:
    per_profile = {name: method.per_profile().values for name, method in sums.items()}
    rows: list[dict[str, object]] = []
    for study in sorted(set(studies)):
        own = np.array([other == study for other in studies])
        for name, values in per_profile.items():
            total = ErrorSums(values[own].sum(axis=0))
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
