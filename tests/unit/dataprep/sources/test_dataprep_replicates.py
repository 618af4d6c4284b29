"""Technical replicates become one sample, of the sum of their reads, before anything is judged."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dataprep.genes.vocabulary import default_vocabulary
from dataprep.runtime.command_line import UserError
from tests.made_sources import GENES, build_settings, counts, names, read_without_ray, write_source

LIBRARIES = ["lib1", "lib2", "", "lib1", "lib2", "lib1"]


def read(folder: Path, values: np.ndarray, **build: Any) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    labels = pd.DataFrame({"sample": names("x", 6), "library": LIBRARIES, "lane": list("123456"), "sex": ["F"] * 6})
    labels.to_csv(folder / "samples.tsv", sep="\t", index=False)
    source = write_source(folder, "x", values) | {"samples": "samples.tsv", "replicates": "library"}
    return read_without_ray(build_settings(folder, [source | build.pop("source", {})], **build))


def tpm_by_hand(reads: np.ndarray) -> np.ndarray:
    rate = reads / default_vocabulary().lengths_bp[:GENES]
    return np.log1p(rate / rate.sum() * 1e6)


@pytest.mark.parametrize("samples_per_task", [1, 2, 4, 100])
def test_reads_of_replicates_are_added_up_wherever_they_stand(tmp_path: Path, samples_per_task: int) -> None:
    values = counts(6)
    samples, profiles = read(tmp_path, values, samples_per_task=samples_per_task)
    assert set(profiles) == {"lib1", "lib2", "x_002"}
    assert np.allclose(profiles["lib1"], tpm_by_hand(values[[0, 3, 5]].sum(axis=0)), rtol=2e-3)
    assert np.allclose(profiles["lib2"], tpm_by_hand(values[[1, 4]].sum(axis=0)), rtol=2e-3)
    assert np.allclose(profiles["x_002"], tpm_by_hand(values[2]), rtol=2e-3)
    others = samples[samples["reason"].notna()]
    assert set(others["reason"]) == {"added_to_replicate"}
    assert dict(zip(others["sample_id"], others["value"], strict=True)) == {
        "x_003": "lib1",
        "x_004": "lib2",
        "x_005": "lib1",
    }


def test_labels_that_replicates_share_stay_and_others_are_empty(tmp_path: Path) -> None:
    samples, _ = read(tmp_path, counts(6))
    first = samples[samples["sample_id"] == "lib1"].iloc[0]
    assert first["label:sex"] == "F"
    assert first["label:lane"] is None


def test_a_sum_is_judged_and_not_its_parts(tmp_path: Path) -> None:
    shallow = np.zeros((6, GENES), int)
    for row, start in enumerate((0, 0, 0, 15, 5, 30)):
        shallow[row, start : start + 15] = 100
    samples, profiles = read(tmp_path, shallow, min_nonzero_genes=30)
    assert set(profiles) == {"lib1"}
    refused = samples[samples["reason"] == "too_few_nonzero_genes"]
    assert dict(zip(refused["sample_id"], refused["value"], strict=True)) == {"lib2": "20", "x_002": "15"}


def test_an_excluded_lane_is_not_added(tmp_path: Path) -> None:
    values = counts(6)
    _, profiles = read(tmp_path, values, source={"exclude_samples": ["x_000"]})
    assert np.allclose(profiles["lib1"], tpm_by_hand(values[[3, 5]].sum(axis=0)), rtol=2e-3)


def test_an_error_does_not_hide_in_a_sum(tmp_path: Path) -> None:
    values = counts(6)
    values[3, 1] = -1
    with pytest.raises(UserError, match=r"1 of .* values are negative, e.g. -1 .*sample x_003"):
        read(tmp_path, values)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"replicates": "run"}, "replicates: no values in column 'run'; there are library, lane, sex"),
        ({"study": None, "study_column": "lane"}, "replicates of 'lib1' are of several studies, 1, 4, 6"),
        ({"units": "tpm"}, "replicates: reads can be added up, tpm cannot"),
    ],
)
def test_what_cannot_be_added_up_is_refused(tmp_path: Path, source: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(tmp_path, counts(6), source=source)
