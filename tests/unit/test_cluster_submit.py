"""What is sent along with a job, and what is refused before anything is sent."""

from pathlib import Path

import pytest

from cluster.__main__ import run
from cluster.jobs.submit import LIMIT_BYTES, check_size, files_sent
from dataprep.runtime.command_line import UserError


def make(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")


def sent(folder: Path) -> set[str]:
    return {str(file.relative_to(folder)) for file in files_sent(folder)}


def test_code_is_sent_and_what_a_job_does_not_need_is_not(tmp_path: Path):
    make(tmp_path, "pretrain/run.py", "pretrain/configs/tiny.yaml", "pyproject.toml", "dataprep/data.py")
    kept = sent(tmp_path)
    make(
        tmp_path,
        ".git/HEAD",
        ".venv/bin/python",
        ".local/credentials.json",
        "data/big.parquet",
        "build/lib/x.py",
        "pretrain/__pycache__/run.pyc",
        ".mypy_cache/x",
        "bulkformer.egg-info/PKG-INFO",
    )

    assert sent(tmp_path) == kept
    assert kept == {"pretrain/run.py", "pretrain/configs/tiny.yaml", "pyproject.toml", "dataprep/data.py"}


@pytest.mark.parametrize("ignore_file", [".gitignore", ".rayignore"])
def test_ignore_files_are_honoured(tmp_path: Path, ignore_file: str):
    make(tmp_path, "run.py", "notes/a.txt", "figure.png")
    (tmp_path / ignore_file).write_text("notes/\n*.png\n")

    assert sent(tmp_path) == {"run.py", ignore_file}


def test_too_much_to_send_is_refused_with_sizes(tmp_path: Path):
    make(tmp_path, "run.py", "models/large.bin")
    with (tmp_path / "models/large.bin").open("wb") as stream:
        stream.truncate(LIMIT_BYTES + 1)

    with pytest.raises(UserError, match=r"holds 512 MB, .* the largest: models \(512 MB\)"):
        check_size(tmp_path)


def test_the_repository_itself_is_small():
    assert check_size(Path(__file__).parents[2]) < 20 * 2**20


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["submit", "--state", "nowhere"], "no command to run"),
        (["submit", "--state", "nowhere", "--"], "no command to run"),
        (["submit", "--state", "nowhere", "--working-dir", "nowhere", "--", "true"], "no such folder"),
        (["submit", "--state", "nowhere", "--", "true"], "no cluster"),
        (["submit", "--adress", "x", "--", "true"], "did you mean 'address'"),
    ],
)
def test_bad_arguments_are_one_line_and_exit_code_2(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)

    assert run(arguments) == 2

    output = capsys.readouterr()
    assert message in output.err
    assert output.err.count("\n") == 1


def test_a_cluster_that_is_not_there_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:8")

    assert run(["submit", "--address", "http://127.0.0.1:9", "--", "true"]) == 1

    assert "cannot use the cluster at http://127.0.0.1:9" in capsys.readouterr().err
