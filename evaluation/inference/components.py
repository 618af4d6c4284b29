"""Profiles to principal components, as classifiers and survival heads are given them."""

from __future__ import annotations

from sklearn.decomposition import PCA
from sklearn.impute import SimpleImputer
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler


def component_steps(components: int, samples: int, features: int, seed: int) -> Pipeline:
    """Missing values to their column's mean, unit variance, principal components, unit variance.

    At most so many ``components`` as ``samples`` to fit on and ``features`` allow.
    """
    return make_pipeline(
        SimpleImputer(keep_empty_features=True),
        StandardScaler(),
        PCA(min(components, samples - 1, features), svd_solver="randomized", random_state=seed),
        StandardScaler(),
    )
