"""What a survival head is given: principal components of profiles, clinical covariates, or both. N rows, F features.

Everything is fitted on the rows of the training part: means, scales, components, categories and medians.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from evaluation.inference.features import Features
from evaluation.inference.follow_up import number_in

# A category of fewer training rows gets no column of its own.
_FEWEST_OF_CATEGORY = 5
# With fewer values than this a column of numbers is a code.
_FEWEST_NUMBERS = 5
_LEAST_SHARE_OF_NUMBERS = 0.9
_SEXES = {"f": "female", "woman": "female", "m": "male", "man": "male"}
_STAGE = re.compile(r"^(?:(?:ajcc|pathologic|clinical)\s+)*(?:stage\s*)?(iv|iii|ii|i|0|[1-4])\s*[a-d]?\d?$")
_ROMAN = {"1": "i", "2": "ii", "3": "iii", "4": "iv"}


@dataclass(frozen=True)
class Covariates:
    """Clinical columns of N patients: ``numbers`` float64 [N] with NaN, ``categories`` str [N], empty where missing."""

    numbers: Mapping[str, np.ndarray] = field(default_factory=dict)
    categories: Mapping[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def of(cls, columns: Mapping[str, Sequence[str]]) -> Covariates:
        """From columns of text, empty where missing. Ages are numbers; sexes and stages lose what papers add to them.

        ``F`` and ``female`` are the same, and so are ``stage IIIa`` and ``III``. A column without two values is left
        out.
        """
        numbers, categories = {}, {}
        for name, texts in columns.items():
            values = np.array([number_in(text) for text in texts])
            readable = values[np.isfinite(values)]
            given = sum(bool(text) for text in texts)
            words = np.array([_plain(text) for text in texts], dtype=str)
            if len(readable) >= _LEAST_SHARE_OF_NUMBERS * given and len(np.unique(readable)) >= _FEWEST_NUMBERS:
                numbers[name] = values
            elif len({*words} - {""}) > 1:
                categories[name] = words
        return cls(numbers, categories)

    @property
    def names(self) -> list[str]:
        """Of the columns that are used."""
        return [*self.numbers, *self.categories]

    def encoded(self, train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Columns of both parts: numbers with the training median for missing ones, in units of the training spread;
        a column of 0 and 1 for each category of enough training rows, all 0 where it is missing."""
        parts = [(np.empty((len(train), 0)), np.empty((len(test), 0)))]
        for values in self.numbers.values():
            steps = make_pipeline(SimpleImputer(strategy="median", keep_empty_features=True), StandardScaler())
            parts.append((steps.fit_transform(values[train, None]), steps.transform(values[test, None])))
        for texts in self.categories.values():
            sizes = Counter(texts[train].tolist())
            kept = sorted(name for name, size in sizes.items() if name and size >= _FEWEST_OF_CATEGORY)
            parts.append(tuple((texts[rows, None] == np.array(kept)).astype(float) for rows in (train, test)))  # type: ignore[arg-type]
        return np.hstack([part for part, _ in parts]), np.hstack([part for _, part in parts])


class PatientFeatures:
    """Features of one method: ``profiles`` (embeddings, log-TPM), ``covariates``, or both.

    ``most``: the largest number of principal components that can be chosen.
    """

    def __init__(self, profiles: Features | None, covariates: Covariates | None, most: int, seed: int) -> None:
        self._profiles = profiles
        self._covariates = covariates
        self._most = most
        self._seed = seed

    def with_covariates(self, covariates: Covariates) -> PatientFeatures:
        """The same profiles beside covariates; reductions are shared, since they are the same."""
        return PatientFeatures(self._profiles, covariates, self._most, self._seed)

    def split(self, train: np.ndarray, test: np.ndarray, components: int) -> tuple[np.ndarray, np.ndarray]:
        """Features of both parts, n x F and m x F, with at most so many principal components of the profiles."""
        parts = []
        if self._profiles is not None:
            parts.append(self._profiles.reduced(None, components, train, test, self._seed, self._most))
        if self._covariates is not None:
            parts.append(self._covariates.encoded(train, test))
        return np.hstack([part for part, _ in parts]), np.hstack([part for _, part in parts])


def _plain(text: str) -> str:
    word = text.strip().casefold()
    stage = _STAGE.match(word)
    if stage:
        return _ROMAN.get(stage[1], stage[1])
    return _SEXES.get(word, word)
