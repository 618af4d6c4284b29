"""Profiles that their labels, as the sources give them, speak against."""

from __future__ import annotations

import pandas as pd

from dataprep.config import BuildSettings
from dataprep.genes.gene_sets import sex_by_label
from dataprep.pipeline import quality_control as qc
from dataprep.pipeline.listing import LABEL
from dataprep.runtime.command_line import UserError


def refuse_by_labels(samples: pd.DataFrame, settings: BuildSettings) -> None:
    """Note in ``reason`` and ``value`` which of the samples not refused yet are, for what their labels say.

    A sample without a value is not refused. Raises :class:`UserError` where no source has the label.
    """
    if settings.sex_label is None:
        return
    labelled = labels_of(samples, settings.sex_label, "sex_label").map(sex_by_label)
    told = samples["sex_by_genes"]
    wrong = samples["reason"].isna() & (labelled != "") & (told != "") & (labelled != told)
    samples.loc[wrong, "reason"] = qc.OTHER_SEX
    samples.loc[wrong, "value"] = [
        f"label {one}, genes {other}" for one, other in zip(labelled[wrong], told[wrong], strict=True)
    ]


def labels_of(samples: pd.DataFrame, name: str, setting: str) -> pd.Series:
    """A label of all samples, None where they have none. Raises :class:`UserError` where no source has it."""
    if LABEL + name not in samples.columns:
        there = [column.removeprefix(LABEL) for column in samples.columns if column.startswith(LABEL)]
        raise UserError(f"{setting}: no source has the label {name!r}; there are {', '.join(there[:20]) or 'none'}")
    return samples[LABEL + name]
