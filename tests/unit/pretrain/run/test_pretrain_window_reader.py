"""Windows of profiles come from the store, whole or, where asked, without what is damaged."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from made_corpora import make_corpus, make_profiles

from dataprep.corpus import MANIFEST_FILE, Corpus, DamagedShardError, ReplacedShardError, decode_expression
from pretrain.data.plan import Window
from pretrain.data.window_reader import read_numbered, read_window, salvage_window

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


def test_a_window_has_its_own_profiles_as_they_lie_in_the_shards(corpus):
    table = read_window(corpus.folder, window(corpus))
    assert table.column("row_id").to_pylist() == [8, 9, 10, 25, 30, 31]
    assert all(table.column("readable").to_pylist())
    np.testing.assert_array_equal(expression_of(table), make_profiles(40, GENES)[[8, 9, 10, 25, 30, 31]])


def test_a_flipped_bit_in_a_page_is_noticed_and_the_shard_named(corpus):
    damage(corpus, 1)
    with pytest.raises(DamagedShardError, match=r"part-00001\.parquet is damaged"):
        read_window(corpus.folder, window(corpus))


def test_what_is_not_damaged_can_be_salvaged(corpus):
    damage(corpus, 1)
    table = salvage_window(corpus.folder, window(corpus), GENES)
    assert table.column("row_id").to_pylist() == [8, 9, 10, 25, 30, 31]
    assert table.column("readable").to_pylist() == [True] * 3 + [False] * 3
    np.testing.assert_array_equal(expression_of(table)[:3], make_profiles(40, GENES)[[8, 9, 10]])


def test_a_shard_that_is_missing_is_salvaged_as_damaged(corpus):
    (Path(corpus.folder.path) / corpus.shards("train")[0].path).unlink()
    with pytest.raises(DamagedShardError, match=r"part-00000\.parquet is missing"):
        read_window(corpus.folder, window(corpus))
    table = salvage_window(corpus.folder, window(corpus), GENES)
    assert table.column("row_id").to_pylist() == [25, 30, 31, 8, 9, 10]
    assert table.column("readable").to_pylist() == [True] * 3 + [False] * 3


def other_profiles(corpus):
    return make_corpus(corpus.folder.uri, {"train": 40, "validation": 0, "test": 0}, rows_per_shard=24, seed=5)


def genes_in_another_order(corpus):
    genes = corpus.vocabulary
    mirrored = dataclasses.replace(genes, ensembl_ids=genes.ensembl_ids[::-1])
    rows = {"train": 40, "validation": 0, "test": 0}
    return make_corpus(corpus.folder.uri, rows, rows_per_shard=24, vocabulary=mirrored)


def row_ids_shifted(corpus):
    # with validation profiles first, train profiles begin at row id 3
    return make_corpus(corpus.folder.uri, {"validation": 3, "train": 40, "test": 0}, rows_per_shard=24)


def fewer_shards(corpus):
    return make_corpus(corpus.folder.uri, {"train": 40, "validation": 0, "test": 0}, rows_per_shard=40)


def larger_row_groups(corpus):
    rows = {"train": 40, "validation": 0, "test": 0}
    return make_corpus(corpus.folder.uri, rows, rows_per_shard=24, row_group=12)


def half_removed(corpus):
    for name in (MANIFEST_FILE, "split=train/part-00000.parquet"):
        corpus.folder.remove(name)


@pytest.mark.parametrize("leave_out_damaged", [False, True])
@pytest.mark.parametrize(
    "change",
    [other_profiles, genes_in_another_order, row_ids_shifted, fewer_shards, larger_row_groups, half_removed],
)
def test_a_corpus_that_was_rebuilt_under_a_run_is_never_read_with_the_old_row_ids(corpus, change, leave_out_damaged):
    windows = [window(corpus)]
    corpus.folder.remove("split=train")
    change(corpus)
    numbers = pa.table({"id": [0]})
    with pytest.raises(ReplacedShardError, match="the corpus was"):
        read_numbered(numbers, corpus.folder, windows, GENES, leave_out_damaged)


def test_the_same_corpus_built_again_is_the_same(corpus):
    before = read_window(corpus.folder, window(corpus))
    make_corpus(corpus.folder.uri, {"train": 40, "validation": 0, "test": 0}, rows_per_shard=24)
    assert read_window(corpus.folder, window(corpus)) == before


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        # what only an object store needs is not loaded for a disk
        ("pretrain.data.window_reader", ("torch", "ray", "s3fs", "botocore", "aiohttp")),
        ("pretrain.training.job", ("torch_geometric", "deepspeed", "s3fs", "botocore")),
    ],
)
def test_processes_that_only_read_or_drive_load_no_model(module, absent):
    """Each of them would take seconds of a core at every start."""
    check = f"import sys, {module}; print([name for name in {absent!r} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
