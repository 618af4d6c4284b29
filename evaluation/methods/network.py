"""A small network on features, as the published heads of drug response and essentiality are. N rows, F features."""

from __future__ import annotations

import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPRegressor

_LARGEST_BATCH = 256


def network_predictions(
    train_NF: np.ndarray, values_N: np.ndarray, test_MF: np.ndarray, hidden: int, decay: float, epochs: int, seed: int
) -> np.ndarray:
    """Predictions, float64 [M], of a network of two hidden layers after a fixed number of epochs."""
    mean, spread = float(values_N.mean()), float(values_N.std()) or 1.0
    network = MLPRegressor(
        hidden_layer_sizes=(hidden, hidden // 2),
        alpha=decay,
        batch_size=min(_LARGEST_BATCH, len(values_N)),
        max_iter=epochs,
        # the number of epochs is a setting: a held-out part for stopping would be of the same cell lines
        n_iter_no_change=epochs,
        random_state=seed,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        network.fit(train_NF.astype(np.float32), ((values_N - mean) / spread).astype(np.float32))
    predicted: np.ndarray = network.predict(test_MF.astype(np.float32)).astype(np.float64)
    return mean + spread * predicted
