"""Features of cell lines (or drugs) to a few principal components, fitted on those of the training folds."""

from __future__ import annotations

import numpy as np
from sklearn.decomposition import PCA
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


def reduced(features_LF: np.ndarray, train: np.ndarray, components: int, seed: int) -> np.ndarray:
    """float64 [L, K], fitted on the rows ``train``; the components of a training row add up to a variance of 1.

    They keep their variances relative to each other: ridge then shrinks the small ones, which are mostly noise, most.
    """
    steps = make_pipeline(
        SimpleImputer(keep_empty_features=True),
        StandardScaler(),
        PCA(max(1, min(components, len(train) - 1, features_LF.shape[1])), random_state=seed),
    )
    steps.fit(features_LF[train])
    values: np.ndarray = steps.transform(features_LF)
    spread = np.sqrt(values[train].var(axis=0).sum())
    return values / spread if spread > 0 else values
