"""From a column of ``samples.parquet`` to profiles with a class each."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from dataprep.corpus import SAMPLE_COLUMNS
from dataprep.runtime.command_line import UserError
from dataprep.runtime.terminal import log

# Columns of samples.parquet that are not labels; `study` is what metadata tables call the study.
_OWN_COLUMNS = (*SAMPLE_COLUMNS, "study")
_LEAST_CLASSES = 2
# A column of which most values are rare is a name or a measurement, not a class.
_LEAST_SHARE_IN_CLASSES = 0.5


@dataclass(frozen=True)
class LabelledProfiles:
    """N profiles with a class each, in order of row id.

    ``classes``: names; ``class_of``: int [N]; ``studies``: str [N]. Of two classes the rarer one is the second, which
    AUROC and AUPRC take as positive.
    """

    label: str
    row_ids: np.ndarray
    classes: tuple[str, ...]
    class_of: np.ndarray
    studies: np.ndarray


@dataclass(frozen=True)
class LabelRules:
    """Which profiles of a label are used: ``missing`` are values that stand for none."""

    min_class_samples: int
    max_profiles: int
    missing: tuple[str, ...]
    seed: int

    def is_missing(self, value: str) -> bool:
        """Whether a value stands for none; upper and lower case are the same here."""
        return value.casefold() in {word.casefold() for word in self.missing}


def usable_labels(samples: pa.Table, rules: LabelRules, max_labels: int) -> list[LabelledProfiles]:
    """Label columns worth classifying, those with most samples first, at most ``max_labels``.

    Such a column has at least two classes of enough samples, which together hold most of its samples.
    """
    found = []
    for column in _label_columns(samples):
        labelled = _labelled(samples, column, rules)
        sizes = _class_sizes(samples, column, rules)
        kept = sum(sizes[name] for name in labelled.classes)
        if len(labelled.classes) >= _LEAST_CLASSES and kept >= _LEAST_SHARE_IN_CLASSES * sizes.total():
            found.append(labelled)
    found.sort(key=lambda labelled: -len(labelled.row_ids))
    if len(found) > max_labels:
        rest = ", ".join(labelled.label for labelled in found[max_labels:])
        log(f"classifying the {max_labels} labels with most samples; left out: {rest}")
    for labelled in found[:max_labels]:
        _report_missing(samples, labelled.label, rules)
    return found[:max_labels]


def named_label(samples: pa.Table, where: str, column: str, rules: LabelRules) -> LabelledProfiles:
    """The label the user asked for. Raises UserError where there is no such column or too few samples."""
    columns = _label_columns(samples)
    if column not in columns:
        raise UserError(f"{where} has no label {column!r}; it has {', '.join(columns) or 'none'}")
    labelled = _labelled(samples, column, rules)
    if len(labelled.classes) < _LEAST_CLASSES:
        sizes = ", ".join(f"{name} {size}" for name, size in _class_sizes(samples, column, rules).most_common(5))
        raise UserError(
            f"label {column!r}: {len(labelled.classes)} classes have {rules.min_class_samples} samples or more, "
            f"2 are needed; the largest: {sizes or 'none'}"
        )
    _report_missing(samples, column, rules)
    return labelled


def _label_columns(samples: pa.Table) -> list[str]:
    return [
        name for name in samples.column_names if name not in _OWN_COLUMNS and pa.types.is_string(samples[name].type)
    ]


def _values(samples: pa.Table, column: str, rules: LabelRules) -> np.ndarray:
    """The label of every sample, empty where it has none."""
    values = [value or "" for value in samples.column(column).to_pylist()]
    return np.array(["" if rules.is_missing(value) else value for value in values], dtype=str)


def _class_sizes(samples: pa.Table, column: str, rules: LabelRules) -> Counter[str]:
    return Counter(value for value in _values(samples, column, rules).tolist() if value)


def _report_missing(samples: pa.Table, column: str, rules: LabelRules) -> None:
    words = Counter(value for value in samples.column(column).to_pylist() if value and rules.is_missing(value))
    if words:
        named = ", ".join(f"{word!r} {count:,}" for word, count in words.most_common())
        log(f"label {column}: {words.total():,} samples count as unlabelled ({named}; classification.missing_labels)")


def _labelled(samples: pa.Table, column: str, rules: LabelRules) -> LabelledProfiles:
    """At most ``max_profiles`` labelled samples, drawn at random, of the classes that are then large enough."""
    values = _values(samples, column, rules)
    drawn = np.flatnonzero(values != "")
    if len(drawn) > rules.max_profiles:
        drawn = np.sort(np.random.default_rng(rules.seed).choice(drawn, rules.max_profiles, replace=False))
    sizes = Counter(values[drawn].tolist())
    # most frequent first, ties by name: of two classes the second is the rarer one
    ordered = sorted(sizes, key=lambda name: (-sizes[name], name))
    classes = tuple(name for name in ordered if sizes[name] >= rules.min_class_samples)
    chosen = drawn[np.isin(values[drawn], classes)]
    number_of = {name: number for number, name in enumerate(classes)}
    return LabelledProfiles(
        label=column,
        row_ids=samples.column("row_id").to_numpy()[chosen],
        classes=classes,
        class_of=np.array([number_of[value] for value in values[chosen]], dtype=np.int64),
        studies=np.array(samples.column("study_id").to_pylist(), dtype=str)[chosen],
    )
