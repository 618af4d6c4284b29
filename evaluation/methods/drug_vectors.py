"""A vector for each drug: Morgan fingerprints of structures (RDKit), or a one-hot code where there are none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Chem import rdFingerprintGenerator

_RADIUS = 2
_BITS = 2048


@dataclass(frozen=True)
class DrugVectors:
    """``values``: float32 [D, bits] of the ``drugs`` that have one; ``unparsable``: names of those with bad SMILES.

    ``structural``: whether they say something about a drug that nobody has measured.
    """

    drugs: tuple[str, ...]
    values: np.ndarray
    structural: bool
    unparsable: tuple[str, ...] = ()

    def of(self, drugs: Sequence[str]) -> DrugVectors:
        """Those of some drugs, in their order."""
        number = {drug: position for position, drug in enumerate(self.drugs)}
        return replace(self, drugs=tuple(drugs), values=self.values[[number[drug] for drug in drugs]])


def one_hot(drugs: Sequence[str]) -> DrugVectors:
    """A column for each drug: the first layer of a network on it is a learned code of each drug."""
    return DrugVectors(tuple(drugs), np.eye(len(drugs), dtype=np.float32), structural=False)


def fingerprints(smiles_of: Mapping[str, str]) -> DrugVectors:
    """Morgan fingerprints of radius 2 in 2,048 bits, of the drugs whose SMILES RDKit understands."""
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=_RADIUS, fpSize=_BITS)
    known, values, unparsable = [], [], []
    with rdBase.BlockLogs():
        for drug, smiles in smiles_of.items():
            molecule = Chem.MolFromSmiles(smiles) if smiles else None
            if molecule is None or molecule.GetNumAtoms() == 0:
                unparsable.append(drug)
                continue
            known.append(drug)
            values.append(generator.GetFingerprintAsNumPy(molecule))
    array = np.array(values, np.float32).reshape(len(known), _BITS)
    return DrugVectors(tuple(known), array, structural=True, unparsable=tuple(unparsable))
