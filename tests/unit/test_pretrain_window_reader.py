"""Windows of profiles come from the store in their order of use, whole or, where asked, without what is damaged."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from made_corpora import make_corpus, make_profiles

from dataprep.corpus import Corpus, DamagedShardError, decode_expression
from pretrain.data.plan import Window
from pretrain.data.window_reader import read_window, salvage_window

GENES = 60


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    """40 train profiles in two shards, row groups of 8."""
    rows = {"train": 40, "validation": 0, "test": 0}
    return make_corpus(str(tmp_path / "corpus"), rows, genes=GENES, rows_per_shard=24)


def window(corpus: Corpus) -> Window:
    first, second = corpus.shards("train")
    return Window(3, np.array([30, 9, 25, 10, 31, 8]), ((first, (1,)), (second, (0,))))


def expression_of(table) -> np.ndarray:
    return decode_expression(table.column("expression").combine_chunks(), GENES)


def damage(corpus: Corpus, number: int) -> None:
    """Flip a bit in the expression of the shard's first row group."""
    path = Path(corpus.folder.path) / corpus.shards("train")[number].path
    content = bytearray(path.read_bytes())
    content[300] ^= 1
    path.write_bytes(content)


def test_a_window_has_its_profiles_in_their_order_of_use(corpus):
    table = read_window(corpus.folder, window(corpus))
    assert table.column("row_id").to_pylist() == [30, 9, 25, 10, 31, 8]
    assert set(table.column("epoch").to_pylist()) == {3}
    assert all(table.column("readable").to_pylist())
    np.testing.assert_array_equal(expression_of(table), make_profiles(40, GENES)[[30, 9, 25, 10, 31, 8]])


def test_a_flipped_bit_in_a_page_is_noticed_and_the_shard_named(corpus):
    damage(corpus, 1)
    with pytest.raises(DamagedShardError, match=r"part-00001\.parquet is damaged"):
        read_window(corpus.folder, window(corpus))


def test_what_is_not_damaged_can_be_salvaged(corpus):
    damage(corpus, 1)
    table = salvage_window(corpus.folder, window(corpus), GENES)
    assert table.column("row_id").to_pylist() == [30, 9, 25, 10, 31, 8]
    assert table.column("readable").to_pylist() == [False, True, False, True, False, True]
    np.testing.assert_array_equal(expression_of(table)[1::2], make_profiles(40, GENES)[[9, 10, 8]])


def test_a_shard_that_is_missing_is_salvaged_as_damaged(corpus):
    (Path(corpus.folder.path) / corpus.shards("train")[0].path).unlink()
    with pytest.raises(DamagedShardError, match=r"part-00000\.parquet is missing"):
        read_window(corpus.folder, window(corpus))
    table = salvage_window(corpus.folder, window(corpus), GENES)
    assert table.column("readable").to_pylist() == [True, False, True, False, True, False]


@pytest.mark.parametrize(
    ("module", "absent"),
    [("pretrain.data.window_reader", ("torch", "ray")), ("pretrain.training.job", ("torch_geometric", "deepspeed"))],
)
def test_processes_that_only_read_or_drive_load_no_model(module, absent):
    """Each of them would take seconds of a core at every start."""
    check = f"import sys, {module}; print([name for name in {absent!r} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
