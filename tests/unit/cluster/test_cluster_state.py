"""The state folder keeps secrets to its owner and survives damage."""

import errno
import json
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cluster.__main__ import run
from cluster.local.processes import ProcessId
from cluster.local.state import State, StateFolder, shell_lines
from dataprep.runtime.command_line import UserError


@pytest.fixture
def folder(tmp_path: Path) -> StateFolder:
    made = StateFolder.at(tmp_path / "state")
    made.make()
    return made


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_credentials_are_made_once_and_differ_between_folders(folder: StateFolder, tmp_path: Path):
    first = folder.credentials()
    assert folder.credentials() == first

    other = StateFolder.at(tmp_path / "other")
    other.make()
    assert other.credentials() != first


def test_files_and_folder_are_readable_by_their_owner_only(folder: StateFolder):
    folder.credentials()
    folder.write(State())

    assert mode(folder.path) == 0o700
    assert {mode(path) for path in folder.path.iterdir() if path.is_file()} == {0o600}


def test_an_existing_folder_is_closed_to_others(tmp_path: Path):
    (tmp_path / "open").mkdir(mode=0o755)

    StateFolder.at(tmp_path / "open").make()

    assert mode(tmp_path / "open") == 0o700


def test_secrets_are_not_shown_where_credentials_are_printed(folder: StateFolder):
    credentials = folder.credentials()

    assert credentials.s3_secret_key not in repr(credentials)
    assert credentials.ray_token not in repr(credentials)


def test_the_state_is_read_as_it_was_written_and_holds_no_secret(folder: StateFolder):
    secrets = vars(folder.credentials()).values()
    state = State(ports={"s3": 8333}, processes={"s3": ProcessId(12, 1.5, "a boot", 7)})
    folder.write(state)

    assert folder.read() == state
    content = (folder.path / "state.json").read_text()
    assert not [secret for secret in secrets if secret in content]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"ports": {}}', '{"ports": {}, "processes": {"s3": {"pid": 1}}}'])
def test_a_damaged_state_is_named(folder: StateFolder, content: str):
    (folder.path / "state.json").write_text(content)

    with pytest.raises(UserError, match=r"state\.json is damaged"):
        folder.read()


def test_a_second_command_is_kept_out_while_one_is_at_work(folder: StateFolder):
    with folder.locked(), pytest.raises(UserError, match="another up or down"), folder.locked():
        pass


def test_a_shell_reads_the_variables_as_they_are():
    lines = shell_lines({"A": "x $HOME 'y'", "B": "1"}, unset=("GONE",))

    script = lines + 'printf "%s|%s|%s" "$A" "$B" "${GONE-none}"'
    shell = subprocess.run(["sh", "-c", script], env={**os.environ, "GONE": "here"}, capture_output=True, text=True)
    assert shell.stdout == "x $HOME 'y'|1|none"


@pytest.mark.parametrize("name", ["thesis.txt", "lock", "env", "credentials.json", "logs/run.log", ".git/config"])
def test_a_folder_of_something_else_is_neither_used_nor_closed_nor_deleted(tmp_path: Path, name: str, capsys):
    project = tmp_path / "project"
    make(project, name)
    project.chmod(0o755)
    before = listing(project)

    for command in (["up"], ["down"], ["down", "--delete-data"], ["status"]):
        assert run([*command, "--state", str(project)]) in (1, 2)
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert str(project) in error

    assert listing(project) == before
    assert mode(project) == 0o755


def test_only_what_was_made_is_deleted(folder: StateFolder):
    folder.credentials()
    (folder.path / "notes.txt").write_text("mine")

    folder.delete()

    assert [entry.name for entry in folder.path.iterdir()] == ["notes.txt"]


def test_of_a_link_to_another_disk_only_the_link_is_deleted(folder: StateFolder, tmp_path: Path):
    make(tmp_path / "disk", "volume.dat")
    (folder.path / "s3").symlink_to(tmp_path / "disk")

    folder.delete()

    assert not folder.exists
    assert (tmp_path / "disk" / "volume.dat").exists()


def test_what_a_killed_command_was_writing_is_deleted_too(folder: StateFolder):
    make(folder.path, ".state.json.123.partial")

    folder.delete()

    assert not folder.exists


def as_made_before_there_were_markers(folder: Path) -> Path:
    make(folder, "lock", "env", "logs/s3.log", "s3/data/1.dat")
    credentials = {"s3_access_key": "a" * 20, "s3_secret_key": "b" * 40, "s3_internal_key": "c" * 64,
                   "ray_token": "d" * 64}  # fmt: skip
    (folder / "credentials.json").write_text(json.dumps(credentials))
    (folder / "state.json").write_text(
        '{"format": 1, "ports": {"s3": 8333}, "processes": {"s3": {"pid": 1, "started_at": 5.0}}}'
    )
    return folder


def test_the_state_of_an_earlier_version_is_adopted_with_its_credentials(tmp_path: Path):
    folder = StateFolder.at(as_made_before_there_were_markers(tmp_path / "state"))
    folder.make()

    assert folder.is_marked
    assert folder.credentials().s3_secret_key == "b" * 40
    # one that there was not before, kept from then on
    assert len(folder.credentials().mlflow_password) == 40
    assert folder.credentials() == folder.credentials()
    assert folder.read() == State({"s3": 8333}, {"s3": ProcessId(1, 5.0)})


def test_the_state_of_an_earlier_version_among_other_files_is_named_and_left_alone(tmp_path: Path, capsys):
    folder = as_made_before_there_were_markers(tmp_path / "state")
    make(folder, "paper.tex")

    assert run(["down", "--delete-data", "--state", str(folder)]) == 1

    assert "paper.tex" in capsys.readouterr().err
    assert (folder / "s3" / "data" / "1.dat").exists()
    assert (folder / "paper.tex").exists()


def test_a_folder_of_another_user_is_refused(tmp_path: Path):
    (tmp_path / "theirs").mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder away")
    os.chown(tmp_path / "theirs", 65534, 65534)

    with pytest.raises(UserError, match="belongs to another user"):
        StateFolder.at(tmp_path / "theirs").make()

    assert not list((tmp_path / "theirs").iterdir())


def test_a_file_in_place_of_the_folder_is_named(tmp_path: Path):
    make(tmp_path, "state")

    with pytest.raises(UserError, match="is a file"):
        StateFolder.at(tmp_path / "state").make()


def test_two_commands_can_make_the_folder_at_the_same_time(tmp_path: Path):
    folders = [StateFolder.at(tmp_path / "state") for _ in range(8)]
    with ThreadPoolExecutor(len(folders)) as pool:
        list(pool.map(StateFolder.make, folders))

    assert folders[0].is_marked


def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    def full(self: StateFolder, name: str, content: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path / name))

    monkeypatch.setattr(StateFolder, "write_private", full)

    assert run(["up", "--state", str(tmp_path / "state")]) == 1
    assert capsys.readouterr().err == f"error: {tmp_path}/state/bulkformer-services.json: No space left on device\n"


def make(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")


def listing(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*"))
