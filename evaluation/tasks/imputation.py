"""Imputation: predict hidden genes of held-out profiles from the other genes.

Hidden are random genes, of any share, whole gene sets, or all but a panel. The model stands beside gene mean, gene
median, the nearest train profiles, ridge regression, and two linear models given the observed genes: probabilistic PCA
and a rectified Gaussian. What each has to choose is chosen on validation profiles with genes hidden in the same way.
All methods see the same profiles and are scored on the same entries: hidden, and measured in truth. G genes, N
profiles.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field, model_validator

from dataprep.runtime.command_line import Settings, UserError, refuse_without_effect
from dataprep.runtime.terminal import log, tracked
from evaluation.config import named
from evaluation.inference.foreign_embeddings import predictions_file, read_predictions, write_hidden
from evaluation.inference.gene_choice import chosen_columns
from evaluation.methods.hidden_genes import AllButPanel, HiddenGenes, RandomGenes, WholeGeneSets, read_gene_sets
from evaluation.scores.imputation_scores import MethodSums, error_by_level, scores_of, summarise
from evaluation.scores.results import TaskResult
from evaluation.tasks.context import Predictor
from evaluation.tasks.registry import register_task
from evaluation.tasks.task import Needs, NotApplicableError, Task

if TYPE_CHECKING:
    from pretrain.prior.fit import LinearFits

PCA = "probabilistic PCA"
RECTIFIED = "rectified Gaussian"
BASELINES = (RECTIFIED, PCA, "ridge regression", "nearest profiles", "gene median", "gene mean")
_FEWEST_FIT_PROFILES = 10


class ImputationSettings(Settings):
    """Hidden genes of held-out profiles, predicted from the others."""

    mask_rate: float = Field(0.15, gt=0, lt=1, description="share of genes masked in each profile")
    other_mask_rates: list[float] = Field(
        [], description="further shares of genes to mask, as in 0.05,0.3,0.5, each scored for itself"
    )
    panel: str | None = Field(
        None, description="score the prediction of all other genes from these alone: a file with one a line, or names"
    )
    gene_sets: str | None = Field(
        None, description="GMT file: mask whole gene sets, drawn until mask_rate of all genes are hidden"
    )
    write_inputs: str | None = Field(
        None, description="folder or s3:// address to write what methods see to, for predictions made elsewhere"
    )
    predictions: list[str] = Field(
        [],
        description="predictions made elsewhere, as NAME=FILE with commas (.parquet or .h5ad, samples x genes), or as "
        "NAME=FOLDER with files named as write_inputs names them",
    )
    max_profiles: int | None = Field(None, ge=1, description="profiles to score, from the start of the split")
    fit_profiles: int = Field(3000, ge=3, description="train profiles that the baselines are fitted on, at the most")
    ranks: list[int] = Field(
        [10, 50, 200, 400, 1000], min_length=1, description="components of the linear methods to try"
    )
    tuning_profiles: int = Field(200, ge=1, description="profiles that choose rank and noise, at the most")
    resamples: int = Field(
        1000, ge=100, description="studies left out in turn for the intervals, at the most; more are joined"
    )

    @model_validator(mode="after")
    def _check(self) -> ImputationSettings:
        if min(self.ranks) < 1:
            raise ValueError(f"imputation.ranks: {min(self.ranks)} is not a number of components")
        for rate in self.other_mask_rates:
            if not 0 < rate < 1:
                raise ValueError(f"imputation.other_mask_rates: {rate:g} is not a share between 0 and 1")
        if len({self.mask_rate, *self.other_mask_rates}) < 1 + len(self.other_mask_rates):
            raise ValueError("imputation.other_mask_rates: a share is named twice, or is mask_rate")
        if bad := [entry for entry in self.predictions if not all(entry.partition("="))]:
            raise ValueError(f"imputation.predictions: {bad[0]!r} is not NAME=ADDRESS")
        return self


@dataclass(frozen=True)
class Profiles:
    """``row_ids`` and ``studies`` [N]; ``expression``: float16 N x G, NaN where not measured."""

    row_ids: np.ndarray
    studies: np.ndarray
    expression: np.ndarray


@register_task
class Imputation(Task[ImputationSettings]):
    """The model and the baselines on the held-out split; the baselines are fitted on the train split alone."""

    name = "imputation"
    settings_type = ImputationSettings
    uses = ("split",)
    files = ("gene_sets",)

    def prepare(self) -> Needs:
        context, settings = self.context, self.settings
        split, where = context.settings.split, context.corpus.address
        if split == "validation":
            refuse_without_effect(settings, ("tuning_profiles",), "with split validation, which is scored")
        self._scored = context.row_ids(split, settings.max_profiles)
        if not len(self._scored):
            raise NotApplicableError(f"{where}: the {split} split has no profiles to score imputation on")
        self._fit = context.row_ids("train", settings.fit_profiles)
        if len(self._fit) < _FEWEST_FIT_PROFILES:
            raise NotApplicableError(
                f"{where}: {len(self._fit)} train profiles; the simple methods need {_FEWEST_FIT_PROFILES}"
            )
        self._hidden = self._ways_to_hide()
        # profiles that are scored cannot choose anything
        self._tuning = context.row_ids("validation", settings.tuning_profiles if split != "validation" else 0)
        self._foreign = [self._read_predictions(hidden) for hidden in self._hidden]
        return Needs(expression=np.concatenate([self._scored, self._fit, self._tuning]))

    def score(self) -> Sequence[TaskResult]:
        # torch takes seconds to import, and --help does without it
        from pretrain.prior.fit import LinearFits

        train = self._profiles(self._fit)
        tuning = self._profiles(self._tuning) if len(self._tuning) else None
        fits = LinearFits(train.expression, train.studies, self.settings.ranks)
        for hidden in self._hidden if self.settings.write_inputs is not None else []:
            self._write_input(hidden)
        results = [
            self._scored_with(hidden, train, tuning, fits, foreign)
            for hidden, foreign in zip(self._hidden, self._foreign, strict=True)
        ]
        if self.settings.other_mask_rates:
            random = [
                result for hidden, result in zip(self._hidden, results, strict=True) if isinstance(hidden, RandomGenes)
            ]
            curves = {**results[0].curves, "mask_rates": mask_rate_curve(random)}
            results[0] = replace(results[0], curves=curves)
        return results

    def _ways_to_hide(self) -> list[HiddenGenes]:
        settings, seed = self.settings, self.context.settings.seed
        vocabulary = self.context.corpus.vocabulary
        ways: list[HiddenGenes] = [RandomGenes(settings.mask_rate, seed)]
        ways += [RandomGenes(rate, seed, f"{100 * rate:g} % masked") for rate in settings.other_mask_rates]
        if settings.gene_sets is not None:
            ways.append(WholeGeneSets(read_gene_sets(settings.gene_sets, vocabulary), settings.mask_rate, seed))
        if settings.panel is not None:
            visible = chosen_columns(settings.panel, vocabulary, "--imputation.panel").numpy()
            if len(visible) == vocabulary.size:
                raise UserError("--imputation.panel names every gene of the vocabulary: nothing is left to predict")
            ways.append(AllButPanel(visible))
        return ways

    def _sample_ids(self) -> list[str]:
        samples = self.context.samples
        rows = np.searchsorted(samples.column("row_id").to_numpy(), self._scored)
        ids: list[str] = samples.column("sample_id").take(rows).to_pylist()
        return ids

    def _read_predictions(self, hidden: HiddenGenes) -> dict[str, np.ndarray]:
        """By name, those made elsewhere for one way to hide genes, float32 N x G of the profiles that are scored."""
        addresses = named(self.settings.predictions)
        if taken := [name for name in addresses if name in (*self.context.predictors(), *BASELINES)]:
            raise UserError(f"imputation.predictions: the name {taken[0]!r} is taken: choose another", exit_code=2)
        files = {
            name: predictions_file(address, file_name(hidden), hidden is self._hidden[0])
            for name, address in addresses.items()
        }
        ids, vocabulary = self._sample_ids(), self.context.corpus.vocabulary
        return {name: read_predictions(file, ids, vocabulary) for name, file in files.items() if file is not None}

    def _write_input(self, hidden: HiddenGenes) -> None:
        assert self.settings.write_inputs is not None
        visible = np.concatenate(
            [np.where(hidden.mask(rows, truth.shape[1]), np.nan, truth) for rows, truth in self._batches()]
        )
        vocabulary = self.context.corpus.vocabulary
        write_hidden(self.settings.write_inputs, file_name(hidden), self._sample_ids(), visible, vocabulary)

    def _scored_with(
        self,
        hidden: HiddenGenes,
        train: Profiles,
        tuning: Profiles | None,
        fits: LinearFits,
        foreign: Mapping[str, np.ndarray],
    ) -> TaskResult:
        context, settings = self.context, self.settings
        if hidden.subject:
            log(f"imputation, {hidden.subject}")
        baselines, facts = fit_baselines(train, tuning, settings, hidden, fits)
        methods = {**context.predictors(), **baselines}
        given = Given(self._scored, foreign)
        sums = score_methods(methods, self._batches(), len(self._scored), hidden, context.genes_scored, given)
        if foreign:
            facts["without_prediction"] = given.lacking
        summary = summarise(sums, context.studies(self._scored), settings.resamples, context.settings.seed)
        share = hidden.rate if isinstance(hidden, RandomGenes) else summary.facts["hidden_share"]
        facts = {**summary.facts, **facts, "split": context.settings.split, "mask_rate": share}
        if not context.genes_scored.all():
            facts["genes_of_all_models"] = f"{context.genes_scored.sum():,} of {context.corpus.genes:,}"
        curves: dict[str, Sequence[Mapping[str, object]]] = {
            "expression_levels": error_by_level(sums, train.expression)
        }
        return TaskResult(
            self.name,
            hidden.subject,
            summary.scores,
            facts,
            summary.by_study,
            list(baselines),
            judged_by="mse",
            higher_is_better=False,
            curves=curves,
            row_ids=self._scored,
            rescore=lambda rows: scores_of(sums, rows),
        )

    def _profiles(self, row_ids: np.ndarray) -> Profiles:
        studies = np.array(self.context.studies(row_ids))
        return Profiles(row_ids, studies, self.context.expression(row_ids))

    def _batches(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Row ids and expression, float32 [n, G], of the profiles to score."""
        for start in range(0, len(self._scored), self.context.batch_size):
            row_ids = self._scored[start : start + self.context.batch_size]
            yield row_ids, self.context.expression(row_ids).astype(np.float32)


def file_name(hidden: HiddenGenes) -> str:
    """What files about one way to hide genes are called, without ending."""
    rate = f"{100 * hidden.rate:g} % masked" if isinstance(hidden, RandomGenes) else hidden.subject
    return re.sub(r"[^0-9a-z.]+", "-", rate.lower())


@dataclass
class Given:
    """Predictions made elsewhere of the profiles ``row_ids`` (ascending): float32 N x G each, NaN where there is none.

    Entries that one of them lacks are scored for no method; ``lacking`` counts them.
    """

    row_ids: np.ndarray
    predictions: Mapping[str, np.ndarray]
    lacking: dict[str, int] = field(default_factory=dict)

    def of(self, row_ids: np.ndarray) -> dict[str, np.ndarray]:
        rows = np.searchsorted(self.row_ids, row_ids)
        return {name: values[rows] for name, values in self.predictions.items()}

    def present(self, row_ids: np.ndarray, counted: np.ndarray) -> np.ndarray:
        """``counted`` (boolean B x G) without the entries that one of the predictions lacks."""
        left = counted
        for name, predicted in self.of(row_ids).items():
            there = np.isfinite(predicted)
            self.lacking[name] = self.lacking.get(name, 0) + int((counted & ~there).sum())
            left = left & there
        return left


def score_methods(
    methods: Mapping[str, Predictor],
    batches: Iterable[tuple[np.ndarray, np.ndarray]],
    profiles: int,
    hidden: HiddenGenes,
    genes_scored: np.ndarray | bool = True,
    given: Given | None = None,
) -> dict[str, MethodSums]:
    """Hide, predict and sum, one batch in memory at a time; only ``genes_scored`` (boolean [G]) count.

    Raises UserError where a method predicts what is not a number: that would otherwise vanish from its scores.
    """
    given = given or Given(np.empty(0, np.int64), {})
    sums = {name: MethodSums() for name in (*methods, *given.predictions)}
    for row_ids, truth in tracked(((len(batch[0]), batch) for batch in batches), profiles, "imputing"):
        mask = hidden.mask(row_ids, truth.shape[1])
        counted = given.present(row_ids, mask & np.isfinite(truth) & genes_scored)
        for name, predicted in given.of(row_ids).items():
            sums[name].add(truth, predicted, counted)
        visible = np.where(mask, np.float32(np.nan), truth)
        for name, predict in methods.items():
            predicted = predict(visible)
            if not np.isfinite(predicted[counted]).all():
                raise UserError(f"{name} predicts values that are not finite for rows {row_ids[0]} to {row_ids[-1]}")
            sums[name].add(truth, predicted, counted)
    return sums


def fit_baselines(
    train: Profiles,
    validation: Profiles | None,
    settings: ImputationSettings,
    hidden: HiddenGenes,
    fits: LinearFits,
) -> tuple[dict[str, Predictor], dict[str, object]]:
    """The simple methods fitted on train profiles, and what was chosen for them.

    What each chooses has the smallest error on ``validation`` with genes hidden in the same way; without validation on
    left-out studies of train. ``fits``: of the train profiles, kept from one way of hiding genes to the next.
    """
    # torch takes seconds to import, and --help does without it
    from evaluation.methods.baselines import Linear, chosen_linear_baselines, gene_means, gene_medians
    from evaluation.methods.nearest_profiles import fit_nearest, fit_ridge
    from pretrain.prior.choice import HeldOut
    from pretrain.prior.fit import trials_of

    def mask_of(rows: np.ndarray) -> np.ndarray:
        return hidden.mask(train.row_ids[rows], train.expression.shape[1])

    log(f"fitting baselines on {len(train.row_ids):,} train profiles")
    held_out = None
    if validation is not None:
        mask = hidden.mask(validation.row_ids, validation.expression.shape[1])
        held_out = HeldOut.hiding(mask, validation.expression)
    trials, chosen_on = trials_of(train.expression, train.studies, held_out, mask_of, settings.tuning_profiles)
    linear = chosen_linear_baselines(fits, trials, chosen_on)
    ridge, penalty = fit_ridge(train.expression, trials, mask_of)
    nearest, neighbours = fit_nearest(train.expression, trials)
    predictors: tuple[Predictor, ...] = (
        Linear(linear.rectified.prior).predict,
        Linear(linear.ppca.prior).predict,
        ridge,
        nearest,
        gene_medians(train.expression).predict,
        gene_means(train.expression).predict,
    )
    baselines = dict(zip(BASELINES, predictors, strict=True))
    facts: dict[str, object] = {
        "fit_profiles": len(train.row_ids),
        "pca_rank": linear.ppca.choice.rank,
        "pca_noise": linear.ppca.choice.noise,
        "rectified_rank": linear.rectified.choice.rank,
        "rectified_noise": linear.rectified.choice.noise,
        "ridge_penalty": penalty,
        "neighbours": neighbours,
        "pca_rank_chosen_on": chosen_on,
    }
    return baselines, facts


def mask_rate_curve(results: Sequence[TaskResult]) -> list[dict[str, object]]:
    """Error and correlation of each method in each result, of a share of random genes each, with their intervals."""
    rows: list[dict[str, object]] = []
    for result in results:
        found = {(score.method, score.metric): score.interval for score in result.scores}
        for method in dict.fromkeys(score.method for score in result.scores):
            row: dict[str, object] = {"mask_rate": result.facts["mask_rate"], "method": method}
            for metric in ("pearson", "mse"):
                interval = found[method, metric]
                row |= {metric: interval.value, f"{metric}_low": interval.low, f"{metric}_high": interval.high}
            rows.append(row)
    return sorted(rows, key=lambda row: (str(row["method"]), str(row["mask_rate"])))
