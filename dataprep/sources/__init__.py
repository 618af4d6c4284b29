"""Readers of the forms in which people publish expression data.

A reader does two things: list the samples of a file, and read some of them as linear arrays. What the values mean is
decided elsewhere (:mod:`dataprep.pipeline.normalization`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class RawProfiles:
    """Some samples of a file as they stand there.

    ``values`` is float32 [n, S], NaN where the file has no value; ``first`` is the position of the first sample in
    the file's list of samples.
    """

    first: int
    sample_ids: tuple[str, ...]
    gene_ids: tuple[str, ...]
    values: np.ndarray
