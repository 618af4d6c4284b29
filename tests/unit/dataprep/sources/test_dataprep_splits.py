"""Studies go to one split whole, and always to the same one."""

from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from dataprep.config import BuildSettings, SplitSettings
from dataprep.pipeline.deciding import assign_splits
from dataprep.pipeline.splits import empty_splits, split_groups
from dataprep.runtime.command_line import UserError

STUDIES = st.dictionaries(st.text("abcdef", min_size=1, max_size=6), st.integers(1, 500), min_size=3, max_size=40)


@hypothesis_settings(max_examples=100, deadline=None)
@given(studies=STUDIES, seed=st.integers(0, 99))
def test_every_study_has_one_split_and_none_stays_empty(studies: dict[str, int], seed: int) -> None:
    split_of = split_groups(studies, SplitSettings(), seed)
    assert set(split_of) == set(studies)
    assert set(split_of.values()) == {"train", "validation", "test"}


@hypothesis_settings(max_examples=50, deadline=None)
@given(studies=STUDIES, seed=st.integers(0, 99))
def test_the_split_does_not_depend_on_the_order_of_studies(studies: dict[str, int], seed: int) -> None:
    backwards = dict(reversed(studies.items()))
    assert split_groups(studies, SplitSettings(), seed) == split_groups(backwards, SplitSettings(), seed)


def test_held_out_fractions_are_about_what_was_asked_for() -> None:
    studies = {f"study {number}": 10 + number % 7 for number in range(200)}
    split_of = split_groups(studies, SplitSettings(validation_fraction=0.05, test_fraction=0.2), seed=1)
    profiles = {split: sum(studies[s] for s in studies if split_of[s] == split) for split in split_of.values()}
    total = sum(studies.values())
    assert 0.18 < profiles["test"] / total <= 0.2
    assert 0.03 < profiles["validation"] / total <= 0.05


def test_the_seed_changes_the_split() -> None:
    studies = {f"study {number}": 10 for number in range(50)}
    assert split_groups(studies, SplitSettings(), 1) != split_groups(studies, SplitSettings(), 2)


def test_a_single_study_is_trained_on() -> None:
    assert split_groups({"a": 10}, SplitSettings(), 0) == {"a": "train"}


def test_nothing_is_held_out_that_was_not_asked_for() -> None:
    settings = SplitSettings(validation_fraction=0, test_fraction=0)
    assert set(split_groups({"a": 10, "b": 10, "c": 1}, settings, 0).values()) == {"train"}


@pytest.mark.parametrize(
    ("studies", "settings", "empty"),
    [
        ({"a": 10}, {}, ["validation", "test"]),
        ({"a": 10, "b": 10}, {}, ["validation"]),
        ({"a": 10, "b": 10, "c": 10}, {}, []),
        ({"a": 10}, {"validation_fraction": 0, "test_fraction": 0}, []),
        ({"a": 10, "b": 10}, {"test": ["b"]}, []),
    ],
)
def test_a_split_that_got_nothing_of_what_was_asked_for_is_named(
    studies: dict[str, int], settings: dict[str, Any], empty: list[str]
) -> None:
    chosen = SplitSettings(**settings)
    assert empty_splits(split_groups(studies, chosen, 0), chosen) == empty


def test_named_studies_go_where_they_are_named() -> None:
    settings = SplitSettings(validation=["a"], test=["c"])
    assert split_groups({"a": 1, "b": 1, "c": 1}, settings, 0) == {"a": "validation", "b": "train", "c": "test"}


def test_a_named_study_that_is_not_there_is_named() -> None:
    with pytest.raises(UserError, match="studies named in split have no profile in the corpus: zz; there are a, b"):
        split_groups({"a": 1, "b": 1}, SplitSettings(test=["zz"]), 0)


def test_holding_everything_out_is_refused() -> None:
    with pytest.raises(UserError, match="no study is left to train on"):
        split_groups({"a": 1, "b": 1}, SplitSettings(test=["a"], validation=["b"]), 0)


@pytest.mark.parametrize(
    "settings", [{"validation": ["a"], "test": ["a"]}, {"validation_fraction": 0.6, "test_fraction": 0.5}]
)
def test_contradictory_splits_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"both validation and test|leave nothing to train on"):
        SplitSettings.model_validate(settings)


@hypothesis_settings(max_examples=50, deadline=None)
@given(studies=STUDIES, more=STUDIES, seed=st.integers(0, 99))
def test_a_stable_split_never_moves_a_group(studies: dict[str, int], more: dict[str, int], seed: int) -> None:
    settings = SplitSettings(stable=True)
    # one that is always trained on
    anchor = next(name for name in map(str, range(999)) if _stable(name, settings, seed) == "train")
    before = split_groups(studies | {anchor: 1}, settings, seed)
    after = split_groups(more | studies | {anchor: 99}, settings, seed)
    assert {group: after[group] for group in before} == before


def _stable(name: str, settings: SplitSettings, seed: int) -> str | None:
    try:
        return split_groups({name: 1}, settings, seed)[name]
    except UserError:
        return None


def test_a_stable_split_has_its_fractions_of_many_groups() -> None:
    split_of = split_groups({f"g{n}": 1 for n in range(4000)}, SplitSettings(stable=True, test_fraction=0.3), 0)
    shares = {split: list(split_of.values()).count(split) / 4000 for split in ("test", "validation")}
    assert shares["test"] == pytest.approx(0.3, abs=0.03)
    assert shares["validation"] == pytest.approx(0.1, abs=0.02)


def test_every_stratum_is_held_out_in_part() -> None:
    studies = {
        f"{tissue} {number}": 10 for tissue in ("liver", "skin") for number in range(10 if tissue == "skin" else 90)
    }
    stratum_of = {study: study.split()[0] for study in studies}
    split_of = split_groups(studies, SplitSettings(), 0, stratum_of)
    for tissue, groups in (("liver", 9), ("skin", 1)):
        for split in ("test", "validation"):
            assert sum(split_of[s] == split for s in studies if stratum_of[s] == tissue) == groups


def kept(studies: dict[str, list[str]]) -> pd.DataFrame:
    """Samples, each a donor of a study."""
    rows = [(study, donor) for study, donors in studies.items() for donor in donors]
    frame = pd.DataFrame(rows, columns=["study_id", "label:donor"])
    frame["label:donor"] = frame["label:donor"].replace("", None)
    return frame.assign(sample_id=[f"s{number}" for number in range(len(rows))])


def assigned(frame: pd.DataFrame, **split: Any) -> pd.DataFrame:
    entry = {"name": "x", "path": "x", "gene_id": "ensembl", "units": "counts", "study": "x"}
    settings = BuildSettings.model_validate({"corpus": "c", "sources": [entry], "split": split})
    return assign_splits(frame, settings)


def test_a_group_can_be_a_label_and_samples_without_it_go_with_their_study() -> None:
    frame = kept({"gtex": [f"d{n % 20}" for n in range(100)], "other": [""] * 10})
    found = assigned(frame, by=["donor"])
    assert found.groupby(found["label:donor"].fillna("none"))["split"].nunique().max() == 1
    assert found.loc[found["study_id"] == "gtex", "split"].nunique() == 3


def test_a_second_validation_split_is_of_the_groups_that_are_trained_on_and_keeps_its_samples() -> None:
    frame = kept({f"study{n}": [""] * 50 for n in range(10)})
    found = assigned(frame, in_distribution_fraction=0.2).set_index("sample_id")
    inside = found[found["split"] == "validation_in_distribution"]
    train = found[found["split"] == "train"]
    assert set(inside["study_id"]) <= set(train["study_id"])
    assert 0.15 < len(inside) / (len(inside) + len(train)) < 0.25
    assert not set(inside["study_id"]) & set(found.loc[found["split"].isin(["test", "validation"]), "study_id"])
    # after all others, so that their row ids do not depend on it
    assert inside["row_id"].min() == len(found) - len(inside)
    later = assigned(
        pd.concat([frame, kept({"study3": [""] * 9}).assign(sample_id=[f"n{n}" for n in range(9)])]),
        in_distribution_fraction=0.2,
    ).set_index("sample_id")
    same = inside.index[found.loc[inside.index, "study_id"].isin(later.loc[later["split"] == "train", "study_id"])]
    assert (later.loc[same, "split"] == "validation_in_distribution").all()


def test_a_label_to_split_by_that_no_source_has_is_named() -> None:
    with pytest.raises(UserError, match=r"split.by: no source has the label 'patient'; there are donor"):
        assigned(kept({"a": ["x"]}), by=["patient"])
