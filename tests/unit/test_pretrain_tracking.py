"""Metrics reach the run's folder whatever MLflow does, and nothing waits for it."""

import json
import time

import pytest

from dataprep.runtime.storage import Folder
from pretrain.driver.progress import describe_row, duration
from pretrain.monitoring import tracking
from pretrain.monitoring.tracking import METRICS_FILE, MlflowRun, RunRecord, flattened, read_rows


def row(step: int) -> dict[str, float]:
    return {"step": step, "epoch": 0, "loss": 1.0 / step}


@pytest.fixture
def folder(tmp_path) -> Folder:
    return Folder(str(tmp_path / "run"))


@pytest.fixture
def lines() -> list[str]:
    return []


def test_rows_are_in_the_folder_when_the_record_is_closed(folder, lines):
    record = RunRecord(folder, from_step=0, mlflow_run=None, tell=lines.append)
    for step in (1, 2, 3):
        record.add(row(step))
    record.close(export=None)
    assert [line["step"] for line in read_rows(folder)] == [1, 2, 3]
    assert record.last("loss") == 1 / 3
    assert record.last("validation_loss") is None


def test_rows_after_the_checkpoint_that_a_run_goes_on_from_are_redone(folder, lines):
    folder.write_text(METRICS_FILE, "".join(json.dumps(row(step)) + "\n" for step in (1, 2, 3, 4)))
    record = RunRecord(folder, from_step=2, mlflow_run=None, tell=lines.append)
    record.add(row(3) | {"loss": 9.0})
    record.close(export=None)
    assert [(line["step"], line["loss"]) for line in read_rows(folder)] == [(1, 1.0), (2, 0.5), (3, 9.0)]


def test_an_mlflow_server_that_is_away_delays_nobody_and_is_mentioned_once(folder, lines, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # the discard port: nobody listens
    monkeypatch.setattr(tracking, "SEND_EVERY_SECONDS", 0.05)
    monkeypatch.setattr(tracking, "CLOSE_PATIENCE_SECONDS", 0.2)
    run = MlflowRun("e", "n", folder.uri, {}, {}, system_metrics=False)
    record = RunRecord(folder, from_step=0, mlflow_run=run, tell=lines.append)
    started = time.monotonic()
    for step in range(1, 200):
        record.add(row(step))
    assert time.monotonic() - started < 0.1, "adding a row sends nothing itself"
    time.sleep(0.5)
    record.close(export=None)
    assert len(read_rows(folder)) == 199
    assert sum("training goes on" in line for line in lines) == 1


def test_rows_that_cannot_be_stored_are_an_error_at_the_end(folder, lines, tmp_path):
    record = RunRecord(folder, from_step=0, mlflow_run=None, tell=lines.append)
    record.add(row(1))
    (tmp_path / "run" / METRICS_FILE).mkdir(parents=True)
    with pytest.raises(OSError, match=METRICS_FILE):
        record.close(export=None)


def test_settings_become_dotted_parameters():
    assert flattened({"a": 1, "b": {"c": 2, "d": {"e": None}}}) == {"a": 1, "b.c": 2, "b.d.e": None}


def test_a_line_of_progress_says_where_how_well_how_fast_and_how_long_still():
    line = describe_row(
        {
            "step": 7, "epoch": 1, "loss": 0.25, "lr": 1e-4, "grad_norm": 1.5,
            "samples_per_second": 12.0, "data_wait_fraction": 0.02, "seconds_left": 5400,
        },
        total_steps=100,
    )  # fmt: skip
    assert line == (
        "step 7/100 epoch 1  loss 0.2500  lr 1.00e-04  grad norm 1.50  12.0 profiles/s  data wait 2 %  90 min left"
    )
    assert [duration(seconds) for seconds in (45, 720, 12_600)] == ["45 s", "12 min", "3.5 h"]
