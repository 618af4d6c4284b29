"""What `jobs` reads of a log, and the line that `submit --dry-run` prints."""

import json
import shlex
from pathlib import Path

import pytest

from cluster.__main__ import run
from cluster.jobs.listing import progress
from pretrain.driver.progress import describe_row

ROW = {
    "step": 120,
    "epoch": 1,
    "loss": 0.5,
    "lr": 1e-4,
    "grad_norm": 1.0,
    "samples_per_second": 10.0,
    "data_wait_fraction": 0.1,
}
ADDRESS = "http://mlflow:5000/#/experiments/1/runs/abc/model-metrics"


@pytest.mark.parametrize(("seconds", "left"), [(45, "45"), (720, "12 min"), (12600, "3.5 h")])
def test_step_time_left_and_mlflow_run_are_those_that_pretraining_printed_last(seconds: float, left: str):
    rows = [ROW | {"step": step, "seconds_left": seconds} for step in (1, 120)]
    text = f"MLflow: {ADDRESS}\n" + "\n".join(f"12:00:00 {describe_row(row, 1000)}" for row in rows)

    found = progress(text, running=True)

    assert (found["step"], found["steps"], found["mlflow"]) == (120, 1000, ADDRESS)
    assert found["left"].startswith(left)
    assert progress(text, running=False)["left"] is None


def test_a_line_without_time_left_takes_none_from_another_line():
    text = f"{describe_row(ROW | {'seconds_left': 60}, 1000)}\n{describe_row(ROW | {'step': 130}, 1000)}\n5 s left"

    assert progress(text, running=True)["step"] == 130
    assert progress(text, running=True)["left"] is None


def test_of_other_programs_nothing_is_claimed():
    found = progress("stepping 3/4 times\nsee http://mlflow:5000\n", running=True)

    assert found == {"step": None, "steps": None, "left": None, "mlflow": None}


def dry_run(capsys: pytest.CaptureFixture, *arguments: str) -> list[str]:
    assert run(["submit", "--dry-run", *arguments]) == 0
    return shlex.split(capsys.readouterr().out)


def test_a_dry_run_prints_rays_own_line_and_asks_no_cluster(tmp_path: Path, capsys: pytest.CaptureFixture):
    (tmp_path / "token").write_text("secret-token")

    line = dry_run(capsys, "--address", "http://head.example:8265", "--token-file", str(tmp_path / "token"), "--name",
                   "n", "--working-dir", str(tmp_path), "--", "python", "-c", "print('a b')")  # fmt: skip

    variables = dict(word.split("=", 1) for word in line[: line.index("ray")])
    assert variables == {
        "RAY_API_SERVER_ADDRESS": "http://head.example:8265",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token"),
    }
    own = line[line.index("ray") : line.index("--")]
    assert own[:5] == ["ray", "job", "submit", "--working-dir", str(tmp_path)]
    assert ".git" in json.loads(own[own.index("--runtime-env-json") + 1])["excludes"]
    assert own[-2:] == ["--submission-id", "n"]
    assert line[line.index("--") + 1 :] == ["python", "-c", "print('a b')"]


def test_a_dry_run_repeats_no_token_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://head.example:8265")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret-token")

    line = dry_run(capsys, "--working-dir", str(tmp_path), "--state", str(tmp_path / "none"), "--", "true")

    assert "RAY_AUTH_MODE=token" in line
    assert "secret-token" not in " ".join(line)


@pytest.mark.parametrize("address", ["http://head.example:8265", "https://10.0.0.1", "http://127.example:8265"])
def test_another_machine_without_a_token_is_refused(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    arguments = ["--state", str(tmp_path / "none"), "--address", address]

    assert run(["submit", *arguments, "--working-dir", str(tmp_path), "--", "true"]) == 2
    assert run(["jobs", *arguments]) == 2

    assert capsys.readouterr().err.count(f"no token for {address}") == 2


@pytest.mark.parametrize("address", ["http://127.0.0.1:9", "http://localhost:9", "http://[::1]:9"])
def test_this_machine_may_be_used_without(address: str, tmp_path: Path, capsys: pytest.CaptureFixture):
    line = dry_run(capsys, "--address", address, "--working-dir", str(tmp_path), "--", "true")

    assert f"RAY_API_SERVER_ADDRESS={address}" in line
