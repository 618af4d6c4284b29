"""The state folder keeps secrets to its owner and survives damage."""

import os
import subprocess
from pathlib import Path

import pytest

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
    state = State(ports={"s3": 8333}, processes={"s3": ProcessId(12, 1.5)})
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


def test_a_folder_of_something_else_is_neither_used_nor_closed(tmp_path: Path):
    (tmp_path / "thesis.txt").write_text("x")
    tmp_path.chmod(0o755)

    with pytest.raises(UserError, match=r"holds other files \(thesis\.txt\)"):
        StateFolder.at(tmp_path).make()

    assert mode(tmp_path) == 0o755


def test_only_what_was_made_is_deleted(folder: StateFolder):
    folder.credentials()
    (folder.path / "notes.txt").write_text("mine")

    folder.delete()

    assert [entry.name for entry in folder.path.iterdir()] == ["notes.txt"]
