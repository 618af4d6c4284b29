"""Studies go to one split whole, and always to the same one."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from dataprep.config import SplitSettings
from dataprep.pipeline.splits import empty_splits, split_studies
from dataprep.runtime.command_line import UserError

STUDIES = st.dictionaries(st.text("abcdef", min_size=1, max_size=6), st.integers(1, 500), min_size=3, max_size=40)


@hypothesis_settings(max_examples=100, deadline=None)
@given(studies=STUDIES, seed=st.integers(0, 99))
def test_every_study_has_one_split_and_none_stays_empty(studies: dict[str, int], seed: int) -> None:
    split_of = split_studies(studies, SplitSettings(), seed)
    assert set(split_of) == set(studies)
    assert set(split_of.values()) == {"train", "validation", "test"}


@hypothesis_settings(max_examples=50, deadline=None)
@given(studies=STUDIES, seed=st.integers(0, 99))
def test_the_split_does_not_depend_on_the_order_of_studies(studies: dict[str, int], seed: int) -> None:
    backwards = dict(reversed(studies.items()))
    assert split_studies(studies, SplitSettings(), seed) == split_studies(backwards, SplitSettings(), seed)


def test_held_out_fractions_are_about_what_was_asked_for() -> None:
    studies = {f"study {number}": 10 + number % 7 for number in range(200)}
    split_of = split_studies(studies, SplitSettings(validation_fraction=0.05, test_fraction=0.2), seed=1)
    profiles = {split: sum(studies[s] for s in studies if split_of[s] == split) for split in split_of.values()}
    total = sum(studies.values())
    assert 0.18 < profiles["test"] / total <= 0.2
    assert 0.03 < profiles["validation"] / total <= 0.05


def test_the_seed_changes_the_split() -> None:
    studies = {f"study {number}": 10 for number in range(50)}
    assert split_studies(studies, SplitSettings(), 1) != split_studies(studies, SplitSettings(), 2)


def test_a_single_study_is_trained_on() -> None:
    assert split_studies({"a": 10}, SplitSettings(), 0) == {"a": "train"}


def test_nothing_is_held_out_that_was_not_asked_for() -> None:
    settings = SplitSettings(validation_fraction=0, test_fraction=0)
    assert set(split_studies({"a": 10, "b": 10, "c": 1}, settings, 0).values()) == {"train"}


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
    assert empty_splits(split_studies(studies, chosen, 0), chosen) == empty


def test_named_studies_go_where_they_are_named() -> None:
    settings = SplitSettings(validation=["a"], test=["c"])
    assert split_studies({"a": 1, "b": 1, "c": 1}, settings, 0) == {"a": "validation", "b": "train", "c": "test"}


def test_a_named_study_that_is_not_there_is_named() -> None:
    with pytest.raises(UserError, match="studies named in split have no profile in the corpus: zz; there are a, b"):
        split_studies({"a": 1, "b": 1}, SplitSettings(test=["zz"]), 0)


def test_holding_everything_out_is_refused() -> None:
    with pytest.raises(UserError, match="no study is left to train on"):
        split_studies({"a": 1, "b": 1}, SplitSettings(test=["a"], validation=["b"]), 0)


@pytest.mark.parametrize(
    "settings", [{"validation": ["a"], "test": ["a"]}, {"validation_fraction": 0.6, "test_fraction": 0.5}]
)
def test_contradictory_splits_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"both validation and test|leave nothing to train on"):
        SplitSettings.model_validate(settings)
