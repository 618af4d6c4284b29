"""Genes that tell how good a profile is, by their current symbols, and genes that tell the sex of a donor."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from dataprep.genes.vocabulary import GeneVocabulary

_MITOCHONDRIAL = re.compile(r"MT-\w+")
# Proteins of the cytosolic ribosome and the RNA of both; neither kinases (RPS6KA1) nor pseudogenes (RPL7P1).
_RIBOSOMAL = re.compile(r"RP[SL]\d+(A|AL|L\d?|X|Y\d)?|RPLP\d|RPSA2?|RNA(5|5-8|18|28|45)SN?\d+|MT-RNR[12]")
# Expressed in nearly all tissues of men: RPS4Y1, DDX3Y, KDM5D, UTY, EIF1AY.
Y_GENES = ("ENSG00000129824", "ENSG00000067048", "ENSG00000012817", "ENSG00000183878", "ENSG00000198692")
# Of women; no protein-coding gene, so the default vocabulary lacks it.
XIST = "ENSG00000229807"
# Means of log1p TPM of the Y genes: below the first no Y chromosome is seen, above the second there is one. Chosen on
# 708 labelled profiles of 17 published studies (docs/results/sex-check.md).
FEMALE_BELOW, MALE_ABOVE = 0.4, 1.4
_XIST_BORDER = 1.0
_MEN, _WOMEN = {"m", "male", "man", "xy"}, {"f", "female", "woman", "xx"}


def is_mitochondrial(symbol: str) -> bool:
    """Whether a gene is on the mitochondrial chromosome."""
    return bool(_MITOCHONDRIAL.fullmatch(symbol))


def is_ribosomal(symbol: str) -> bool:
    """Whether a gene is of a ribosomal protein or of ribosomal RNA."""
    return bool(_RIBOSOMAL.fullmatch(symbol))


@dataclass(frozen=True)
class SexGenes:
    """Columns of the genes that tell sex; ``xist`` is None where the vocabulary lacks it."""

    y: list[int]
    xist: int | None

    @classmethod
    def of(cls, vocabulary: GeneVocabulary) -> SexGenes:
        columns = vocabulary.column_of
        return cls([columns[gene] for gene in Y_GENES if gene in columns], columns.get(XIST))

    def expression(self, expression_NG: np.ndarray) -> np.ndarray:
        """Float [N, 2]: mean log1p TPM of the Y genes measured, and that of XIST; NaN where none is."""
        found = np.full((len(expression_NG), 2), np.nan)
        own = expression_NG[:, self.y].astype(np.float64)
        measured = np.isfinite(own)
        counts = measured.sum(axis=1)
        known = counts > 0
        found[known, 0] = np.where(measured, own, 0).sum(axis=1)[known] / counts[known]
        if self.xist is not None:
            found[:, 1] = expression_NG[:, self.xist]
        return found


def sex_by_genes(values_N2: np.ndarray, borders_N2: np.ndarray | None = None) -> np.ndarray:
    """Of each profile "male", "female", or "" where the genes do not say; values as of :meth:`SexGenes.expression`.

    ``borders_N2``: in place of :data:`FEMALE_BELOW` and :data:`MALE_ABOVE`, for each profile.
    """
    y, xist = values_N2.T
    female_below, male_above = (FEMALE_BELOW, MALE_ABOVE) if borders_N2 is None else borders_N2.T
    # both at once: XIST in a profile with a Y chromosome is a mixture, or a tumour of men that expresses it
    male = (y > male_above) & ~(xist > _XIST_BORDER)
    female = (y < female_below) & ~(xist < FEMALE_BELOW)
    return np.select([male, female], ["male", "female"], "")


def sex_by_label(value: object) -> str:
    """What a label says, in whatever common word: "male", "female" or ""."""
    word = str(value).strip().casefold()
    return "male" if word in _MEN else "female" if word in _WOMEN else ""
