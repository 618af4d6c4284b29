"""``pretrain prior``: fit the linear prior of a corpus and write it there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from dataprep.corpus import Corpus, open_corpus, read_split
from dataprep.runtime.command_line import UserError
from dataprep.runtime.terminal import log, write_result
from pretrain.config import PriorSettings
from pretrain.model.masking import VALIDATION_EPOCH, mask_of_profiles
from pretrain.prior.choice import HeldOut, choose
from pretrain.prior.fit import FittedPrior, LinearFits, trials_of
from pretrain.prior.prior_file import PRIOR_FILE, write_prior
from pretrain.prior.streamed import corpus_parts, streamed_directions

_FEWEST_PROFILES = 10


def fit_prior(settings: PriorSettings) -> dict[str, Any]:
    """Fit on the train split, choose on the validation split, write, and return what was chosen.

    Up to ``in_memory_profiles`` train profiles are held in memory; more are streamed through Ray, and of these the
    prior is the plain one.
    """
    corpus = open_corpus(settings.corpus)
    profiles = corpus.rows("train")
    if profiles < _FEWEST_PROFILES:
        raise UserError(f"{corpus.folder.uri}: {profiles} train profiles are too few for a prior ({_FEWEST_PROFILES})")
    corpus.folder.require_writable(corpus.own_file(PRIOR_FILE))
    held_out = _validation(corpus, settings)
    if profiles <= settings.in_memory_profiles:
        fitted, chosen_on = _in_memory(corpus, held_out, settings)
    else:
        fitted, chosen_on = _streamed(corpus, held_out, settings), "validation"
    choice = fitted.choice
    found = {
        "profiles": profiles,
        "rank": choice.rank,
        "noise": choice.noise,
        "mse": choice.mse,
        "chosen_on": chosen_on,
        "rectified": fitted.prior.rectified,
    }
    write_prior(corpus, fitted.prior, {name: str(value) for name, value in found.items()})
    write_result(
        f"{corpus.folder.uri}/{corpus.own_file(PRIOR_FILE)}: {choice.rank} components, "
        f"noise {choice.noise:g} of a gene's variance"
        f"{', rectified at zero' if fitted.prior.rectified else ''}; MSE {choice.mse:.4f} on {chosen_on}"
    )
    return {"corpus": corpus.folder.uri, **found}


def _in_memory(corpus: Corpus, held_out: HeldOut | None, settings: PriorSettings) -> tuple[FittedPrior, str]:
    row_ids, expression = read_split(corpus, "train")
    samples = corpus.samples().sort_by("row_id")
    studies = np.array(samples.column("study_id").take(pa.array(row_ids)).to_pylist())
    trials, chosen_on = trials_of(
        expression,
        studies,
        held_out,
        lambda rows: _mask(row_ids[rows], corpus.genes, settings),
        settings.tuning_profiles,
    )
    log(f"fitting on {len(row_ids):,} train profiles")
    fits = LinearFits(expression, studies, settings.ranks)
    fitted = fits.ppca(trials)
    if settings.rectified:
        fitted = fits.rectified(trials, fitted.choice)
    return fitted, chosen_on


def _streamed(corpus: Corpus, held_out: HeldOut | None, settings: PriorSettings) -> FittedPrior:
    if held_out is None:
        raise UserError(f"{corpus.folder.uri}: the validation split is empty, and rank and noise are chosen on it")
    if settings.rectified:
        log(f"more than {settings.in_memory_profiles:,} train profiles: the prior is not rectified at zero")
    parts = corpus_parts(corpus, "train")
    log(f"streaming {corpus.rows('train'):,} train profiles in {len(parts):,} tasks")
    directions = streamed_directions(parts, corpus.genes, max(settings.ranks))
    whole = directions.prior(1.0)
    choice = choose([(whole, held_out)], settings.ranks)
    return FittedPrior(whole.narrowed(choice.rank, choice.noise), choice)


def _validation(corpus: Corpus, settings: PriorSettings) -> HeldOut | None:
    row_ids, expression = read_split(corpus, "validation", settings.tuning_profiles)
    if not len(row_ids):
        return None
    return HeldOut.hiding(_mask(row_ids, corpus.genes, settings), expression)


def _mask(row_ids: np.ndarray | Sequence[int], genes: int, settings: PriorSettings) -> np.ndarray:
    ids = torch.from_numpy(np.array(row_ids, np.int64))
    return mask_of_profiles(ids, genes, settings.mask_rate, settings.seed, VALIDATION_EPOCH).numpy()
