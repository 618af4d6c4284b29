"""What classifiers are given of profiles: features, of embeddings each pooling that can be chosen. N profiles."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline

from evaluation.inference.components import component_steps

# Of features that have none, as raw expression.
NO_POOLING = ""
# Trials come again and again to the same folds; reductions of about so many numbers are kept for them.
_KEPT_NUMBERS = 16_000_000

Split = tuple[np.ndarray, np.ndarray]


class Features:
    """``by_pooling``: float N x F each, by the pooling that makes them, that of the fixed setting first."""

    def __init__(self, by_pooling: Mapping[str, np.ndarray]) -> None:
        self.by_pooling = by_pooling
        self._reduced: OrderedDict[tuple[object, ...], Split] = OrderedDict()

    @classmethod
    def of(cls, values_NF: np.ndarray) -> Features:
        """Features of which there is nothing to choose."""
        return cls({NO_POOLING: values_NF})

    def __getstate__(self) -> dict[str, Any]:
        """Without what was kept: another process makes its own."""
        return {"by_pooling": self.by_pooling}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["by_pooling"])  # type: ignore[misc]

    def reduced(
        self,
        pooling: str | None,
        components: int | None,
        train: np.ndarray,
        test: np.ndarray,
        seed: int,
        most: int | None = None,
    ) -> Split:
        """Rows ``train`` and ``test`` on so many principal components of the first, or as they are (None).

        ``pooling``: None for that of the fixed setting. ``most``: the largest number that can be chosen, which is what
        is fitted; fewer are the first of them, whoever asked before. What earlier calls with the same rows gave is
        handed out again.
        """
        pooling = next(iter(self.by_pooling)) if pooling is None else pooling
        if components is not None and most is not None and components < most:
            return tuple(part[:, :components] for part in self.reduced(pooling, most, train, test, seed))  # type: ignore[return-value]
        key = (pooling, components, seed, train.tobytes(), test.tobytes())
        if key not in self._reduced:
            values = self.by_pooling[pooling]
            if components is None:
                steps = make_pipeline(SimpleImputer(keep_empty_features=True))
            else:
                steps = component_steps(components, len(train), values.shape[1], seed)
            self._reduced[key] = steps.fit_transform(values[train]), steps.transform(values[test])
            while len(self._reduced) > 1 and self._numbers() > _KEPT_NUMBERS:
                self._reduced.popitem(last=False)
        self._reduced.move_to_end(key)
        return self._reduced[key]

    def _numbers(self) -> int:
        return sum(part.size for split in self._reduced.values() for part in split)
