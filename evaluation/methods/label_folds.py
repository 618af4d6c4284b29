"""Folds for classification: what is kept whole, so that a batch effect or a patient cannot give the class away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from dataprep.runtime.command_line import UserError
from evaluation.inference.labels import LabelledProfiles
from evaluation.scores.folds import Folds, group_folds, joined_groups

Grouping = Literal["auto", "groups", "none"]
# How results name what the columns that nearly everybody has are about.
_PLURALS = {"study_id": "studies"}


@dataclass(frozen=True)
class KnownGroups:
    """What is known of N samples: ``columns``, str [N] by name, to keep whole; ``subjects``: str [N], whose they are.

    Empty where not known.
    """

    columns: Mapping[str, np.ndarray]
    subjects: np.ndarray

    @property
    def unit(self) -> str:
        """What the columns make, in the plural."""
        names = list(self.columns)
        return _PLURALS.get(names[0], f"groups of {names[0]}") if len(names) == 1 else f"groups of {', '.join(names)}"


@dataclass(frozen=True)
class KeptWhole:
    """``groups``: str [N], named by ``unit``; ``warning``: what they do not keep apart, empty if nothing.

    ``by_columns``: whether they are those that were asked for.
    """

    groups: np.ndarray
    unit: str
    warning: str
    by_columns: bool


def kept_whole(labelled: LabelledProfiles, known: KnownGroups, grouping: Grouping) -> KeptWhole:
    """Groups that folds keep whole: those of the columns, with each subject in one.

    Where a class is of one group only, no fold could learn it from another: ``auto`` then keeps subjects whole, or
    single samples where none is known, and ``groups`` raises UserError.
    """
    subjects = {"subject": known.subjects} if (known.subjects != "").any() else {}
    alone = np.array([f"row {row}" for row in range(len(labelled.row_ids))])
    if grouping == "none":
        return KeptWhole(alone, "samples", "samples of one study are in several, so batch effects can help", False)
    groups = joined_groups({**known.columns, **subjects})
    lone = [name for number, name in enumerate(labelled.classes) if len(set(groups[labelled.class_of == number])) < 2]
    if not lone:
        return KeptWhole(groups, known.unit, "", True)
    of_one = f"{len(lone)} of {len(labelled.classes)} classes are of one of the {known.unit}, e.g. {lone[0]}"
    if grouping == "groups":
        raise UserError(
            f"label {labelled.label!r} cannot be split by {known.unit}: {of_one}; try --classification.grouping auto"
        )
    kept = joined_groups(subjects) if subjects else alone
    unit = "patients" if subjects else "samples"
    return KeptWhole(kept, unit, f"{of_one}: {unit} are kept whole instead, so batch effects can help", False)


def label_folds(
    labelled: LabelledProfiles, kept: KeptWhole, wanted: int | None, repeats: int, seed: int
) -> Sequence[Folds]:
    """As many folds as wanted (None: each group left out once), again with other seeds for each repeat."""
    return [group_folds(kept.groups, wanted, seed + number, labelled.class_of) for number in range(repeats)]


def described_folds(labelled: LabelledProfiles, kept: KeptWhole, repeats: Sequence[Folds]) -> str:
    """For people who read results."""
    times = f", {len(repeats)} times" if len(repeats) > 1 else ""
    said = [f"{repeats[0].described}{times}: {len(set(kept.groups)):,} {kept.unit} are kept whole"]
    if kept.warning:
        said.append(kept.warning)
    untaught = sum(
        int((~np.isin(labelled.class_of[test], labelled.class_of[train])).sum())
        for folds in repeats
        for train, test in folds.parts
    )
    if untaught:
        said.append(f"{untaught:,} samples are of a class that is in no training sample of their fold")
    return "; ".join(said)
