"""Profiles of different studies that are nearly the same: one sample published twice, processed in two ways.

All pairs are compared by Pearson's r of their log1p TPM, block of profiles by block, as Ray tasks. Profiles are first
projected on random directions, the same for all, which keep small distances up to a relative error: with
:data:`DIRECTIONS` of them that of 1 - r is about 6 % (standard deviation sqrt(2 / DIRECTIONS); Johnson and
Lindenstrauss). The driver holds 1 KB per profile. N profiles, D directions.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cache

import numpy as np
import pandas as pd
import ray

from dataprep.pipeline import quality_control as qc
from dataprep.pipeline.restart.profile_parts import ProfileParts
from dataprep.runtime.ray_session import results_of

DIRECTIONS = 512
_SEED = 20_010
_PROFILES_PER_BLOCK = 4096

# Ordinals of an earlier and a later profile, and their r.
Pair = tuple[int, int, float]


def refuse_near_duplicates(
    samples: pd.DataFrame,
    parts: ProfileParts,
    bound: float,
    earlier: pd.DataFrame | None = None,
    earlier_sketches: np.ndarray | None = None,
) -> None:
    """Refuse each kept sample whose profile has r over ``bound`` with an earlier kept one of another study.

    ``samples`` has the ``part`` and ``place`` of each profile, and its digest in ``profile``. ``earlier``: those that
    the corpus has already, with negative numbers; none of them is refused.
    """
    kept = samples[samples["reason"].isna()]
    sketches = _sketches(kept, parts)
    if earlier is None or earlier_sketches is None:
        everyone = kept
    else:
        everyone, sketches = pd.concat([earlier, kept]), np.concatenate([earlier_sketches, sketches])
    studies = pd.factorize(everyone["study_id"])[0]
    pairs = _all_pairs(everyone.index.to_numpy(), sketches, studies, bound)
    note_refusals(samples, [pair for pair in pairs if pair[1] >= 0], everyone)


def note_refusals(samples: pd.DataFrame, pairs: Iterable[Pair], everyone: pd.DataFrame | None = None) -> None:
    """Refuse the later one of each pair whose earlier one stays. ``everyone`` has the names of both."""
    everyone = samples if everyone is None else everyone
    earlier_of: dict[int, list[tuple[int, float]]] = defaultdict(list)
    for earlier, later, r in pairs:
        earlier_of[later].append((earlier, r))
    refused: set[int] = set()
    for later in sorted(earlier_of):
        staying = [(r, earlier) for earlier, r in earlier_of[later] if earlier not in refused]
        if staying:
            r, earlier = max(staying, key=lambda pair: (pair[0], -pair[1]))
            refused.add(later)
            samples.loc[later, "reason"] = qc.NEAR_DUPLICATE
            samples.loc[later, "value"] = (
                f"{everyone.at[earlier, 'source']}: {everyone.at[earlier, 'sample_id']}, r {r:.4f}"
            )


def sketch(expression_NG: np.ndarray) -> np.ndarray:
    """Profiles, centred and projected on random directions, of length 1: float16 [N, D]. A gene that a profile does not
    measure counts as its mean."""
    profiles = expression_NG.astype(np.float32)
    centred = np.nan_to_num(profiles - np.nanmean(profiles, axis=1, keepdims=True), nan=0.0)
    projected = centred @ _directions(profiles.shape[1])
    lengths = np.linalg.norm(projected, axis=1, keepdims=True)
    return np.divide(projected, lengths, out=np.zeros_like(projected), where=lengths > 0).astype(np.float16)


def pairs_of_blocks(
    one: tuple[np.ndarray, np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray, np.ndarray], bound: float
) -> list[Pair]:
    """Pairs of a profile of one block and a later one of the other, of another study, with r over the bound.

    A block is ordinals [N], sketches [N, D] and numbers of studies [N].
    """
    r = one[1].astype(np.float32) @ other[1].astype(np.float32).T
    near = (r > bound) & (one[0][:, None] < other[0]) & (one[2][:, None] != other[2])
    return [(int(one[0][i]), int(other[0][j]), float(r[i, j])) for i, j in np.argwhere(near)]


@cache
def _directions(genes: int) -> np.ndarray:
    signs = np.random.default_rng(_SEED).integers(0, 2, (genes, DIRECTIONS), np.int8)
    return (2 * signs - 1).astype(np.float32)


def _sketches(kept: pd.DataFrame, parts: ProfileParts) -> np.ndarray:
    """Those of kept samples, float16 [N, D] in their order."""
    sketches = np.empty((len(kept), DIRECTIONS), np.float16)
    positions = pd.Series(np.arange(len(kept)), kept.index)
    calls = (
        (
            positions[own.index].to_numpy(),
            parts,
            own["part"].to_numpy(np.int64),
            own["place"].to_numpy(np.int64),
            own["profile"].to_list(),
        )
        for _, own in kept.groupby("part")
    )
    for own, drawn in results_of(_sketches_of_part, calls, "the search for near-duplicates"):
        sketches[own] = drawn
    return sketches


def _sketches_of_part(
    positions: np.ndarray, parts: ProfileParts, numbers: np.ndarray, places: np.ndarray, digests: Sequence[bytes]
) -> tuple[np.ndarray, np.ndarray]:
    return positions, sketch(parts.profiles(numbers, places, digests))


def _all_pairs(ordinals: np.ndarray, sketches: np.ndarray, studies: np.ndarray, bound: float) -> list[Pair]:
    starts: Sequence[int] = range(0, len(ordinals), _PROFILES_PER_BLOCK)
    parts = [slice(start, start + _PROFILES_PER_BLOCK) for start in starts]
    blocks = [ray.put((ordinals[part], sketches[part], studies[part])) for part in parts]
    calls = ((one, other, bound) for number, one in enumerate(blocks) for other in blocks[number:])
    return [pair for found in results_of(pairs_of_blocks, calls, "the search for near-duplicates") for pair in found]
