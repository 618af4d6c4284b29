"""Squared error on masked genes. B profiles, G genes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def masked_profile_loss(model: Callable[[Tensor], Any], expression_BG: Tensor, mask_BG: Tensor) -> Tensor:
    """The loss of each profile (B) that training minimises: of what ``model`` makes of it without the masked genes."""
    predicted_BG = model(expression_BG.masked_fill(mask_BG, torch.nan)).expression
    return profile_loss(*masked_squared_error(predicted_BG, expression_BG, mask_BG))


def masked_squared_error(predicted_BG: Tensor, expression_BG: Tensor, mask_BG: Tensor) -> tuple[Tensor, Tensor]:
    """Per profile: the sum of squared errors over masked genes that were measured, and their number (both B, fp32).

    Missing genes (NaN in ``expression_BG``) have no truth to compare with, so they never count, masked or not.
    """
    counted_BG = mask_BG & ~expression_BG.isnan()
    error_BG = (predicted_BG.float() - expression_BG.float()).masked_fill(~counted_BG, 0.0)
    return error_BG.square().sum(dim=1), counted_BG.sum(dim=1)


def mean_squared_error(squared_error_B: Tensor, count_B: Tensor) -> Tensor:
    """Mean over all masked entries of the batch: the published figure, used for validation."""
    return squared_error_B.sum() / count_B.sum().clamp(min=1)


def profile_loss(squared_error_B: Tensor, count_B: Tensor) -> Tensor:
    """Mean squared error of each profile (B), 0 where nothing is masked.

    Training weighs profiles, not entries: the weight of a profile in a global batch is then 1 / (profiles in it),
    known without asking the other workers, and the same at any world size and accumulation.
    """
    return squared_error_B / count_B.clamp(min=1)
