"""Step 3 of a build: which profiles are kept, in which split, and in which order.

The driver decides from some numbers per sample and sees no profile. What comes out depends on the sources and the
settings alone, not on the number of machines or the order in which tasks end.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa

from dataprep.config import BuildSettings
from dataprep.corpus import SPLITS
from dataprep.pipeline import quality_control as qc
from dataprep.pipeline.label_checks import refuse_by_labels
from dataprep.pipeline.splits import empty_splits, split_studies
from dataprep.runtime.command_line import UserError
from dataprep.runtime.terminal import log


def apply_quality_control(samples: pd.DataFrame, found: pa.Table, settings: BuildSettings) -> pd.DataFrame:
    """The samples with what reading found, and the reason why each refused one was refused."""
    frame = found.to_pandas().set_index("ordinal").sort_index()
    assert len(frame) == len(samples), f"{len(frame)} profiles for {len(samples)} samples"
    samples = samples.assign(**{name: frame[name] for name in frame.columns if name not in ("reason", "value")})
    # what the settings exclude is excluded whatever its quality
    by_quality = samples["reason"].isna() & frame["reason"].notna()
    samples.loc[by_quality, ["reason", "value"]] = frame.loc[by_quality, ["reason", "value"]]
    refuse_by_labels(samples, settings)
    for column, reason in (("sample_id", qc.DUPLICATE_SAMPLE), ("profile", qc.DUPLICATE_PROFILE)):
        _refuse_duplicates(samples, column, reason)
    return samples


def require_profiles(samples: pd.DataFrame, settings: BuildSettings) -> None:
    """Raise :class:`UserError` where no sample is kept."""
    if samples["reason"].notna().all():
        counts = ", ".join(f"{reason} {count:,}" for reason, count in samples["reason"].value_counts().items())
        raise UserError(
            f"none of {len(samples):,} samples can be kept ({counts}); "
            f"min_nonzero_genes is {settings.min_nonzero_genes:,}"
        )


def _refuse_duplicates(samples: pd.DataFrame, column: str, reason: str) -> None:
    """Of kept samples with the same value the first stays; sources come in the order of the settings."""
    kept = samples[samples["reason"].isna()]
    repeated = kept[kept[column].duplicated()]
    first = kept.drop_duplicates(column).set_index(column)
    samples.loc[repeated.index, "reason"] = reason
    samples.loc[repeated.index, "value"] = [
        f"{first.at[value, 'source']}: {value if column == 'sample_id' else first.at[value, 'sample_id']}"
        for value in repeated[column]
    ]


def assign_splits(kept: pd.DataFrame, settings: BuildSettings) -> pd.DataFrame:
    """The kept samples with their split, in the order of their row ids: by split, shuffled inside each."""
    split_of = split_studies(kept["study_id"].value_counts().to_dict(), settings.split, settings.seed)
    if empty := empty_splits(split_of, settings.split):
        log(
            f"NOTHING HELD OUT for {' and '.join(empty)}: studies are never divided, and there are {len(split_of)}; "
            "a model of this corpus is neither validated nor tested on it"
        )
    kept = kept.assign(split=kept["study_id"].map(split_of))
    shuffled = kept.iloc[np.random.default_rng(settings.seed).permutation(len(kept))]
    ordered = shuffled.sort_values("split", key=lambda split: split.map(SPLITS.index), kind="stable")
    return ordered.assign(row_id=np.arange(len(ordered)))
