"""Of profiles of different studies that are nearly the same, the first stays."""

import numpy as np
import pandas as pd

from dataprep.pipeline.near_duplicates import Pair, note_refusals, pairs_of_blocks, sketch

GENES = 3000
NOISE = np.random.default_rng(1).normal(size=(8, GENES))
PROFILE = np.random.default_rng(0).uniform(0, 12, GENES)


def like(r: float, number: int) -> np.ndarray:
    """A profile with about this correlation with :data:`PROFILE`."""
    return PROFILE + NOISE[number] * PROFILE.std() * np.sqrt(1 / r**2 - 1)


def pairs(profiles: list[np.ndarray], studies: list[int], bound: float) -> list[Pair]:
    block = np.arange(len(profiles)), sketch(np.stack(profiles).astype(np.float16)), np.array(studies)
    return pairs_of_blocks(block, block, bound)


def test_pairs_over_the_bound_are_found_between_studies_and_not_within_one() -> None:
    profiles = [PROFILE, like(0.9995, 0), like(0.9995, 1), like(0.995, 2)]
    assert [pair[:2] for pair in pairs(profiles, [0, 1, 0, 2], bound=0.999)] == [(0, 1)]


def test_r_is_estimated_closely_where_it_is_high() -> None:
    for number, r in enumerate((0.9, 0.99, 0.999)):
        exact = np.corrcoef(PROFILE, like(r, number))[0, 1]
        ((_, _, found),) = pairs([PROFILE, like(r, number)], [0, 1], bound=0.5)
        assert abs(found - exact) < 0.25 * (1 - exact)


def test_scale_and_genes_that_are_not_measured_do_not_hide_a_duplicate() -> None:
    other = 0.5 * PROFILE + 1
    other[:5] = np.nan
    assert len(pairs([PROFILE, other], [0, 1], bound=0.99)) == 1


def test_a_profile_without_variation_is_like_no_other() -> None:
    assert pairs([np.zeros(GENES), np.zeros(GENES)], [0, 1], bound=0.5) == []


def test_a_sample_is_refused_only_for_one_that_stays() -> None:
    samples = pd.DataFrame({"source": list("abcd"), "sample_id": ["s0", "s1", "s2", "s3"]})
    samples = samples.assign(reason=None, value=None)
    note_refusals(samples, [(1, 2, 0.9999), (0, 1, 0.9995), (0, 3, 0.9991), (2, 3, 0.9999)])
    assert samples["reason"].isna().tolist() == [True, False, True, False]
    assert samples["value"].tolist()[1::2] == ["a: s0, r 0.9995", "c: s2, r 0.9999"]
