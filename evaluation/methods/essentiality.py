"""Heads for the effect of losing a gene on a cell line. N pairs, L cell lines, G genes.

Features are those of a line, the same for all genes ([L, F]), or those of a gene in a line (:class:`OfGenes`). Each
head is a function of a choice of settings, rows of pairs to fit on and rows to predict, and sees no other effect.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from evaluation.inference.cell_line_tables import Pairs, ProfilesOfLines
from evaluation.methods.network import network_predictions
from evaluation.methods.pair_predictions import NETWORK_SETTINGS, Head
from evaluation.methods.reduction import reduced
from evaluation.methods.ridge import means_to_add_to, ridge_per_target, ridge_with_own_features
from evaluation.search.nested import Choice

# Genes that choose the penalty of all.
_GENES_FOR_PENALTY = 300


@dataclass(frozen=True)
class OfGenes:
    """Features of genes in profiles, ``values`` [G, R, D], averaged over the profiles of a line when they are read."""

    values: np.ndarray
    profiles: ProfilesOfLines

    def of(self, gene: int) -> np.ndarray:
        """float32 [L, D]."""
        return self.profiles.mean(np.asarray(self.values[gene], np.float32))

    @property
    def width(self) -> int:
        """D."""
        return int(self.values.shape[2])


@dataclass(frozen=True)
class LineHeads:
    """Heads on features of lines, [L, F], for genes whose effect in other lines is known."""

    pairs: Pairs
    lines: np.ndarray
    genes: int
    seed: int

    def by_name(self) -> Mapping[str, Head]:
        return {"ridge per gene": Head(self.ridge, ("components",))}

    def ridge(self, choice: Choice, train: np.ndarray, test: np.ndarray) -> np.ndarray:
        """One ridge regression for each gene on the components of lines."""
        fitted = np.unique(self.pairs.line[train])
        values = self.pairs.matrix(train, len(self.lines), self.genes)
        lines = reduced(self.lines, fitted, choice["components"], self.seed)
        return ridge_per_target(lines[fitted], values[fitted], lines)[self.pairs.line[test], self.pairs.target[test]]


@dataclass(frozen=True)
class GeneHeads:
    """Heads on features of each gene in each line; ``unseen_genes``: whether genes of no fold are predicted.

    ``most_pairs``: what the network is fitted on, at the most.
    """

    pairs: Pairs
    features: OfGenes
    unseen_genes: bool
    most_pairs: int
    seed: int

    def by_name(self) -> Mapping[str, Head]:
        ridge = {} if self.unseen_genes else {"ridge per gene": Head(self.ridge)}
        return ridge | {"MLP": Head(self.network, NETWORK_SETTINGS)}

    def ridge(self, choice: Choice, train: np.ndarray, test: np.ndarray) -> np.ndarray:
        """One ridge regression for each gene on its own features, all with the same penalty."""
        values = self._matrix(train)
        predicted = ridge_with_own_features(self.features.of, values, _GENES_FOR_PENALTY)
        return predicted[self.pairs.line[test], self.pairs.target[test]]

    def network(self, choice: Choice, train: np.ndarray, test: np.ndarray) -> np.ndarray:
        """One network for all genes, added to the gene's mean effect where genes are seen, else to the mean of all.

        It gets the mean of a gene's features over the lines fitted on, which says what gene it is, and what the line
        adds to it, each reduced to components: taken together, differences between genes would leave none for lines.
        """
        offset = means_to_add_to(self._matrix(train), self.unseen_genes)
        rng = np.random.default_rng(self.seed)
        fitted = np.sort(rng.choice(train, min(len(train), self.most_pairs), replace=False))
        inputs = _Inputs.fitted(self, np.unique(self.pairs.line[train]), fitted, choice["components"])
        # gene by gene, so that the features of a gene are read once
        order = np.argsort(self.pairs.target[test], kind="stable")
        predicted = np.empty(len(test))
        predicted[order] = network_predictions(
            inputs.of(fitted),
            self.pairs.value[fitted] - offset[self.pairs.target[fitted]],
            inputs.of(test[order]),
            choice["hidden"],
            choice["decay"],
            choice["epochs"],
            self.seed,
        )
        return offset[self.pairs.target[test]] + predicted

    def _matrix(self, rows: np.ndarray) -> np.ndarray:
        return self.pairs.matrix(rows, len(self.features.profiles.lines), len(self.features.values))


@dataclass(frozen=True)
class _Inputs:
    """Reduced features of pairs for the network, fitted on the pairs ``fitted`` of lines ``lines``."""

    heads: GeneHeads
    lines: np.ndarray
    of_gene: _Components
    of_line: _Components

    @classmethod
    def fitted(cls, heads: GeneHeads, lines: np.ndarray, fitted: np.ndarray, components: int) -> _Inputs:
        parts = _parts(heads, lines, fitted)
        return cls(heads, lines, *(_Components.fitted(part, components, heads.seed) for part in parts))

    def of(self, rows: np.ndarray) -> np.ndarray:
        """float32 [n, K]."""
        gene, line = _parts(self.heads, self.lines, rows)
        return np.concatenate([self.of_gene.of(gene), self.of_line.of(line)], axis=1)


@dataclass(frozen=True)
class _Components:
    """Standardised features to their principal components of equal mean variance."""

    scaler: StandardScaler
    components: PCA
    spread: float

    @classmethod
    def fitted(cls, values_nD: np.ndarray, components: int, seed: int) -> _Components:
        scaler = StandardScaler().fit(values_nD)
        pca = PCA(max(1, min(components, len(values_nD) - 1, values_nD.shape[1])), random_state=seed)
        pca.fit(scaler.transform(values_nD))
        return cls(scaler, pca, float(np.sqrt(pca.explained_variance_.mean())) or 1.0)

    def of(self, values_nD: np.ndarray) -> np.ndarray:
        values: np.ndarray = self.components.transform(self.scaler.transform(values_nD)) / self.spread
        return values.astype(np.float32)


def _parts(heads: GeneHeads, lines: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of pairs, float32 [n, D] each: the mean of the gene's features over ``lines``, the line's deviation from it."""
    mean = np.empty((len(rows), heads.features.width), np.float32)
    deviation = np.empty_like(mean)
    target = heads.pairs.target[rows]
    for gene in np.unique(target):
        own = target == gene
        features = np.nan_to_num(heads.features.of(int(gene)))
        mean[own] = features[lines].mean(axis=0)
        deviation[own] = features[heads.pairs.line[rows[own]]] - mean[own]
    return mean, deviation
