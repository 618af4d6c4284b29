"""What is read window by window becomes micro-batches in the order of the plan."""

from pathlib import Path

import numpy as np
import pytest
from made_corpora import make_corpus, make_profiles

from dataprep.corpus import Corpus
from pretrain.data.plan import StepShare, Window
from pretrain.data.stream import EpochPart, ProfileStream
from pretrain.data.window_reader import read_window, salvage_window

GENES = 60
IN_ORDER_OF_USE = [30, 9, 25, 10, 31, 8, 17, 33]


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    """40 train profiles in two shards, row groups of 8."""
    return make_corpus(
        str(tmp_path / "corpus"), {"train": 40, "validation": 0, "test": 0}, genes=GENES, rows_per_shard=24
    )


def parts(corpus: Corpus) -> list[EpochPart]:
    """One epoch of two windows."""
    first, second = corpus.shards("train")
    windows = (
        Window(0, np.array(IN_ORDER_OF_USE[:6]), ((first, (1,)), (second, (0,)))),
        Window(0, np.array(IN_ORDER_OF_USE[6:]), ((first, (2,)), (second, (1,)))),
    )
    return [EpochPart(0, 0, len(IN_ORDER_OF_USE), windows)]


def batches(corpus: Corpus, monkeypatch, read) -> list:
    stream = ProfileStream(corpus, 0, StepShare(4, 1), 3, prefetch_windows=2, patience_seconds=1)
    monkeypatch.setattr(
        ProfileStream, "_read", lambda _, windows: (part for window in windows for part in read(window))
    )
    return [batch for step in stream.steps(iter(parts(corpus))) for batch in step.micro_batches]


def read_ids(found: list) -> list[int]:
    return [int(number) for batch in found for number in batch.row_ids[: batch.real]]


@pytest.mark.parametrize("rows_of_a_block", [1, 2, 100])
def test_profiles_come_in_their_order_of_use_however_ray_cuts_the_windows(corpus, monkeypatch, rows_of_a_block):
    def read(window):
        table = read_window(corpus.folder, window)
        return (table.slice(start, rows_of_a_block) for start in range(0, len(table), rows_of_a_block))

    found = batches(corpus, monkeypatch, read)
    assert [batch.real for batch in found] == [3, 1, 3, 1]
    assert read_ids(found) == IN_ORDER_OF_USE
    expression = np.concatenate([batch.expression[: batch.real].numpy() for batch in found])
    np.testing.assert_array_equal(expression, make_profiles(40, GENES)[IN_ORDER_OF_USE].astype(np.float32))
    assert all((batch.expression[batch.real :] == 0).all() for batch in found)


def test_what_cannot_be_read_is_skipped_in_the_step_that_it_belongs_to(corpus, monkeypatch):
    damaged = Path(corpus.folder.path) / corpus.shards("train")[1].path
    damaged.unlink()
    found = batches(corpus, monkeypatch, lambda window: [salvage_window(corpus.folder, window, GENES)])
    assert read_ids(found) == [9, 10, 8, 17]
    assert [batch.skipped.tolist() for batch in found] == [[30, 25], [], [31], [33]]
    expression = np.concatenate([batch.expression[: batch.real].numpy() for batch in found])
    np.testing.assert_array_equal(expression, make_profiles(40, GENES)[[9, 10, 8, 17]].astype(np.float32))
