"""Which genes of a profile are masked: a pure function of (seed, epoch, row_id), computed on any device.

A counter-based hash replaces a random generator, so that no rank, order or batch size can enter, and no state needs
saving. B profiles, G genes.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Odd constants of the SplitMix64 generator (Steele, Lea, Flood 2014), as signed 64-bit numbers.
_STEP = 0x9E3779B97F4A7C15 - 2**64
_MIX_A = 0xBF58476D1CE4E5B9 - 2**64
_MIX_B = 0x94D049BB133111EB - 2**64

# Validation uses this epoch's masks, whenever it runs.
VALIDATION_EPOCH = 2**31 - 1


def mask_of_profiles(
    row_ids_B: Tensor, genes: int, rate: float, seed: int, epoch: int, highest_rate: float | None = None
) -> Tensor:
    """Boolean B x G, True where a gene is masked: each with probability ``rate``, independently.

    With ``highest_rate``, the probability is one of the profile's own, drawn evenly between the two. ``row_ids_B``:
    int64, on the device where the mask is wanted. Costs about ten integer operations per gene.
    """
    key_B = _hash(_hash(_hash(torch.full_like(row_ids_B, seed)) + epoch) + row_ids_B)
    counter_G = torch.arange(genes, device=row_ids_B.device, dtype=torch.int64)
    fraction_BG = _fraction(_hash(key_B.unsqueeze(1) + counter_G * _STEP))
    if highest_rate is None:
        return fraction_BG < rate
    # the place before that of the first gene
    own_B = rate + (highest_rate - rate) * _fraction(_hash(key_B - _STEP))
    return fraction_BG < own_B.unsqueeze(1)


def _fraction(bits: Tensor) -> Tensor:
    """The top 53 bits as a fraction; the shift is arithmetic, so the sign is masked off."""
    return ((bits >> 11) & (2**53 - 1)).double() * 2.0**-53


def _hash(values: Tensor) -> Tensor:
    """SplitMix64's finaliser, with wrapping 64-bit arithmetic."""
    values = values + _STEP
    values = (values ^ _shift_right(values, 30)) * _MIX_A
    values = (values ^ _shift_right(values, 27)) * _MIX_B
    return values ^ _shift_right(values, 31)


def _shift_right(values: Tensor, bits: int) -> Tensor:
    """A logical shift: torch's own keeps the sign."""
    return (values >> bits) & (2 ** (64 - bits) - 1)
