"""What a simulated cohort's samples would show if they were cell lines: response to drugs, and need of single genes.

With a_k the activity of program k in a sample, in units of its standard deviation over the cohort:

    ln IC50 of drug d    = level_d - 0.7 sum_k (sum of effect_fk over the fragments f of d) a_k + noise
    effect of losing gene g = level_g - 0.25 need_g a_k(g) + noise,

so a drug acts by what it is made of, and drugs with the same fragments act alike. Core genes are needed everywhere
(level about -1, no program), non-essential genes nowhere; for the others the program that drives them decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

# Each can be followed by any other, so a chain of them between two carbons is a molecule.
_FRAGMENTS = (
    "C(=O)N",
    "S(=O)(=O)N",
    "c1ccc(cc1)",
    "C(C#N)",
    "C(C(F)(F)F)",
    "N1CCN(CC1)",
    "C(=O)O",
    "c1ccnc(c1)",
)
_FRAGMENTS_OF_A_DRUG = 3
_DRUGS = 40
_GENES_OF_A_KIND = 30
_EXPRESSED = 2.0
_UNMEASURED_SHARE = 0.05
_NOISE = {"drug": 0.5, "gene": 0.15}


@dataclass(frozen=True)
class Assays:
    """``response``: drugs x samples, ln IC50; ``smiles``: drug, smiles; ``effect``: samples x genes; NaN where missing.

    ``core`` and ``nonessential`` are genes among the columns of ``effect``.
    """

    response: pd.DataFrame
    smiles: pd.DataFrame
    effect: pd.DataFrame
    core: Sequence[str]
    nonessential: Sequence[str]


def draw_assays(
    samples: Sequence[str],
    activities_NK: np.ndarray,
    genes: Sequence[str],
    base_G: np.ndarray,
    loading_KG: np.ndarray,
    seed: int,
) -> Assays:
    """From the activities of K programs in N samples, and the genes that they drive."""
    rng = np.random.default_rng([seed, 3])
    spread = activities_NK.std(axis=0)
    activity = (activities_NK - activities_NK.mean(axis=0)) / np.where(spread > 0, spread, 1)
    response, smiles = _drugs(rng, activity)
    effect, core, nonessential = _needs(rng, activity, base_G, loading_KG)
    chosen = [genes[number] for number in effect]
    return Assays(
        pd.DataFrame(_with_gaps(rng, response), smiles["drug"], list(samples)).round(4),
        smiles,
        pd.DataFrame(_with_gaps(rng, np.array(list(effect.values())).T), list(samples), chosen).round(4),
        [genes[number] for number in core],
        [genes[number] for number in nonessential],
    )


def _drugs(rng: np.random.Generator, activity_NK: np.ndarray) -> tuple[np.ndarray, pd.DataFrame]:
    """ln IC50 [drugs, N], and the structures."""
    programs = activity_NK.shape[1]
    effect = np.zeros((len(_FRAGMENTS), programs))
    for fragment in effect:
        fragment[rng.choice(programs, size=min(2, programs), replace=False)] = rng.choice((-1.0, 1.0), 2)[:programs]
    parts = [rng.choice(len(_FRAGMENTS), size=_FRAGMENTS_OF_A_DRUG, replace=False) for _ in range(_DRUGS)]
    sensitivity = np.array([effect[chosen].sum(axis=0) for chosen in parts])
    level = rng.normal(2.0, 1.5, _DRUGS)
    noise = rng.normal(0.0, _NOISE["drug"], (_DRUGS, len(activity_NK)))
    smiles = ["C" + "".join(_FRAGMENTS[number] for number in chosen) + "C" for chosen in parts]
    names = [f"drug_{number + 1:02d}" for number in range(_DRUGS)]
    return level[:, None] - 0.7 * sensitivity @ activity_NK.T + noise, pd.DataFrame({"drug": names, "smiles": smiles})


def _needs(
    rng: np.random.Generator, activity_NK: np.ndarray, base_G: np.ndarray, loading_KG: np.ndarray
) -> tuple[dict[int, np.ndarray], list[int], list[int]]:
    """Effect of losing a gene [N], by the gene's number; core genes; genes that are not essential."""
    expressed, silent = rng.permutation(np.flatnonzero(base_G > _EXPRESSED)), np.flatnonzero(base_G <= 0)
    core, selective = expressed[:_GENES_OF_A_KIND], expressed[_GENES_OF_A_KIND : 2 * _GENES_OF_A_KIND]
    nonessential = rng.permutation(silent)[:_GENES_OF_A_KIND]
    samples = len(activity_NK)
    effect = {}
    for genes, level in ((core, -1.0), (selective, -0.4), (nonessential, 0.0)):
        for gene in genes.tolist():
            effect[gene] = rng.normal(level, 0.15) + rng.normal(0.0, _NOISE["gene"], samples)
    for gene in selective.tolist():
        driver = int(np.abs(loading_KG[:, gene]).argmax())
        effect[gene] -= 0.25 * rng.choice((-1.0, 1.0)) * activity_NK[:, driver]
    return dict(sorted(effect.items())), sorted(core.tolist()), sorted(nonessential.tolist())


def _with_gaps(rng: np.random.Generator, values: np.ndarray) -> np.ndarray:
    return np.where(rng.random(values.shape) < _UNMEASURED_SHARE, np.nan, values)
