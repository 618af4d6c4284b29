"""What Ray, DeepSpeed, checkpoints and tracking add to the bare step of a model.

Trains D = 128, K = 1 over 20,010 genes with the real stack (Ray Train, ZeRO 1, a corpus and checkpoints on S3, MLflow)
beside the bare model (forward, backward, AdamW; no data, no Ray) in one process of as many threads. Needs running
services: `make up`, then `. .local/env`. Cases take turns, the bare model before and after each, since machines drift;
what is compared of two cases is their means over all rounds::

    python benchmarks/training_loop.py --steps 30 --rounds 2
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean, median
from typing import Any

from rich.console import Console
from rich.table import Table

from dataprep.runtime.storage import Folder
from pretrain.bench.training_step import BenchCase, run_in_turns
from pretrain.config import ModelSettings
from pretrain.monitoring.metrics_file import read_rows

GENES = 20_010
MICRO = 4
WARMUP = 4
# workers, and whether MLflow answers
CASES = ((1, True), (2, True), (1, False))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=30, help="optimizer steps of each training run")
    parser.add_argument("--rounds", type=int, default=1, help="how often all cases have their turn, ten minutes each")
    parser.add_argument("--place", default="s3://bulkformer/bench-loop", help="corpus and runs go there")
    arguments = parser.parse_args()
    corpus = make_corpus(arguments.place)
    bare = [bare_rate()]
    rows: list[dict[str, Any]] = []
    for workers, mlflow_answers in CASES * arguments.rounds:
        rows.append(measured_run(corpus, arguments.place, workers, mlflow_answers, arguments.steps))
        bare.append(bare_rate())
        rows[-1]["bare_profiles_per_second"] = (bare[-2] + bare[-1]) / 2
    show(rows)
    one, two, away = (mean(row["profiles_per_second"] for row in rows if is_case(row, case)) for case in CASES)
    Console(stderr=True).print(f"two workers: {two / one:.3f} x one; MLflow away: {away / one:.3f} x MLflow on")
    print(json.dumps({"bare_profiles_per_second": bare, "runs": rows, "two_over_one": two / one, "away": away / one}))


def is_case(row: dict[str, Any], case: tuple[int, bool]) -> bool:
    return (row["workers"], row["mlflow_answers"]) == case


def make_corpus(place: str) -> str:
    """Simulated counts of 160 samples through the real commands, once."""
    corpus = f"{place}/corpus"
    if not Folder(corpus).exists("manifest.json"):
        command("dataprep", "simulate", "--samples", "160", "--genes", str(GENES), "--output", f"{place}/raw")
        with tempfile.TemporaryDirectory() as local:
            config = Path(local) / "build.yaml"
            config.write_text(Folder(f"{place}/raw").read_text("build.yaml"))
            command("dataprep", "build", "--config", str(config), "--corpus", corpus)
        command("dataprep", "graph", "--corpus", corpus)
    return corpus


def bare_rate() -> float:
    """Profiles per second of the model alone, one thread."""
    case = BenchCase(
        "37M", ModelSettings(size="37M").shape(GENES), "fused", "fp32", MICRO, 20, threads=1, compile=False,
        recompute="nothing", retain_memory=True,
    )  # fmt: skip
    [seconds], _ = run_in_turns([case], 2, 8, Console(quiet=True))
    return MICRO / median(seconds)


def measured_run(corpus: str, place: str, workers: int, mlflow_answers: bool, steps: int) -> dict[str, Any]:
    name = f"loop-{workers}-{int(time.time())}"
    # nobody listens on the discard port
    away = {} if mlflow_answers else {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    command(
        "pretrain", "run", "--corpus", corpus, "--storage", f"{place}/runs", "--name", name,
        "--model.size", "37M", "--model.kernel", "fused", "--max-steps", str(steps), "--epochs", "100",
        "--workers.count", str(workers), "--workers.threads-each", "1",
        "--batch.global-profiles", str(MICRO * workers), "--batch.micro-profiles", str(MICRO),
        "--checkpoint.every-steps", "10", "--validation.every-steps", "1000",
        **away,
    )  # fmt: skip
    rows = [row for row in read_rows(Folder(f"{place}/runs/{name}")) if "loss" in row]
    timed = rows[WARMUP:]
    # from the end of one step to the end of the last, so that checkpoints count
    seconds = timed[-1]["time"] - timed[0]["time"]
    step_seconds = median(MICRO * workers / row["samples_per_second"] for row in timed)
    return {
        "workers": workers,
        "mlflow_answers": mlflow_answers,
        "profiles_per_second": (len(timed) - 1) * MICRO * workers / seconds,
        "step_seconds": step_seconds,
        "data_wait_fraction": sum(row["data_wait_fraction"] for row in timed) / len(timed),
        # the last checkpoint is followed by no step
        "longest_pause_steps": max(row["pause_seconds"] for row in timed) / step_seconds,
    }


def command(package: str, *arguments: str, **environment: str) -> None:
    line = [sys.executable, "-m", package, *arguments]
    subprocess.run(line, check=True, stdout=sys.stderr, env=os.environ | environment)


def show(rows: list[dict[str, Any]]) -> None:
    table = Table(title="D = 128, K = 1, 20,010 genes, one thread per worker")
    for name in ("workers", "MLflow", "profiles/s", "bare model", "share", "data wait", "longest pause, steps"):
        table.add_column(name, justify="right")
    for row in rows:
        share = row["profiles_per_second"] / row["bare_profiles_per_second"] / row["workers"]
        mlflow = "on" if row["mlflow_answers"] else "away"
        cells = [
            f"{row['profiles_per_second']:.3f}",
            f"{row['bare_profiles_per_second']:.3f}",
            f"{share:.1%}",
            f"{row['data_wait_fraction']:.2%}",
            f"{row['longest_pause_steps']:.2f}",
        ]
        table.add_row(str(row["workers"]), mlflow, *cells)
    Console(stderr=True, width=110).print(table)


if __name__ == "__main__":
    main()
