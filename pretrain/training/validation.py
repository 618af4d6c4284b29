"""Loss and imputation correlation on a validation split, shared over the workers.

Masks depend on the seed and the row ids alone, so the same genes are masked at every validation and world size.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dataprep.corpus import Corpus, read_split
from pretrain.data.stream import to_device
from pretrain.model.loss import masked_squared_error
from pretrain.model.masking import VALIDATION_EPOCH, mask_of_profiles


@dataclass(frozen=True)
class ValidationScore:
    """Over all masked entries that were measured: mean squared error, and Pearson correlation with the truth."""

    loss: float
    pearson: float


class Validation:
    """The first profiles of a validation split (a random sample: the corpus is shuffled), kept in memory as float16:

    40 kB per profile with 20,024 genes, divided by the number of workers.
    """

    def __init__(
        self,
        corpus: Corpus,
        split: str,
        max_profiles: int,
        worker: int,
        workers: int,
        micro_profiles: int,
        seed: int,
        rate: float,
    ) -> None:
        row_ids, expression = read_split(corpus, split, max_profiles)
        self._row_ids, self._expression = row_ids[worker::workers], expression[worker::workers].copy()
        self.profiles = len(row_ids)
        self._micro_profiles = micro_profiles
        # every worker makes as many passes as the one with most profiles: ZeRO-3 gathers in each
        self._passes = math.ceil(self.profiles / (workers * micro_profiles))
        self._seed = seed
        self._rate = rate

    @torch.no_grad()
    def score(self, model: Any, device: torch.device, sum_over_workers: Callable[[Tensor], Tensor]) -> ValidationScore:
        """Run ``model`` (in evaluation mode while it lasts) over the profiles. All workers must call it."""
        model.eval()
        totals = torch.zeros(7, dtype=torch.float64, device=device)
        for number in range(self._passes):
            row_ids_B, expression_BG, real_B = self._batch(number, device)
            mask_BG = mask_of_profiles(row_ids_B, expression_BG.shape[1], self._rate, self._seed, VALIDATION_EPOCH)
            predicted_BG = model(expression_BG.masked_fill(mask_BG, torch.nan)).expression
            mask_BG &= real_B.unsqueeze(1)
            totals += _sums(predicted_BG, expression_BG, mask_BG)
        model.train()
        return _score(sum_over_workers(totals).tolist())

    def _batch(self, number: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Always ``micro_profiles`` rows, filled up with zeros; the third tensor says which are real."""
        chosen = slice(number * self._micro_profiles, (number + 1) * self._micro_profiles)
        ids, values = self._row_ids[chosen], self._expression[chosen].astype(np.float32)
        fill = self._micro_profiles - len(ids)
        real_B = torch.arange(self._micro_profiles, device=device) < len(ids)
        ids_B = to_device(torch.from_numpy(np.pad(ids, (0, fill))), device)
        values_BG = to_device(torch.from_numpy(np.pad(values, ((0, fill), (0, 0)))), device)
        return ids_B, values_BG, real_B


def _sums(predicted_BG: Tensor, expression_BG: Tensor, mask_BG: Tensor) -> Tensor:
    """Count, squared error and moments over the masked entries, float64."""
    squared_error_B, count_B = masked_squared_error(predicted_BG, expression_BG, mask_BG)
    ignored_BG = ~mask_BG | expression_BG.isnan()
    # zeros instead of a selection, whose size a GPU would have to be waited for
    x_BG = predicted_BG.double().masked_fill(ignored_BG, 0.0)
    y_BG = expression_BG.double().masked_fill(ignored_BG, 0.0)
    moments = [x_BG, y_BG, x_BG * x_BG, y_BG * y_BG, x_BG * y_BG]
    return torch.stack([count_B.sum(), squared_error_B.double().sum(), *(moment_BG.sum() for moment_BG in moments)])


def _score(totals: list[float]) -> ValidationScore:
    count, squared_error, x, y, xx, yy, xy = totals
    if count == 0:
        return ValidationScore(math.nan, math.nan)
    spread = (count * xx - x * x) * (count * yy - y * y)
    pearson = (count * xy - x * y) / math.sqrt(spread) if spread > 0 else math.nan
    return ValidationScore(squared_error / count, pearson)
