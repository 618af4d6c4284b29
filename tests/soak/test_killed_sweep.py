"""A sweep that is killed goes on with the same command: runs resume, and MLflow shows them under one run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import mlflow
import pandas as pd
from made_corpora import make_corpus
from running_jobs import wait_while_running

STEPS = 60


def test_a_killed_sweep_goes_on_where_it_was(tmp_path):
    make_corpus(str(tmp_path / "corpus"), {"train": 48, "validation": 8})
    (tmp_path / "training.yaml").write_text(
        "batch: {global_profiles: 4, micro_profiles: 4}\n"
        "model: {dim: 8, heads: 2}\n"
        "workers: {threads_each: 1}\n"
        "tracking: {system_metrics: false}\n"
    )
    address, output = f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "out"
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "MLFLOW_TRACKING_URI": address,
        "RAY_worker_niceness": "0",
    }
    line = [sys.executable, "-m", "evaluation", "scaling", "sweep", "--corpus", tmp_path / "corpus"]
    line += ["--output", output, "--sizes", "tiny", "--fractions", "1", "--seeds", "0,1", "--concurrency", "2"]
    line += ["--budget-steps", str(STEPS), "--training", tmp_path / "training.yaml"]

    # the database is made at once, and not by two runs at the same time
    mlflow.MlflowClient(address).search_experiments()
    first = subprocess.Popen(line, env=environment, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    try:
        wait_while_running(lambda: checkpointed(output), first)
    finally:
        first.kill()
        first.communicate()
    assert not (output / "points.csv").exists()
    begun = {run: (run / "metrics.jsonl").read_text().splitlines()[0] for run in checkpointed(output)}

    again = subprocess.run(line, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    for run, row in begun.items():
        assert (run / "metrics.jsonl").read_text().splitlines()[0] == row, "not trained anew"
    points = pd.read_csv(output / "points.csv")
    assert sorted(points["seed"]) == [0, 1]
    for run in points["run"]:
        rows = [json.loads(row) for row in (Path(run) / "metrics.jsonl").read_text().splitlines()]
        assert [row["step"] for row in rows if "loss" in row] == list(range(1, STEPS + 1)), "each step once"
    check_mlflow(address, dict(zip(points["run"], points["loss"], strict=True)))


def checkpointed(output: Path) -> set[Path]:
    """Folders of runs with a whole checkpoint."""
    return {found.parents[2] for found in output.glob("runs/*/checkpoints/*/complete.json")}


def check_mlflow(address: str, losses: dict[str, float]) -> None:
    client = mlflow.MlflowClient(address)
    experiment = client.get_experiment_by_name("scaling")
    runs = client.search_runs([experiment.experiment_id])
    assert {run.info.status for run in runs} == {"FINISHED"}
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if run is not parent]
    assert [run.data.tags["mlflow.parentRunId"] for run in children] == [parent.info.run_id] * 2
    assert {run.data.tags["bulkformer.run"] for run in children} == set(losses)
    assert parent.data.metrics["runs/trained"] == 2
