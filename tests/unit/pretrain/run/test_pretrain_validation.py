"""Validation scores are those of a plain computation over the masked and measured entries."""

import numpy as np
import pytest
import torch
from made_corpora import make_corpus

from dataprep.corpus import read_split
from pretrain.model.masking import VALIDATION_EPOCH, mask_of_profiles
from pretrain.training.validation import Validation

GENES, PROFILES, RATE, SEED = 60, 10, 0.3, 4


class Noisy(torch.nn.Module):
    """Predicts something that depends on the profile; NaN, which nobody may look at, where nothing was masked."""

    def forward(self, expression_BG: torch.Tensor):
        self.seen = expression_BG
        known_BG = expression_BG.nan_to_num(0.0)
        predicted_BG = known_BG.mean(dim=1, keepdim=True) + torch.linspace(0, 1, expression_BG.shape[1])
        predicted_BG = torch.where(expression_BG.isnan(), predicted_BG, torch.nan)
        return type("Output", (), {"expression": predicted_BG})


@pytest.fixture
def corpus(tmp_path):
    return make_corpus(str(tmp_path / "corpus"), {"train": 8, "validation": PROFILES, "test": 0}, genes=GENES)


def expected_score(corpus) -> tuple[float, float]:
    row_ids, values = read_split(corpus, "validation")
    expression = values.astype(np.float32)
    mask = mask_of_profiles(torch.from_numpy(row_ids), GENES, RATE, SEED, VALIDATION_EPOCH).numpy()
    predicted = Noisy()(torch.from_numpy(np.where(mask, np.nan, expression))).expression.numpy().astype(np.float64)
    counted = mask & ~np.isnan(expression)
    x, y = predicted[counted], expression[counted].astype(np.float64)
    return float(np.square(x - y).mean()), float(np.corrcoef(x, y)[0, 1])


@pytest.mark.parametrize("workers", [1, 3])
def test_the_score_of_all_workers_is_that_of_a_plain_computation(corpus, workers):
    """10 profiles in micro-batches of 4: none of the workers' shares fills its last one."""
    totals: list[torch.Tensor] = []

    def keep(values: torch.Tensor) -> torch.Tensor:
        totals.append(values)
        return torch.stack(totals).sum(dim=0)

    for worker in range(workers):
        validation = Validation(corpus, "validation", 100, worker, workers, 4, SEED, RATE)
        score = validation.score(Noisy(), torch.device("cpu"), keep)
    loss, pearson = expected_score(corpus)
    assert score.loss == pytest.approx(loss, rel=1e-6)
    assert score.pearson == pytest.approx(pearson, rel=1e-6)
