"""Metrics reach the run's folder whatever MLflow does, and nothing waits for it."""

import json
import time

import pytest

from dataprep.runtime.command_line import UserError
from dataprep.runtime.lease import LeaseLostError
from dataprep.runtime.storage import Folder
from pretrain.driver.progress import describe_row, duration
from pretrain.monitoring import tracking
from pretrain.monitoring.metrics_file import METRICS_FILE, read_rows
from pretrain.monitoring.mlflow_run import MlflowRun, flattened
from pretrain.monitoring.tracking import RunRecord


def row(step: int) -> dict[str, float]:
    return {"step": step, "epoch": 0, "loss": 1.0 / step}


@pytest.fixture
def folder(tmp_path) -> Folder:
    return Folder(str(tmp_path / "run"))


@pytest.fixture
def lines() -> list[str]:
    return []


def test_rows_are_in_the_folder_when_the_record_is_closed(folder, lines):
    record = RunRecord(folder, from_step=0, mlflow_run=None, log=lines.append)
    for step in (1, 2, 3):
        record.add(row(step))
    record.close(export=None)
    assert [line["step"] for line in read_rows(folder)] == [1, 2, 3]
    assert record.last("loss") == 1 / 3
    assert record.last("validation_loss") is None


def test_rows_after_the_checkpoint_that_a_run_goes_on_from_are_redone(folder, lines):
    folder.write_text(METRICS_FILE, "".join(json.dumps(row(step)) + "\n" for step in (1, 2, 3, 4)))
    record = RunRecord(folder, from_step=2, mlflow_run=None, log=lines.append)
    record.add(row(3) | {"loss": 9.0})
    record.close(export=None)
    assert [(line["step"], line["loss"]) for line in read_rows(folder)] == [(1, 1.0), (2, 0.5), (3, 9.0)]


def test_an_mlflow_server_that_is_away_delays_nobody_and_is_mentioned_once(folder, lines, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # the discard port: nobody listens
    monkeypatch.setattr(tracking, "SEND_EVERY_SECONDS", 0.05)
    monkeypatch.setattr(tracking, "CLOSE_PATIENCE_SECONDS", 0.2)
    run = MlflowRun("e", "n", folder.uri, {}, {}, system_metrics=False, run_uid="a1")
    record = RunRecord(folder, from_step=0, mlflow_run=run, log=lines.append)
    started = time.monotonic()
    for step in range(1, 200):
        record.add(row(step))
    assert time.monotonic() - started < 0.1, "adding a row sends nothing itself"
    time.sleep(0.5)
    record.close(export=None)
    assert len(read_rows(folder)) == 199
    assert sum("training continues" in line for line in lines) == 1


def test_rows_that_cannot_be_stored_are_an_error_at_the_end(folder, lines, tmp_path):
    record = RunRecord(folder, from_step=0, mlflow_run=None, log=lines.append)
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


def test_an_error_that_nobody_expected_while_storing_ends_the_run(folder, lines, monkeypatch):
    monkeypatch.setattr(tracking, "SEND_EVERY_SECONDS", 0.01)
    record = RunRecord(folder, from_step=0, mlflow_run=None, log=lines.append)

    def out_of_memory(*_: object) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(record, "store", out_of_memory)
    expected = "thread metrics-file failed: MemoryError: no room"

    def go_on_for_a_while() -> None:
        for _ in range(1000):
            record.check()
            time.sleep(0.01)

    for act in (go_on_for_a_while, lambda: record.close(None)):
        with pytest.raises(UserError, match=expected):
            act()


@pytest.fixture(scope="module")
def database(tmp_path_factory) -> str:
    """One for all tests, since making it takes seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


@pytest.fixture
def experiment(database, monkeypatch, request) -> str:
    """The name of an experiment of this test's own, in an MLflow without a server."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", database)
    return request.node.name


def begun(
    experiment: str, uid: str, folder_uri: str = "/data/runs/bulk", corpus: str = "AAAA", earlier: bool = False
) -> MlflowRun:
    run = MlflowRun(experiment, "bulk", folder_uri, {"corpus": corpus}, {"corpus": corpus}, False, uid, earlier)
    assert run.send([]) is None
    return run


def test_an_error_that_nobody_expected_in_mlflow_is_said_once_and_tried_again(folder, lines, monkeypatch, experiment):
    monkeypatch.setattr(tracking, "SEND_EVERY_SECONDS", 0.01)
    run = MlflowRun(experiment, "n", folder.uri, {}, {}, system_metrics=False, run_uid="a1")
    log_batch, failures = run._client.log_batch, iter([KeyError("surprise"), RuntimeError("another")])

    def failing(*arguments: object, **more: object) -> None:
        if error := next(failures, None):
            raise error
        log_batch(*arguments, **more)

    monkeypatch.setattr(run._client, "log_batch", failing)
    record = RunRecord(folder, from_step=0, mlflow_run=run, log=lines.append)
    record.add(row(1))
    record.close(export=None)
    history = run._client.get_metric_history(run.run_id, "train/loss")
    assert [point.step for point in history] == [1]
    assert sum("training continues" in line for line in lines) == 1


def test_the_address_of_the_curves_is_said_once_as_soon_as_mlflow_has_the_run(folder, lines, monkeypatch, experiment):
    monkeypatch.setattr(tracking, "SEND_EVERY_SECONDS", 0.01)
    run = MlflowRun(experiment, "n", folder.uri, {}, {}, system_metrics=False, run_uid="a1")
    record = RunRecord(folder, from_step=0, mlflow_run=run, log=lines.append)
    end = time.monotonic() + 30
    while not lines and time.monotonic() < end:
        time.sleep(0.01)
    assert lines == [f"MLflow: {run.address()}"]
    assert lines[0].endswith(f"/runs/{run.run_id}/model-metrics")
    record.add(row(1))
    record.close(export=None)
    assert lines.count(f"MLflow: {run.address()}") == 1


def test_a_run_is_shown_under_the_one_it_is_part_of_also_when_that_was_begun_later(experiment):
    alone = begun(experiment, "a1")
    assert "mlflow.parentRunId" not in alone._client.get_run(alone.run_id).data.tags
    for uid in ("a1", "b2"):
        run = MlflowRun(experiment, "bulk", "/data", {}, {}, False, uid, parent_run="c3")
        assert run.send([]) is None
        assert run._client.get_run(run.run_id).data.tags["mlflow.parentRunId"] == "c3"
        assert (run.run_id == alone.run_id) is (uid == "a1")


def test_a_run_started_anew_under_an_old_name_is_another_mlflow_run(experiment):
    old = begun(experiment, "a1")
    assert old.send([row(step) | {"loss": 9.0} for step in range(1, 101)]) is None
    assert old.finish("KILLED", None) is None
    new = begun(experiment, "b2", corpus="BBBB")
    assert new.send([row(step) | {"loss": 1.0} for step in range(1, 121)]) is None
    assert new.run_id != old.run_id
    history = new._client.get_metric_history(new.run_id, "train/loss")
    assert {point.value for point in history} == {1.0}
    assert [point.step for point in history] == list(range(1, 121))
    assert new._client.get_run(new.run_id).data.params["corpus"] == "BBBB"
    assert begun(experiment, "a1").run_id == old.run_id, "each is found again"


def test_the_mlflow_run_of_the_first_version_is_found_by_its_folder_whatever_the_address_holds(experiment):
    address = """/home/o'brien/"runs"/`x`"""
    client = begun(experiment, "other", "/elsewhere")._client
    experiment_id = client.get_experiment_by_name(experiment).experiment_id
    for count in range(2):
        client.create_run(experiment_id, tags={"bulkformer.run": f"/elsewhere/{count}"})
    before = client.create_run(experiment_id, tags={"bulkformer.run": address}).info.run_id
    assert begun(experiment, "a1", address, earlier=True).run_id == before
    assert begun(experiment, "a1", address, earlier=True).run_id == before
    assert begun(experiment, "b2", address).run_id != before, "one started anew there is another"


def test_the_address_of_a_server_is_shown_without_its_password(experiment, monkeypatch):
    run = begun(experiment, "a1")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://user:secret@mlflow.example:5000/base/")
    assert run.address().startswith("https://mlflow.example:5000/base/#/experiments/")


@pytest.mark.parametrize("login", ["user:secret", "user:sec@ret", "secret"])
def test_what_mlflow_says_of_a_server_that_does_not_answer_has_no_password(folder, monkeypatch, login):
    """MLflow puts the address that it was given into its messages."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{login}@127.0.0.1:9")
    problem = MlflowRun("e", "n", folder.uri, {}, {}, False, "a1").send([])
    assert problem is not None
    assert "127.0.0.1" in problem
    assert "sec" not in problem


def test_mlflow_still_has_the_monitor_that_is_started_directly_and_it_is_started_again(experiment, monkeypatch):
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.05")
    run = MlflowRun(experiment, "n", "/data", {}, {}, True, "a1")
    assert run.send([]) is None
    assert run.watch_system() is None
    monitor = run._system_metrics._monitor
    assert monitor._process.is_alive()
    monitor._shutdown_event.set()
    monitor._process.join(10)
    assert run.watch_system() == "had ended and was started again"
    assert run._system_metrics._monitor._process.is_alive()
    assert run.finish("FINISHED", None) is None


def test_nothing_is_stored_of_a_run_that_another_process_has_taken_over(folder, lines):
    folder.write_text(METRICS_FILE, json.dumps(row(1)) + "\n")
    taken_over: list[bool] = []

    def require_lease() -> None:
        if taken_over:
            raise LeaseLostError("another process has taken over run first")

    record = RunRecord(folder, 1, None, lines.append, require_lease)
    record.add(row(2))
    taken_over.append(True)
    with pytest.raises(LeaseLostError):
        record.close(None)
    with pytest.raises(LeaseLostError):
        RunRecord(folder, 0, None, lines.append, require_lease)
    assert [line["step"] for line in read_rows(folder)] == [1]
