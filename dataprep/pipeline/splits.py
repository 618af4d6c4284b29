"""Division of groups of samples into train, validation and test. A group, mostly a study, is never divided, so that
no batch effect leaks."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping

from dataprep.config import SplitSettings
from dataprep.runtime.command_line import UserError


def split_groups(
    profiles_of: Mapping[str, int], settings: SplitSettings, seed: int, stratum_of: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The split of every group, given its number of profiles and, to stratify, the stratum that it belongs to.

    Named groups go where they are named, all others to train. ``stable`` places each by its name and the seed alone.
    Otherwise groups are taken in an order that depends on the seed and their names. Each goes to test if it fits into
    what test may still take of its stratum, else to validation on the same condition, else to train; a split that would
    stay empty gets the smallest group that another can spare.
    Raises :class:`UserError` for a named group that is not there, and where nothing is left to train on.
    """
    if settings.by_name:
        split_of = _by_name(profiles_of, settings)
    elif settings.stable:
        split_of = {group: _by_position(position(seed, "group", group), settings) for group in profiles_of}
    else:
        split_of = _by_fraction(profiles_of, settings, seed, stratum_of or {})
    if profiles_of and "train" not in split_of.values():
        what = "group" if settings.by else "study"
        raise UserError(f"no {what} is left to train on: all {len(profiles_of)} are held out")
    return split_of


def empty_splits(split_of: Mapping[str, str], settings: SplitSettings) -> list[str]:
    """The splits that were to get a fraction of the profiles and got no group."""
    fractions = {"validation": settings.validation_fraction, "test": settings.test_fraction}
    if settings.by_name:
        return []
    return [split for split, fraction in fractions.items() if fraction and split not in split_of.values()]


def position(seed: int, kind: str, name: str) -> float:
    """A number from 0 to 1 that follows from the seed and a name alone."""
    digest = hashlib.sha256(f"{seed}/{kind}/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _by_position(place: float, settings: SplitSettings) -> str:
    if place < settings.test_fraction:
        return "test"
    return "validation" if place < settings.test_fraction + settings.validation_fraction else "train"


def _by_name(profiles_of: Mapping[str, int], settings: SplitSettings) -> dict[str, str]:
    named = dict.fromkeys(settings.validation, "validation") | dict.fromkeys(settings.test, "test")
    absent = sorted(set(named) - set(profiles_of))
    if absent:
        what = "groups" if settings.by else "studies"
        raise UserError(
            f"{what} named in split have no profile in the corpus: {', '.join(absent)}; "
            f"there are {', '.join(sorted(profiles_of)[:20])}"
        )
    return {group: named.get(group, "train") for group in profiles_of}


def _by_fraction(
    profiles_of: Mapping[str, int], settings: SplitSettings, seed: int, stratum_of: Mapping[str, str]
) -> dict[str, str]:
    order = sorted(profiles_of, key=lambda group: _order_of(seed, group))
    split_of: dict[str, str] = {}
    for stratum in sorted({stratum_of.get(group, "") for group in order}):
        own = [group for group in order if stratum_of.get(group, "") == stratum]
        split_of |= _fitted(own, profiles_of, settings)
    _fill_empty(split_of, profiles_of, [split for split, fraction in _fractions(settings).items() if fraction])
    return split_of


def _fractions(settings: SplitSettings) -> dict[str, float]:
    return {"test": settings.test_fraction, "validation": settings.validation_fraction}


def _fitted(groups: Collection[str], profiles_of: Mapping[str, int], settings: SplitSettings) -> dict[str, str]:
    total = sum(profiles_of[group] for group in groups)
    capacity = {split: fraction * total for split, fraction in _fractions(settings).items() if fraction}
    split_of: dict[str, str] = {}
    for group in groups:
        chosen = next((split for split in capacity if profiles_of[group] <= capacity[split]), "train")
        split_of[group] = chosen
        if chosen != "train":
            capacity[chosen] -= profiles_of[group]
    return split_of


def _fill_empty(split_of: dict[str, str], profiles_of: Mapping[str, int], wanted: Collection[str]) -> None:
    for split in wanted:
        groups_in = Counter(split_of.values())
        spare = [group for group, chosen in split_of.items() if groups_in[chosen] > 1]
        if split not in groups_in and spare:
            chosen_group = min(spare, key=lambda group: (split_of[group] != "train", profiles_of[group], group))
            split_of[chosen_group] = split


def _order_of(seed: int, group: str) -> bytes:
    return hashlib.sha256(f"{seed}/{group}".encode()).digest()
