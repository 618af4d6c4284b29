"""Division of studies into train, validation and test. A study is never divided, so no batch effect leaks."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping

from dataprep.config import SplitSettings
from dataprep.runtime.command_line import UserError


def split_studies(profiles_of: Mapping[str, int], settings: SplitSettings, seed: int) -> dict[str, str]:
    """The split of every study, given its number of profiles.

    Named studies go where they are named, all others to train. Without names, studies are taken in an order that
    depends on the seed and their names alone. Each goes to test if it fits into what test may still take, else to
    validation on the same condition, else to train; a split that would stay empty gets the smallest study that another
    can spare.
    Raises :class:`UserError` for a named study that is not there, and where nothing is left to train on.
    """
    split_of = _by_name(profiles_of, settings) if settings.by_name else _by_fraction(profiles_of, settings, seed)
    if profiles_of and "train" not in split_of.values():
        raise UserError(f"no study is left to train on: all {len(profiles_of)} are held out")
    return split_of


def empty_splits(split_of: Mapping[str, str], settings: SplitSettings) -> list[str]:
    """The splits that were to get a fraction of the profiles and got no study."""
    fractions = {"validation": settings.validation_fraction, "test": settings.test_fraction}
    if settings.by_name:
        return []
    return [split for split, fraction in fractions.items() if fraction and split not in split_of.values()]


def _by_name(profiles_of: Mapping[str, int], settings: SplitSettings) -> dict[str, str]:
    named = dict.fromkeys(settings.validation, "validation") | dict.fromkeys(settings.test, "test")
    absent = sorted(set(named) - set(profiles_of))
    if absent:
        raise UserError(
            f"studies named in split have no profile in the corpus: {', '.join(absent)}; "
            f"there are {', '.join(sorted(profiles_of)[:20])}"
        )
    return {study: named.get(study, "train") for study in profiles_of}


def _by_fraction(profiles_of: Mapping[str, int], settings: SplitSettings, seed: int) -> dict[str, str]:
    total = sum(profiles_of.values())
    capacity = {"test": settings.test_fraction * total, "validation": settings.validation_fraction * total}
    wanted = [split for split, profiles in capacity.items() if profiles > 0]
    split_of: dict[str, str] = {}
    for study in sorted(profiles_of, key=lambda study: _order_of(seed, study)):
        chosen = next((split for split in wanted if profiles_of[study] <= capacity[split]), "train")
        split_of[study] = chosen
        if chosen != "train":
            capacity[chosen] -= profiles_of[study]
    for split in wanted:
        studies_in = Counter(split_of.values())
        spare = [study for study, chosen in split_of.items() if studies_in[chosen] > 1]
        if split not in studies_in and spare:
            chosen_study = min(spare, key=lambda study: (split_of[study] != "train", profiles_of[study], study))
            split_of[chosen_study] = split
    return split_of


def _order_of(seed: int, study: str) -> bytes:
    return hashlib.sha256(f"{seed}/{study}".encode()).digest()
