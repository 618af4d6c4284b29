"""Metrics cost the same at the end of a run as at its beginning, and nothing tears them."""

import json
import random
from pathlib import Path

import fsspec
import pytest

from dataprep.runtime.command_line import UserError
from dataprep.runtime.storage import Folder
from pretrain.monitoring import metrics_file
from pretrain.monitoring.metrics_file import METRICS_FILE, MetricsFile, read_rows


class ObjectStore(Folder):
    """Without appending, as an object store; the sizes of all files written are in ``bytes_written``."""

    @property
    def is_local(self) -> bool:
        return False

    @property
    def filesystem(self) -> fsspec.AbstractFileSystem:
        return fsspec.filesystem("file", auto_mkdir=True)

    def write_bytes(self, name: str, content: bytes) -> None:
        bytes_written.append(len(content))
        super().write_bytes(name, content)

    def remove(self, name: str) -> None:
        Folder(self.uri).remove(name)


bytes_written: list[int] = []


@pytest.fixture(params=[Folder, ObjectStore])
def folder(request, tmp_path: Path) -> Folder:
    bytes_written.clear()
    return request.param(str(tmp_path / "run"))


def row(step: int, **more: float) -> dict[str, float]:
    return {"step": step, "epoch": 0, "loss": 1.0 / step, **more}


def opened(folder: Folder, from_step: int) -> MetricsFile:
    return MetricsFile.resume(folder, from_step)[0]


def append(file: MetricsFile, *rows: dict[str, float]) -> None:
    file.append([json.dumps(row) for row in rows])


@pytest.mark.parametrize("seed", range(8))
def test_any_history_of_kills_and_stops_reads_as_a_list_of_rows_would(folder, monkeypatch, seed):
    chance = random.Random(seed)
    monkeypatch.setattr(metrics_file, "PART_BYTES", chance.choice([1, 100, 500]))
    expected: list[dict[str, float]] = []
    step = 0
    for life in range(6):
        step = chance.randint(0, step)
        expected = [row for row in expected if row["step"] <= step]
        file, before = MetricsFile.resume(folder, step)
        assert before == expected
        for _ in range(chance.randint(0, 12)):
            step += 1
            rows = [row(step, life=life)] + ([row(step, validation_loss=0.5)] if chance.random() < 0.3 else [])
            append(file, *rows)
            expected += rows
            assert read_rows(folder) == expected, "while the run goes on"
        if chance.random() < 0.5:
            file.close()
            assert read_rows(folder) == expected
            lines = folder.read_text(METRICS_FILE).splitlines() if expected else []
            assert [json.loads(line) for line in lines] == expected, "one file, once the run has stopped"


def test_a_row_costs_the_same_however_many_there_are(tmp_path, monkeypatch):
    monkeypatch.setattr(metrics_file, "PART_BYTES", 2_000)
    file = opened(ObjectStore(str(tmp_path)), 0)
    bytes_written.clear()
    for step in range(1, 1001):
        append(file, row(step))
    assert max(bytes_written) <= 2_100


def test_a_row_in_a_local_folder_is_appended(tmp_path):
    file = opened(Folder(str(tmp_path)), 0)
    append(file, row(1))
    inode = (tmp_path / METRICS_FILE).stat().st_ino
    append(file, row(2))
    assert (tmp_path / METRICS_FILE).stat().st_ino == inode
    assert [line["step"] for line in read_rows(Folder(str(tmp_path)))] == [1, 2]


def test_a_row_that_a_kill_or_a_full_disk_cut_short_is_no_row(tmp_path):
    folder = Folder(str(tmp_path))
    file = opened(folder, 0)
    append(file, row(1), row(2))
    with (tmp_path / METRICS_FILE).open("a") as stream:
        stream.write('{"step": 3, "lo')
    assert [line["step"] for line in read_rows(folder)] == [1, 2]
    append(file, row(3))  # the same process tries it again
    assert [line["step"] for line in read_rows(folder)] == [1, 2, 3]
    with (tmp_path / METRICS_FILE).open("a") as stream:
        stream.write('{"step": 4')
    append(opened(folder, 3), row(4))  # a later one
    assert [line["step"] for line in read_rows(folder)] == [1, 2, 3, 4]


def test_a_kill_between_composing_and_deleting_parts_doubles_no_row(tmp_path, monkeypatch):
    monkeypatch.setattr(metrics_file, "PART_BYTES", 100)
    folder = ObjectStore(str(tmp_path))
    file = opened(folder, 0)
    append(file, *map(row, range(1, 10)))
    with monkeypatch.context() as patch:
        patch.setattr(ObjectStore, "remove", lambda *_: None)
        file.close()
    assert (tmp_path / "metrics").is_dir()
    assert [line["step"] for line in read_rows(folder)] == list(range(1, 10))
    append(opened(folder, 9), row(10))
    assert [line["step"] for line in read_rows(folder)] == list(range(1, 11))


def test_a_line_that_is_no_row_is_named(tmp_path):
    (tmp_path / METRICS_FILE).write_text('{"step": 1}\nnonsense\n{"step": 2}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl: line 2 is not a row of metrics"):
        read_rows(Folder(str(tmp_path)))
