"""The corpus format: what is written is what is read, and damage is noticed and named."""

import dataclasses
import hashlib
import json
import pickle
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from dataprep.corpus import (
    GENES_FILE,
    MANIFEST_FILE,
    REJECTED_FILE,
    SAMPLES_FILE,
    Corpus,
    Manifest,
    ReplacedShardError,
    SampleCounts,
    Shard,
    SplitSummary,
    decode_expression,
    encode_expression,
    iterate_rows,
    manifest_text,
    open_corpus,
    read_row_groups,
    read_split,
    table_bytes,
    verify,
    write_shard,
)
from dataprep.genes.vocabulary import GeneVocabulary
from dataprep.runtime.command_line import UserError
from dataprep.runtime.storage import Folder


def small_vocabulary(genes: int) -> GeneVocabulary:
    ids = tuple(f"ENSG{number:011d}" for number in range(genes))
    return GeneVocabulary(ids, tuple(f"G{number}" for number in range(genes)), np.full(genes, 1000.0))


def write_corpus(where: Path, rows_per_shard: list[tuple[str, int]], genes: int = 7, row_group: int = 4) -> np.ndarray:
    """A corpus with one shard per (split, rows); returns its whole expression matrix."""
    folder, vocabulary = Folder(str(where)), small_vocabulary(genes)
    total = sum(rows for _, rows in rows_per_shard)
    expression = np.random.default_rng(0).gamma(1.0, 2.0, (total, genes)).astype(np.float16)
    expression[::3, 0] = np.nan
    entries, first = [], 0
    for number, (split, rows) in enumerate(rows_per_shard):
        path = f"split={split}/part-{number:05d}.parquet"
        part = expression[first : first + rows]
        entries.append(write_shard(folder, path, split, first, part, vocabulary, row_group))
        first += rows
    folder.write_bytes(GENES_FILE, table_bytes(vocabulary.to_arrow()))
    folder.write_bytes(SAMPLES_FILE, table_bytes(pa.table({"row_id": pa.array(range(total), pa.int64())})))
    folder.write_bytes(REJECTED_FILE, table_bytes(pa.table({"sample_id": pa.array([], pa.string())})))
    manifest = Manifest(
        genes=genes,
        vocabulary_sha256=vocabulary.fingerprint,
        rows_per_row_group=row_group,
        splits={split: SplitSummary(rows=rows, studies=[]) for split, rows in rows_per_shard},
        shards=entries,
        tables_sha256={name: folder.sha256(name) for name in (GENES_FILE, SAMPLES_FILE, REJECTED_FILE)},
        samples=SampleCounts(read=total, kept=total, rejected={}),
        sources=[],
        settings={},
    )
    folder.write_text(MANIFEST_FILE, manifest_text(manifest))
    return expression


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    write_corpus(tmp_path / "corpus", [("train", 9), ("train", 5), ("validation", 3)])
    return open_corpus(str(tmp_path / "corpus"))


@hypothesis_settings(max_examples=25, deadline=None)
@given(rows=st.integers(0, 40), genes=st.integers(1, 30), start=st.integers(0, 40), seed=st.integers(0, 99))
def test_a_decoded_column_is_the_matrix_bit_by_bit(rows: int, genes: int, start: int, seed: int) -> None:
    values = np.random.default_rng(seed).integers(0, 2**16, (rows, genes), np.uint16).view(np.float16)
    column = encode_expression(values)[start:]
    decoded = decode_expression(pa.chunked_array([column[:3], column[3:]], column.type), genes)
    assert np.array_equal(decoded.view(np.uint16), values[start:].view(np.uint16))


def test_decoding_does_not_copy() -> None:
    values = np.ones((4, 3), np.float16)
    assert np.shares_memory(decode_expression(encode_expression(values), 3), values)


@pytest.mark.parametrize("row_groups", [[0], [2, 0], [0, 1, 2]])
def test_row_groups_hold_the_row_ids_that_the_manifest_implies(corpus: Corpus, row_groups: list[int]) -> None:
    shard = corpus.shards("train")[0]
    table = read_row_groups(corpus.folder, shard, row_groups)
    expected = [row_id for group in row_groups for row_id in shard.row_ids(group)]
    assert table.column("row_id").to_pylist() == expected


def test_row_ids_are_dense_over_the_splits(tmp_path: Path) -> None:
    expression = write_corpus(tmp_path, [("train", 9), ("train", 5), ("validation", 3), ("test", 4)])
    corpus = open_corpus(str(tmp_path))
    parts = [read_split(corpus, split) for split in ("train", "validation", "test")]
    assert np.concatenate([ids for ids, _ in parts]).tolist() == list(range(21))
    assert np.array_equal(np.concatenate([values for _, values in parts]), expression, equal_nan=True)
    assert [corpus.rows(split) for split in ("train", "validation", "test")] == [14, 3, 4]


@pytest.mark.parametrize("max_rows", [0, 1, 10, 14, 100])
def test_a_split_can_be_read_in_part(corpus: Corpus, max_rows: int) -> None:
    ids, values = read_split(corpus, "train", max_rows)
    assert len(ids) == len(values) == min(max_rows, 14)
    assert ids.tolist() == list(range(len(ids)))


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """(shard, row group) of all that is read."""
    found: list[tuple[str, int]] = []

    def recording(folder: Folder, shard: Shard, row_groups: list[int]) -> pa.Table:
        found.extend((shard.path.rpartition("-")[2], group) for group in row_groups)
        return read_row_groups(folder, shard, row_groups)

    monkeypatch.setattr("dataprep.corpus.corpus.read_row_groups", recording)
    return found


def test_chosen_profiles_are_read_in_one_pass_over_the_row_groups_that_hold_them(
    tmp_path: Path, fetched: list[tuple[str, int]]
) -> None:
    # row ids 0-8 | 9-13 | 14-16 | 17-20, row groups of 4
    expression = write_corpus(tmp_path, [("train", 9), ("train", 5), ("validation", 3), ("test", 4)])
    wanted = np.array([20, 3, 5, 6, 3, 15])
    parts = list(iterate_rows(open_corpus(str(tmp_path)), wanted))
    assert [ids.tolist() for ids, _ in parts] == [[3], [5, 6], [15], [20]]
    assert np.array_equal(np.concatenate([v for _, v in parts]), expression[[3, 5, 6, 15, 20]], equal_nan=True)
    assert fetched == [("00000.parquet", 0), ("00000.parquet", 1), ("00002.parquet", 0), ("00003.parquet", 0)]


@hypothesis_settings(max_examples=20, deadline=None)
@given(row_ids=st.lists(st.integers(0, 99), max_size=60))
def test_any_choice_of_profiles_is_what_it_is_in_the_matrix(row_ids: list[int]) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        expression = write_corpus(Path(scratch), [("train", 70), ("train", 3), ("validation", 27)], row_group=5)
        parts = list(iterate_rows(open_corpus(scratch), np.array(row_ids, np.int64)))
    ids = [row_id for part, _ in parts for row_id in part.tolist()]
    assert ids == sorted(set(row_ids))
    for part, values in parts:
        assert np.array_equal(values, expression[part], equal_nan=True)


def test_profiles_that_a_corpus_does_not_have_are_counted(corpus: Corpus) -> None:
    with pytest.raises(UserError, match="has 1 of the 3 profiles asked for by row id"):
        list(iterate_rows(corpus, np.array([0, 17, -1])))


def test_an_absent_split_is_empty(corpus: Corpus) -> None:
    ids, values = read_split(corpus, "test")
    assert ids.shape == (0,)
    assert values.shape == (0, 7)


def test_an_opened_corpus_can_be_sent_to_another_process(corpus: Corpus) -> None:
    assert pickle.loads(pickle.dumps(corpus)) == corpus


def test_a_sound_corpus_verifies(corpus: Corpus) -> None:
    verify(corpus)


def test_a_shard_explains_itself(corpus: Corpus) -> None:
    shard = corpus.shards("train")[0]
    metadata = read_row_groups(corpus.folder, shard, [0]).schema.metadata
    assert metadata[b"expression_unit"] == b"log1p(TPM), natural logarithm"
    assert metadata[b"vocabulary_sha256"].decode() == corpus.vocabulary.fingerprint
    assert json.loads(metadata[b"expression_shape"]) == [7]


def test_a_changed_byte_is_found_and_the_shard_named(corpus: Corpus) -> None:
    shard = corpus.shards("train")[1]
    content = bytearray(corpus.folder.read_bytes(shard.path))
    content[40] ^= 1
    corpus.folder.write_bytes(shard.path, bytes(content))
    with pytest.raises(UserError, match=rf"{shard.path}: checksum should be {shard.sha256} and is [0-9a-f]{{64}}"):
        verify(corpus)


def test_a_shard_over_other_genes_is_found(corpus: Corpus) -> None:
    other = GeneVocabulary(tuple(f"ENSG9{n:010d}" for n in range(7)), ("",) * 7, np.full(7, 1000.0))
    shard = corpus.shards("validation")[0]
    entry = write_shard(corpus.folder, shard.path, "validation", 14, np.zeros((3, 7), np.float16), other, 4)
    swapped = entry.shard(4, corpus.vocabulary.fingerprint)
    with pytest.raises(UserError, match="vocabulary_sha256 should be"):
        verify(corpus, [swapped])


@pytest.mark.parametrize("name", [SAMPLES_FILE, REJECTED_FILE])
def test_a_table_of_another_corpus_is_refused(corpus: Corpus, name: str) -> None:
    corpus.folder.write_bytes(name, table_bytes(pa.table({"row_id": pa.array([0], pa.int64())})))
    with pytest.raises(UserError, match=f"{name} is not the one that the manifest names"):
        corpus.samples() if name == SAMPLES_FILE else corpus.read_rejected()


def test_entries_that_a_later_version_adds_leave_the_fingerprint_of_a_corpus_alone(corpus: Corpus) -> None:
    content = json.loads(corpus.folder.read_text(MANIFEST_FILE))
    del content["unit"]
    text = json.dumps(content)
    corpus.folder.write_text(MANIFEST_FILE, text)
    assert open_corpus(corpus.folder).fingerprint == hashlib.sha256(text.encode()).hexdigest()


def test_a_missing_shard_is_named(corpus: Corpus) -> None:
    shard = corpus.shards("train")[0]
    corpus.folder.remove(shard.path)
    with pytest.raises(UserError, match=f"{shard.path} is missing"):
        verify(corpus)
    with pytest.raises(UserError, match=f"{shard.path} is missing"):
        read_row_groups(corpus.folder, shard, [0])


def test_a_truncated_shard_is_named(corpus: Corpus) -> None:
    shard = corpus.shards("train")[0]
    corpus.folder.write_bytes(shard.path, corpus.folder.read_bytes(shard.path)[:-20])
    with pytest.raises(UserError, match=f"{shard.path} is damaged"):
        read_row_groups(corpus.folder, shard, [0])


def test_shards_of_the_first_version_say_nothing_of_their_content_and_are_read(corpus: Corpus) -> None:
    shard = corpus.shards("train")[1]
    table = pq.read_table(Path(corpus.folder.path) / shard.path, partitioning=None)
    metadata = {key: value for key, value in table.schema.metadata.items() if key != b"content_sha256"}
    pq.write_table(table.replace_schema_metadata(metadata), Path(corpus.folder.path) / shard.path, row_group_size=4)
    older = dataclasses.replace(shard, content_sha256=None, bytes=corpus.folder.size_bytes(shard.path))
    assert read_row_groups(corpus.folder, older, [0]).num_rows == 4
    with pytest.raises(ReplacedShardError, match=r"\(content_sha256 should be \w{64} and is None\)"):
        read_row_groups(corpus.folder, shard, [0])


def test_a_folder_without_manifest_is_no_corpus(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is not a corpus: it has no manifest\.json"):
        open_corpus(str(tmp_path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 2}, "format version 2; this is for 1"),
        ({"format": "other"}, "is not the manifest of a corpus"),
        ({"shards": 5}, "shards"),
        ({"rows_per_row_group": 0}, "rows_per_row_group: Input should be greater than or equal to 1"),
        ({"genes": -1}, "genes: Input should be greater than or equal to 1"),
        ({"vocabulary_sha256": "0" * 64}, "vocabulary .* is not the one the manifest names"),
    ],
)
def test_a_foreign_manifest_is_refused(corpus: Corpus, change: dict[str, object], message: str) -> None:
    content = json.loads(corpus.folder.read_text(MANIFEST_FILE)) | change
    corpus.folder.write_text(MANIFEST_FILE, json.dumps(content))
    with pytest.raises(UserError, match=message):
        open_corpus(corpus.folder)


@pytest.mark.parametrize(("name", "number"), [("rows", 2**60), ("rows", -1), ("first_row_id", 2**62), ("bytes", -1)])
def test_a_manifest_whose_shards_have_impossible_sizes_is_refused(corpus: Corpus, name: str, number: int) -> None:
    content = json.loads(corpus.folder.read_text(MANIFEST_FILE))
    content["shards"][0][name] = number
    corpus.folder.write_text(MANIFEST_FILE, json.dumps(content))
    with pytest.raises(UserError, match=rf"shards\.0\.{name}: Input should be (less|greater) than"):
        open_corpus(corpus.folder)


def test_a_manifest_that_is_not_json_is_refused(corpus: Corpus) -> None:
    corpus.folder.write_text(MANIFEST_FILE, "{")
    with pytest.raises(UserError, match="is not JSON"):
        open_corpus(corpus.folder)


def test_an_unknown_split_is_named(corpus: Corpus) -> None:
    with pytest.raises(UserError, match="unknown split 'dev'; splits: train, validation, test"):
        corpus.shards("dev")


def test_a_corpus_without_graph_says_how_to_make_one(corpus: Corpus) -> None:
    with pytest.raises(UserError, match="run python -m dataprep graph"):
        corpus.graph()


def test_the_entry_of_a_shard_has_the_size_and_checksum_of_its_file(tmp_path):
    profiles = np.zeros((1_000, 7), np.float16)
    entry = write_shard(Folder(str(tmp_path)), "shard.parquet", "train", 0, profiles, small_vocabulary(7), 1)
    content = (tmp_path / "shard.parquet").read_bytes()
    assert (entry.bytes, entry.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert pq.ParquetFile(tmp_path / "shard.parquet").num_row_groups == 1_000


def test_a_shard_that_does_not_fit_on_the_disk_is_one_line_and_leaves_nothing(small_disk):
    profiles = np.zeros((100_000, 7), np.float16)
    with pytest.raises(UserError, match=rf"^{small_disk}: No space left on device$"):
        write_shard(Folder(str(small_disk)), "shard.parquet", "train", 0, profiles, small_vocabulary(7), 10_000)
    assert list(small_disk.iterdir()) == []
