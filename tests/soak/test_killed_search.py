"""A search goes on when a trial's process is killed, and after the whole command was killed, and repeats no trial."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import mlflow
from made_corpora import make_corpus
from made_exports import write_model
from running_jobs import wait_while_running
from searched_task import SPACE

TRIALS = len(SPACE["shrink"]) * len(SPACE["sign"])


def test_a_search_survives_a_killed_trial_and_a_killed_command(tmp_path):
    corpus = make_corpus(str(tmp_path / "corpus"), {"train": 48, "test": 8})
    write_model(tmp_path / "model", corpus.vocabulary)
    fits, state, address = tmp_path / "fits", tmp_path / "state", f"sqlite:///{tmp_path}/mlflow.db"
    fits.mkdir()
    environment = {
        **os.environ,
        "PYTHONPATH": f"{Path(__file__).parents[2]}:{Path(__file__).parents[1]}",
        "MLFLOW_TRACKING_URI": address,
        "SEARCHED_TASK_LOG": str(fits),
        # else they get only what other processes of the machine leave
        "RAY_worker_niceness": "0",
    }
    line = [sys.executable, "-m", "evaluation", "run", "--plugins", "searched_task", "--tasks", "searched"]
    line += ["--model", tmp_path / "model", "--corpus", tmp_path / "corpus", "--search.trials", "20"]
    line += ["--search.storage", state, "--output", tmp_path / "results.json", "--search.concurrency", "2"]

    # one process kills itself; later, with some trials done, the command is killed
    (fits / "kill").touch()
    (fits / "wait").touch()
    first = subprocess.Popen(line, env=environment, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    try:
        wait_while_running(lambda: len(stored(state)) >= 2 and not (fits / "kill").exists(), first)
    finally:
        first.kill()
        first.communicate()
    done_before = {name: path.read_text() for name, path in stored(state).items()}
    assert 2 <= len(done_before) < TRIALS
    (fits / "wait").unlink()

    again = subprocess.run(line, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert f"{len(done_before)} of {TRIALS} were done before" in again.stderr

    (result,) = json.loads((tmp_path / "results.json").read_text())["results"]
    assert result["facts"]["choices"] == [{"shrink": 0.0, "sign": 1}] * 3
    assert result["scores"][0]["value"] == 0
    assert len(stored(state)) == TRIALS
    repeated = [text for text in done_before.values() if inner_fits(fits, text) > len(final(state, text)["scores"])]
    assert len(repeated) <= 1, "only the trial whose process was killed is fitted again"
    check_mlflow(address)


def check_mlflow(address: str) -> None:
    client = mlflow.MlflowClient(address)
    experiment = client.get_experiment_by_name("evaluation")
    runs = client.search_runs([experiment.experiment_id])
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert parent.info.status == "FINISHED"
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    assert {run.info.status for run in children} == {"FINISHED"}
    choices = Counter((run.data.params["shrink"], run.data.params["sign"]) for run in children)
    assert len(choices) == len(children) == TRIALS
    chosen = [run for run in children if "bulkformer.chosen_by_folds" in run.data.tags]
    assert [run.data.params for run in chosen] == [{"shrink": "0.0", "sign": "1"}]
    assert max(children, key=lambda run: run.data.metrics["inner_score"]).info.run_id == chosen[0].info.run_id


def stored(state: Path) -> dict[str, Path]:
    return {path.name: path for path in state.rglob("trial-*.json")}


def final(state: Path, text: str) -> dict:
    """The record, as it is now, of the trial that was once stored as ``text``."""
    records = [json.loads(path.read_text()) for path in stored(state).values()]
    return next(record for record in records if record["choice"] == json.loads(text)["choice"])


def inner_fits(fits: Path, text: str) -> int:
    """How often the choice was fitted on less than the 32 rows that an outer fold trains on."""
    choice = json.loads(text)["choice"]
    rows = [int(path.name.split("_")[2]) for path in fits.glob(f"{choice['shrink']}_{choice['sign']}_*")]
    return sum(number < 32 for number in rows)
