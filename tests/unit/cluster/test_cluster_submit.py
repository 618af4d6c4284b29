"""What is sent along with a job, and what is refused before anything is sent."""

import json
import zipfile
from pathlib import Path

import pytest
from ray._private.runtime_env.packaging import create_package

from cluster.__main__ import run
from cluster.jobs.package import LIMIT_BYTES, Package
from cluster.local.state import StateFolder
from dataprep.runtime.command_line import UserError


def make(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")


def sent(folder: Path) -> set[str]:
    return {str(file.relative_to(folder)) for file in Package.of(folder).files}


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


def services(folder: Path) -> StateFolder:
    """A state folder, as `up` leaves it."""
    state = StateFolder.at(folder)
    state.make()
    state.write_private("ray-token", state.credentials().ray_token)
    state.write_private("env", f"export AWS_SECRET_ACCESS_KEY={state.credentials().s3_secret_key}")
    return state


def packed_by_ray(folder: Path, excludes: list[str]) -> set[str]:
    """What Ray puts into the package, by Ray itself."""
    archive = folder.parent / "package.zip"
    create_package(str(folder), archive, include_gitignore=True, excludes=excludes)
    return {name for name in zipfile.ZipFile(archive).namelist() if not name.endswith("/")}


@pytest.mark.parametrize("name", ["services", "sub/.local", "a b/[c]#d!", "data_of_services"])
def test_a_state_folder_is_never_sent_wherever_it_is_and_whatever_its_name(tmp_path: Path, name: str):
    make(tmp_path / "w", "train.py")
    services(tmp_path / "w" / name)
    package = Package.of(tmp_path / "w")

    assert sent(tmp_path / "w") == {"train.py"}
    assert packed_by_ray(tmp_path / "w", package.excludes) == {"train.py"}
    # nor by `ray job submit`, which knows nothing of states
    assert packed_by_ray(tmp_path / "w", []) == {"train.py"}


def test_a_state_folder_is_not_sent_through_a_link_nor_when_an_earlier_version_made_it(tmp_path: Path):
    make(tmp_path / "w", "train.py")
    state = services(tmp_path / "elsewhere")
    (tmp_path / "w" / "link").symlink_to(state.path)
    earlier = tmp_path / "w" / "earlier"
    make(earlier, "lock", "logs/s3.log")
    (earlier / "credentials.json").write_text(
        json.dumps(
            {"s3_access_key": "a" * 20, "s3_secret_key": "b" * 40, "s3_internal_key": "c" * 64, "ray_token": "d" * 64}
        )
    )
    package = Package.of(tmp_path / "w")

    assert packed_by_ray(tmp_path / "w", package.excludes) == {"train.py"} == sent(tmp_path / "w")


def test_a_copy_of_the_credentials_is_not_sent(tmp_path: Path):
    state = services(tmp_path / "state")
    make(tmp_path / "w", "train.py")
    (tmp_path / "w" / ".env").write_text((state.path / "env").read_text())
    package = Package.of(tmp_path / "w", state.credentials().secrets)

    assert package.files_with_secrets == [tmp_path / "w" / ".env"]
    assert packed_by_ray(tmp_path / "w", package.excludes) == {"train.py"}


def test_the_state_folder_itself_is_refused_as_working_directory(tmp_path: Path):
    state = services(tmp_path / "state")

    for folder in (state.path, state.path / "logs"):
        with pytest.raises(UserError, match="holds the state and credentials"):
            Package.of(folder)


def test_links_to_folders_above_do_not_end_the_search(tmp_path: Path):
    make(tmp_path, "code/run.py")
    (tmp_path / "code" / "up").symlink_to(tmp_path)

    assert sent(tmp_path) == {"code/run.py"}


def test_too_much_to_send_is_refused_with_sizes(tmp_path: Path):
    make(tmp_path, "run.py", "models/large.bin")
    with (tmp_path / "models/large.bin").open("wb") as stream:
        stream.truncate(LIMIT_BYTES + 1)

    with pytest.raises(UserError, match=r"holds 512 MB, .* the largest: models \(512 MB\)"):
        Package.of(tmp_path).require_size()


def test_the_repository_itself_is_small():
    assert Package.of(Path(__file__).parents[3]).require_size() < 20 * 2**20


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
