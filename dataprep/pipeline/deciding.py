"""Step 3 of a build: which profiles are kept, in which split, and in which order.

The driver decides from some numbers per sample and sees no profile. What comes out depends on the sources and the
settings alone, not on the number of machines or the order in which tasks end.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pyarrow as pa

from dataprep.config import BuildSettings
from dataprep.corpus import IN_DISTRIBUTION, SPLITS
from dataprep.pipeline import quality_control as qc
from dataprep.pipeline.label_checks import labels_of, refuse_by_labels
from dataprep.pipeline.splits import empty_splits, position, split_groups
from dataprep.runtime.command_line import UserError
from dataprep.runtime.terminal import log


def apply_quality_control(
    samples: pd.DataFrame, found: pa.Table, settings: BuildSettings, earlier: pd.DataFrame | None = None
) -> pd.DataFrame:
    """The samples with what reading found, and the reason why each refused one was refused.

    ``earlier``: those that the corpus has already, with negative numbers and ``profile``; they win over duplicates.
    """
    frame = found.to_pandas().set_index("ordinal").sort_index()
    assert len(frame) == len(samples), f"{len(frame)} profiles for {len(samples)} samples"
    samples = samples.assign(**{name: frame[name] for name in frame.columns if name not in ("reason", "value")})
    # what the settings exclude is excluded whatever its quality
    by_quality = samples["reason"].isna() & frame["reason"].notna()
    samples.loc[by_quality, ["reason", "value"]] = frame.loc[by_quality, ["reason", "value"]]
    refuse_by_labels(samples, settings)
    for column, reason in (("sample_id", qc.DUPLICATE_SAMPLE), ("profile", qc.DUPLICATE_PROFILE)):
        _refuse_duplicates(samples, column, reason, earlier)
    return samples


def require_profiles(samples: pd.DataFrame, settings: BuildSettings) -> None:
    """Raise :class:`UserError` where no sample is kept."""
    if samples["reason"].notna().all():
        counts = ", ".join(f"{reason} {count:,}" for reason, count in samples["reason"].value_counts().items())
        raise UserError(
            f"none of {len(samples):,} samples can be kept ({counts}); "
            f"min_nonzero_genes is {settings.min_nonzero_genes:,}"
        )


def _refuse_duplicates(samples: pd.DataFrame, column: str, reason: str, earlier: pd.DataFrame | None) -> None:
    """Of kept samples with the same value the first stays; sources come in the order of the settings."""
    kept = samples.loc[samples["reason"].isna(), ["source", "sample_id", "profile"]]
    if earlier is not None:
        kept = pd.concat([earlier[kept.columns], kept])
    repeated = kept[kept[column].duplicated()]
    first = kept.drop_duplicates(column).set_index(column)
    samples.loc[repeated.index, "reason"] = reason
    samples.loc[repeated.index, "value"] = [
        f"{first.at[value, 'source']}: {value if column == 'sample_id' else first.at[value, 'sample_id']}"
        for value in repeated[column]
    ]


def assign_splits(kept: pd.DataFrame, settings: BuildSettings, earlier: pd.DataFrame | None = None) -> pd.DataFrame:
    """The kept samples with their split, in the order of their row ids: by split, shuffled inside each.

    Row ids follow on those of ``earlier``, which the corpus has already. Raises :class:`UserError` where one of them
    would be in another split with the new samples than it is in.
    """
    if earlier is None:
        return _in_order(_divided(kept, settings), settings, 0)
    everyone = _divided(pd.concat([earlier, kept]), settings)
    moved = earlier[everyone.loc[earlier.index, "split"] != earlier["split"]]
    if len(moved):
        one = moved.iloc[0]
        raise UserError(
            f"the corpus cannot grow: {len(moved):,} of its {len(earlier):,} profiles would change their split, e.g. "
            f"{one['sample_id']} of study {one['study_id']} from {one['split']} to "
            f"{everyone.at[moved.index[0], 'split']}; splits by name, or split.stable, stay when samples are added"
        )
    return _in_order(everyone.loc[kept.index], settings, len(earlier))


def _divided(kept: pd.DataFrame, settings: BuildSettings) -> pd.DataFrame:
    groups = _groups(kept, settings.split.by)
    split_of = split_groups(
        groups.value_counts().to_dict(), settings.split, settings.seed, _strata(kept, groups, settings)
    )
    if empty := empty_splits(split_of, settings.split):
        of = "studies" if not settings.split.by else "groups"
        log(
            f"NOTHING HELD OUT for {' and '.join(empty)}: {of} are never divided, and there are {len(split_of)}; "
            "a model of this corpus is neither validated nor tested on it"
        )
    kept = kept.assign(split=groups.map(split_of))
    if (fraction := settings.split.in_distribution_fraction) > 0:
        chosen = kept["sample_id"].map(lambda sample: position(settings.seed, "sample", sample) < fraction)
        kept.loc[(kept["split"] == "train") & chosen, "split"] = IN_DISTRIBUTION
        if not (kept["split"] == "train").any():
            raise UserError(f"no sample is left to train on: in_distribution_fraction {fraction} took all")
    return kept


def _in_order(kept: pd.DataFrame, settings: BuildSettings, first_row_id: int) -> pd.DataFrame:
    shuffled = kept.iloc[np.random.default_rng(settings.seed).permutation(len(kept))]
    ordered = shuffled.sort_values("split", key=lambda split: split.map(SPLITS.index), kind="stable")
    return ordered.assign(row_id=first_row_id + np.arange(len(ordered)))


def _groups(kept: pd.DataFrame, by: Sequence[str]) -> pd.Series:
    """The group of each sample: the values of some labels, or its study where it lacks one."""
    if not by:
        return kept["study_id"]
    values = pd.concat([labels_of(kept, name, "split.by") for name in by], axis="columns")
    joined = values.astype(object).apply(lambda row: " / ".join(map(str, row)), axis="columns")
    return joined.where(values.notna().all(axis="columns"), kept["study_id"])


def _strata(kept: pd.DataFrame, groups: pd.Series, settings: BuildSettings) -> dict[str, str]:
    """The commonest value of the label to stratify by in each group; the empty word where a group has none."""
    if settings.split.stratify is None:
        return {}
    values = labels_of(kept, settings.split.stratify, "split.stratify").fillna("")
    counts = pd.DataFrame({"group": groups, "value": values}).value_counts().reset_index()
    counts = counts.sort_values(["count", "value"], ascending=[False, True], kind="stable")
    return dict(counts.drop_duplicates("group")[["group", "value"]].itertuples(index=False))
