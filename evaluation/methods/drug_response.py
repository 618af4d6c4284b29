"""Heads and simple methods for the response of cell lines to drugs. N pairs, L cell lines, D drugs.

Each is a function of a choice of settings, rows of pairs to fit on and rows to predict, and sees no other value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from evaluation.inference.cell_line_tables import Pairs
from evaluation.methods.drug_vectors import DrugVectors
from evaluation.methods.network import network_predictions
from evaluation.methods.pair_predictions import NETWORK_SETTINGS, Head
from evaluation.methods.reduction import reduced
from evaluation.methods.ridge import means_of_targets, means_to_add_to, ridge_per_target
from evaluation.search.nested import Choice

Split = Literal["cell_line", "drug", "both", "pair"]
DRUG_MEAN, LINE_MEAN, ADDITIVE, MEAN = "drug mean", "cell-line mean", "drug mean + cell-line mean", "mean"

# What a drug is reduced to, where it has a fingerprint.
_DRUG_COMPONENTS = 64
_BACKFITTING_ROUNDS = 20


@dataclass(frozen=True)
class ResponseHeads:
    """Heads on features of lines ([L, F]) and vectors of drugs, whose order is that of the numbers in ``pairs``.

    ``unseen_drugs``: whether drugs are predicted that no row to fit on has.
    """

    pairs: Pairs
    lines: np.ndarray
    drugs: DrugVectors
    unseen_drugs: bool
    seed: int

    def by_name(self) -> Mapping[str, Head]:
        ridge = ("two-step ridge", self.two_step_ridge) if self.unseen_drugs else ("ridge per drug", self.ridge)
        return {ridge[0]: Head(ridge[1], ("components",)), "MLP": Head(self.network, NETWORK_SETTINGS)}

    def ridge(self, choice: Choice, train: np.ndarray, test: np.ndarray) -> np.ndarray:
        """One ridge regression for each drug on the components of lines."""
        return self._ridge_of_seen(choice, train)[self.pairs.line[test], self.pairs.target[test]]

    def two_step_ridge(self, choice: Choice, train: np.ndarray, test: np.ndarray) -> np.ndarray:
        """Ridge from lines to the response of each drug seen, then from vectors of drugs to these responses.

        Two-step kernel ridge regression (Stock et al., Neural Computation 30, 2018) with linear kernels: the
        coefficients of a drug are a linear function of its vector, so lines and drugs interact.
        """
        seen = np.unique(self.pairs.target[train])
        responses = self._ridge_of_seen(choice, train)[:, seen]
        vectors = reduced(self.drugs.values, seen, _DRUG_COMPONENTS, self.seed)
        by_drug = ridge_per_target(vectors[seen], responses.T, vectors)
        return by_drug[self.pairs.target[test], self.pairs.line[test]]

    def network(self, choice: Choice, train: np.ndarray, test: np.ndarray) -> np.ndarray:
        """A network on the features of the line joined with the vector of the drug, added to the drug's mean.

        Where drugs are new, it is added to the mean of all, so that it learns what makes a drug strong.
        """
        lines, vectors = _of_unit_variance(self._components(choice, train)), self._drug_vectors(train)
        offset = means_to_add_to(self._matrix(train), self.unseen_drugs)

        def features(rows: np.ndarray) -> np.ndarray:
            return np.concatenate([lines[self.pairs.line[rows]], vectors[self.pairs.target[rows]]], axis=1)

        beyond = network_predictions(
            features(train),
            self.pairs.value[train] - offset[self.pairs.target[train]],
            features(test),
            choice["hidden"],
            choice["decay"],
            choice["epochs"],
            self.seed,
        )
        return offset[self.pairs.target[test]] + beyond

    def _ridge_of_seen(self, choice: Choice, train: np.ndarray) -> np.ndarray:
        """[L, D]: predictions of every line, also of those fitted on."""
        values, lines = self._matrix(train), self._components(choice, train)
        fitted = np.unique(self.pairs.line[train])
        return ridge_per_target(lines[fitted], values[fitted], lines)

    def _components(self, choice: Choice, train: np.ndarray) -> np.ndarray:
        return reduced(self.lines, np.unique(self.pairs.line[train]), choice["components"], self.seed)

    def _drug_vectors(self, train: np.ndarray) -> np.ndarray:
        """One-hot codes as they are, fingerprints by their components."""
        if not self.drugs.structural:
            return self.drugs.values
        trained = np.unique(self.pairs.target[train])
        return _of_unit_variance(reduced(self.drugs.values, trained, _DRUG_COMPONENTS, self.seed))

    def _matrix(self, rows: np.ndarray) -> np.ndarray:
        return self.pairs.matrix(rows, len(self.lines), len(self.drugs.drugs))


def _of_unit_variance(components_LK: np.ndarray) -> np.ndarray:
    """On average: together they have a variance of 1, too little beside codes for a network to begin with."""
    return components_LK * np.sqrt(components_LK.shape[1])


def simple_methods(pairs: Pairs, split: Split) -> Mapping[str, Head]:
    """Means of what the rows to fit on have seen of a pair: of an unseen line or drug nothing is known."""
    lines, drugs = int(pairs.line.max()) + 1, int(pairs.target.max()) + 1

    def drug_mean(_: Choice, train: np.ndarray, test: np.ndarray) -> np.ndarray:
        return means_of_targets(pairs.matrix(train, lines, drugs))[pairs.target[test]]

    def line_mean(_: Choice, train: np.ndarray, test: np.ndarray) -> np.ndarray:
        return means_of_targets(pairs.matrix(train, lines, drugs).T)[pairs.line[test]]

    def mean(_: Choice, train: np.ndarray, test: np.ndarray) -> np.ndarray:
        return np.full(len(test), pairs.value[train].mean())

    def additive(_: Choice, train: np.ndarray, test: np.ndarray) -> np.ndarray:
        """Least squares of a number for each line and one for each drug, by backfitting."""
        values = pairs.matrix(train, lines, drugs)
        of_line = np.zeros(lines)
        for _round in range(_BACKFITTING_ROUNDS):
            of_drug = means_of_targets(values - of_line[:, None])
            of_line = means_of_targets((values - of_drug).T)
        return of_drug[pairs.target[test]] + of_line[pairs.line[test]]

    of_split = {
        "cell_line": {DRUG_MEAN: drug_mean},
        "drug": {LINE_MEAN: line_mean},
        "both": {MEAN: mean},
        "pair": {DRUG_MEAN: drug_mean, LINE_MEAN: line_mean, ADDITIVE: additive},
    }
    return {name: Head(method) for name, method in of_split[split].items()}
