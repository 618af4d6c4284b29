"""What is known of the embedded services between two commands: a folder that only its owner can read.

STATE/
  state.json        ports and processes (no secrets)
  credentials.json  generated once
  env               the settings of a shell or job that uses the services: `. STATE/env`
  logs/  s3/  mlflow/  ray/
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shlex
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from cluster.local.processes import ProcessId
from dataprep.runtime.command_line import UserError

_FORMAT = 1
# All that is ever made in the folder, and so all that is ever deleted.
_FILES = ("state.json", "credentials.json", "ray-token", "env", "lock")
_FOLDERS = ("logs", "s3", "mlflow", "ray")


@dataclass(frozen=True)
class Credentials:
    """Secrets of the embedded services. They are written to files of mode 0600 and never printed."""

    s3_access_key: str = field(repr=False)
    s3_secret_key: str = field(repr=False)
    s3_internal_key: str = field(repr=False)
    ray_token: str = field(repr=False)


@dataclass(frozen=True)
class State:
    """Ports by name and started processes by service."""

    ports: dict[str, int] = field(default_factory=dict)
    processes: dict[str, ProcessId] = field(default_factory=dict)


@dataclass(frozen=True)
class StateFolder:
    """The folder, by its absolute path."""

    path: Path

    @classmethod
    def at(cls, path: Path) -> StateFolder:
        return cls(path.expanduser().resolve())

    @property
    def exists(self) -> bool:
        return self.path.is_dir()

    @property
    def environment_file(self) -> Path:
        return self.path / "env"

    @property
    def token_file(self) -> Path:
        return self.path / "ray-token"

    def log(self, service: str) -> Path:
        return self.path / "logs" / f"{service}.log"

    def make(self) -> None:
        """Make the folder, or see to it that an existing one is readable by its owner only.

        Raises :class:`UserError` for a folder of something else.
        """
        if self.exists and (names := {entry.name for entry in self.path.iterdir()}) and names.isdisjoint(_FILES):
            raise UserError(f"--state {self.path} holds other files ({min(names)}); name a folder of its own", 2)
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path.chmod(0o700)
        (self.path / "logs").mkdir(mode=0o700, exist_ok=True)

    def delete(self) -> None:
        """Delete all that was made in the folder, and the folder if nothing else is in it."""
        for name in _FOLDERS:
            shutil.rmtree(self.path / name, ignore_errors=True)
        for name in _FILES:
            (self.path / name).unlink(missing_ok=True)
        if not any(self.path.iterdir()):
            self.path.rmdir()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep a second `up` or `down` out. Raises :class:`UserError` if one is at work."""
        with os.fdopen(os.open(self.path / "lock", os.O_WRONLY | os.O_CREAT, 0o600), "w") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f"another up or down is at work in {self.path}") from None
            yield

    def read(self) -> State:
        """The state, empty where nothing was ever started. Raises :class:`UserError` on a file that is none."""
        try:
            content = json.loads((self.path / "state.json").read_text())
            return State(
                ports=dict(content["ports"]),
                processes={name: ProcessId(**process) for name, process in content["processes"].items()},
            )
        except FileNotFoundError:
            return State()
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{self.path / 'state.json'} is damaged ({error}); `down` still ends the services"
            ) from None

    def write(self, state: State) -> None:
        self.write_private("state.json", json.dumps({"format": _FORMAT, **asdict(state)}, indent=1) + "\n")

    def credentials(self) -> Credentials:
        """The credentials of this state, generated where there are none yet."""
        file = self.path / "credentials.json"
        if not file.exists():
            made = Credentials(
                secrets.token_hex(10), secrets.token_hex(20), secrets.token_hex(32), secrets.token_hex(32)
            )
            self.write_private(file.name, json.dumps(asdict(made)) + "\n")
        try:
            return Credentials(**json.loads(file.read_text()))
        except (ValueError, TypeError):
            raise UserError(f"{file} is damaged; `down --delete-data` starts anew") from None

    def write_private(self, name: str, content: str) -> Path:
        """Write a file that only its owner can read, whole or not at all."""
        target = self.path / name
        temporary = target.with_name(f".{target.name}.partial")
        temporary.unlink(missing_ok=True)
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
            stream.write(content)
        temporary.replace(target)
        return target


def shell_lines(variables: Mapping[str, str], unset: tuple[str, ...]) -> str:
    """The variables as a file that a shell can source."""
    lines = ["# Settings of the embedded services. Secret: for this user's own shells and jobs."]
    lines += [f"unset {name}" for name in unset]
    lines += [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
    return "\n".join(lines) + "\n"
