"""Imputation: predict masked genes of held-out profiles from the other genes.

The model stands beside gene mean, gene median and probabilistic PCA given the observed genes. All methods see the
same masked profiles and are scored on the same entries: masked, and measured in truth. G genes, N profiles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from dataprep.corpus import Corpus, iterate_row_groups, read_split
from dataprep.runtime.command_line import UserError
from dataprep.runtime.terminal import log, tracked
from evaluation.config import ImputationSettings
from evaluation.methods.baselines import ProbabilisticPCA, fit_probabilistic_pca, gene_means, gene_medians
from evaluation.scores.metrics import ErrorSums, Interval, Resamples, percentile_interval
from evaluation.scores.results import Score, TaskResult
from pretrain.model.masking import VALIDATION_EPOCH, mask_of_profiles

# float32 B x G with NaN where hidden -> expression B x G
Predictor = Callable[[np.ndarray], np.ndarray]

MODEL = "BulkFormer"
PCA = "probabilistic PCA"
_FEWEST_FIT_PROFILES = 10
_TUNING_SHARE = 0.2
_TUNING_BATCH = 32


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


def evaluate_imputation(
    corpus: Corpus, split: str, model: Predictor, batch_size: int, settings: ImputationSettings, seed: int
) -> TaskResult:
    """Score the model and the baselines on ``split``; the baselines are fitted on the train split alone."""
    profiles = min(corpus.rows(split), settings.max_profiles or corpus.rows(split))
    if not profiles:
        raise UserError(f"{corpus.folder.uri}: the {split} split has no profiles to score imputation on")
    baselines, facts = fit_baselines(corpus, split, settings, seed)
    methods: dict[str, Predictor] = {MODEL: model, **baselines}
    batches = profile_batches(corpus, split, batch_size, profiles)
    row_ids, sums = score_methods(methods, batches, profiles, settings.mask_rate, seed)
    summary = summarise(sums, _studies(corpus, row_ids), settings.resamples, seed)
    facts |= {"split": split, "mask_rate": settings.mask_rate}
    return TaskResult("imputation", "", summary.scores, {**summary.facts, **facts}, summary.by_study)


def profile_batches(corpus: Corpus, split: str, size: int, profiles: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Row ids and expression, float32 [n, G] with n <= ``size``, of the first ``profiles`` of a split."""
    left = profiles
    for row_ids, expression in iterate_row_groups(corpus, corpus.shards(split)):
        for start in range(0, min(len(row_ids), left), size):
            rows = slice(start, min(start + size, left))
            yield row_ids[rows], expression[rows].astype(np.float32)
        left -= len(row_ids)
        if left <= 0:
            return


def score_methods(
    methods: Mapping[str, Predictor],
    batches: Iterable[tuple[np.ndarray, np.ndarray]],
    profiles: int,
    mask_rate: float,
    seed: int,
) -> tuple[np.ndarray, dict[str, MethodSums]]:
    """Mask, predict and sum, one batch in memory at a time. Masks depend on seed and row id alone.

    Returns the row ids in the order of the sums per profile. Raises UserError where a method predicts what is not a
    number: that would otherwise vanish from its scores.
    """
    sums = {name: MethodSums() for name in methods}
    seen = []
    for row_ids, truth in tracked(((len(batch[0]), batch) for batch in batches), profiles, "imputing"):
        mask = masks(row_ids, truth.shape[1], mask_rate, seed)
        counted = mask & np.isfinite(truth)
        visible = np.where(mask, np.float32(np.nan), truth)
        for name, predict in methods.items():
            predicted = predict(visible)
            if not np.isfinite(predicted[counted]).all():
                raise UserError(f"{name} predicts values that are not finite for rows {row_ids[0]} to {row_ids[-1]}")
            sums[name].add(truth, predicted, counted)
        seen.append(row_ids)
    return np.concatenate(seen), sums


def masks(row_ids: np.ndarray, genes: int, rate: float, seed: int) -> np.ndarray:
    """Boolean B x G: the masks that validation in pretraining uses with this seed."""
    return mask_of_profiles(torch.from_numpy(row_ids.copy()), genes, rate, seed, VALIDATION_EPOCH).numpy()


def fit_baselines(
    corpus: Corpus, split: str, settings: ImputationSettings, seed: int
) -> tuple[dict[str, Predictor], dict[str, object]]:
    """Gene mean, gene median and probabilistic PCA of the train split, and what was chosen.

    The rank is the one with the smallest error on the validation split; where that is empty or is itself being
    scored, on a fifth of the train profiles, which then does not take part in the fits compared.
    """
    _, train_NG = read_split(corpus, "train", settings.fit_profiles)
    if len(train_NG) < _FEWEST_FIT_PROFILES:
        raise UserError(
            f"{corpus.folder.uri}: {len(train_NG)} train profiles; the baselines need {_FEWEST_FIT_PROFILES}"
        )
    log(f"fitting baselines on {len(train_NG):,} train profiles")
    largest = max(settings.ranks)
    pca = fit_probabilistic_pca(train_NG, largest)
    tuning_ids, tuning_NG = read_split(corpus, "validation", settings.tuning_profiles)
    chosen_on, candidates = "validation", pca
    if split == "validation" or not len(tuning_ids):
        held = max(1, int(_TUNING_SHARE * len(train_NG)))
        chosen_on, tuning_ids, tuning_NG = "a fifth of train", np.arange(held), train_NG[:held]
        candidates = fit_probabilistic_pca(train_NG[held:], largest)
    rank = choose_rank(candidates, settings.ranks, tuning_ids, tuning_NG, settings.mask_rate, seed)
    log(f"probabilistic PCA: {rank} components, chosen on {chosen_on}")
    baselines: dict[str, Predictor] = {
        PCA: pca.with_rank(min(rank, pca.rank)).predict,
        "gene median": gene_medians(train_NG).predict,
        "gene mean": gene_means(train_NG).predict,
    }
    facts: dict[str, object] = {"fit_profiles": len(train_NG), "pca_rank": rank, "pca_rank_chosen_on": chosen_on}
    return baselines, facts


def choose_rank(
    pca: ProbabilisticPCA, ranks: list[int], row_ids: np.ndarray, expression_NG: np.ndarray, rate: float, seed: int
) -> int:
    """The rank whose model predicts masked genes with the smallest squared error; ranks above the fit's are cut."""
    errors: dict[int, float] = {}
    for rank in sorted({min(rank, pca.rank) for rank in ranks}):
        predict = pca.with_rank(rank).predict
        total = np.zeros(6)
        for start in range(0, len(row_ids), _TUNING_BATCH):
            rows = slice(start, start + _TUNING_BATCH)
            truth = expression_NG[rows].astype(np.float32)
            mask = masks(row_ids[rows], truth.shape[1], rate, seed)
            predicted = predict(np.where(mask, np.float32(np.nan), truth))
            total += ErrorSums.over(truth, predicted, mask & np.isfinite(truth), axis=1).total().values
        errors[rank] = float(ErrorSums(total).mean_squared_error())
    return min(errors, key=lambda rank: errors[rank])


@dataclass(frozen=True)
class Summary:
    scores: list[Score]
    facts: dict[str, object]
    by_study: list[dict[str, object]]


def summarise(sums: Mapping[str, MethodSums], studies: list[str], resamples: int, seed: int) -> Summary:
    """Scores with 95 % bootstrap intervals over studies (or profiles, where there are few studies).

    Scores per gene have no interval: resampling them would need the sums of every study and gene.
    """
    drawn = Resamples.draw(studies, resamples, seed)
    scores: list[Score] = []
    pearson_resampled: dict[str, np.ndarray] = {}
    for name, method in sums.items():
        per_profile = method.per_profile()
        resampled = ErrorSums(drawn.sums(per_profile.values))
        pearson_resampled[name] = resampled.pearson()
        total = per_profile.total()
        scores += [
            Score(name, "pearson", percentile_interval(float(total.pearson()), pearson_resampled[name])),
            Score(name, "mse", percentile_interval(float(total.mean_squared_error()), resampled.mean_squared_error())),
            Score(name, "pearson_per_profile", _mean_interval(per_profile.pearson(), drawn)),
            *_gene_scores(name, method),
        ]
    scores += _advantages(sums, pearson_resampled)
    first = next(iter(sums.values()))
    assert first.genes is not None
    facts: dict[str, object] = {
        "profiles": len(studies),
        "studies": len(set(studies)),
        "masked_entries": int(first.genes.total().count),
        "genes_scored": int((first.genes.count > 0).sum()),
        "intervals": f"95 % bootstrap over {drawn.unit}, {resamples} resamples",
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


def _advantages(sums: Mapping[str, MethodSums], resampled: Mapping[str, np.ndarray]) -> list[Score]:
    """Pearson of the first method minus that of each other, on the same resamples."""
    first, *others = sums
    own = float(sums[first].per_profile().total().pearson())
    return [
        Score(
            first,
            f"pearson_minus_{other.replace(' ', '_')}",
            percentile_interval(
                own - float(sums[other].per_profile().total().pearson()), resampled[first] - resampled[other]
            ),
        )
        for other in others
    ]


def _mean_interval(values_N: np.ndarray, drawn: Resamples) -> Interval:
    defined = np.isfinite(values_N)
    if not defined.any():
        return Interval(float("nan"))
    totals = drawn.sums(np.stack([np.where(defined, values_N, 0.0), defined.astype(float)], axis=1))
    means = np.divide(totals[:, 0], totals[:, 1], out=np.full(len(totals), np.nan), where=totals[:, 1] > 0)
    return percentile_interval(float(values_N[defined].mean()), means)


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


def _studies(corpus: Corpus, row_ids: np.ndarray) -> list[str]:
    samples = corpus.samples()
    ids, names = samples.column("row_id").to_pylist(), samples.column("study_id").to_pylist()
    study_of = dict(zip(ids, names, strict=True))
    return [study_of[row_id] for row_id in row_ids.tolist()]
