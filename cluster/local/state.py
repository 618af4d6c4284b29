"""What is known of the embedded services between two commands: a folder that only its owner can read.

STATE/
  bulkformer-services.json  says that `up` made the folder; nothing is changed or deleted in one without it
  state.json                ports and processes (no secrets)
  credentials.json          generated once
  env                       the settings of a shell or job that uses the services: `. STATE/env`
  .gitignore, .rayignore    keep all of it out of repositories and out of what is sent along with jobs
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
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from cluster.local.processes import ProcessId
from dataprep.runtime.command_line import UserError

MARKER = "bulkformer-services.json"
_MARK = {"made_by": "python -m cluster up", "version": 1}
_FORMAT = 1
# All that is ever made in the folder, and so all that is ever deleted.
_FILES = ("state.json", "credentials.json", "ray-token", "env", "lock", ".gitignore", ".rayignore")
_FOLDERS = ("logs", "s3", "mlflow", "ray")
_PARTIAL = ".partial"
# What versions that made no marker kept as credentials: names and numbers of hexadecimal digits.
_UNMARKED_CREDENTIALS = {"s3_access_key": 20, "s3_secret_key": 40, "s3_internal_key": 64, "ray_token": 64}


@dataclass(frozen=True)
class Credentials:
    """Secrets of the embedded services. They are written to files of mode 0600 and never printed."""

    s3_access_key: str = field(repr=False)
    s3_secret_key: str = field(repr=False)
    s3_internal_key: str = field(repr=False)
    ray_token: str = field(repr=False)
    mlflow_password: str = field(repr=False)

    @property
    def secrets(self) -> tuple[str, ...]:
        """All of them but the access key's name."""
        return (self.s3_secret_key, self.s3_internal_key, self.ray_token, self.mlflow_password)

    @classmethod
    def generate(cls) -> Credentials:
        return cls(*(secrets.token_hex(size) for size in (10, 20, 32, 32, 20)))


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
    def is_marked(self) -> bool:
        """Whether `up` made this folder."""
        mark = _read_json(self.path / MARKER)
        return isinstance(mark, dict) and mark.get("made_by") == _MARK["made_by"]

    @property
    def is_unmarked_state(self) -> bool:
        """Whether a version that made no marker made this folder: by all of its names and by the credentials' form."""
        made = {*_FILES, *_FOLDERS}
        credentials = _read_json(self.path / "credentials.json")
        return (
            isinstance(credentials, dict)
            and {name: len(str(value)) for name, value in credentials.items()} == _UNMARKED_CREDENTIALS
            and (self.path / "lock").is_file()
            and (self.path / "logs").is_dir()
            and all(name in made for name in self._names())
        )

    @property
    def is_ours(self) -> bool:
        return self.is_marked or self.is_unmarked_state

    @property
    def environment_file(self) -> Path:
        return self.path / "env"

    @property
    def token_file(self) -> Path:
        return self.path / "ray-token"

    def mark(self, service: str) -> str:
        """What the processes of a service carry in their environment."""
        return f"{self.path}#{service}"

    def log(self, service: str) -> Path:
        return self.path / "logs" / f"{service}.log"

    def make(self) -> None:
        """Make the folder, or see to it that an existing one is ours and readable by its owner only.

        Raises :class:`UserError` for a folder of something or somebody else, in which nothing is changed.
        """
        if self.path.exists() and not self.exists:
            raise UserError(f"--state {self.path} is a file; name a folder", 2)
        self._require_own()
        # in this order: another command may be making the folder, and makes its marker first
        if self.exists and (name := self._other_name()) and not self.is_ours:
            raise UserError(f"--state {self.path} holds other files ({name}); name a folder of its own", 2)
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path.chmod(0o700)
        if not self.is_marked:
            self.write_private(MARKER, json.dumps(_MARK) + "\n")
        for name in (".gitignore", ".rayignore"):
            if not (self.path / name).exists():
                self.write_private(name, "*\n")
        (self.path / "logs").mkdir(mode=0o700, exist_ok=True)

    def require_ours(self) -> None:
        """Raises :class:`UserError` for a folder that is another user's, or holds anything and was not made by `up`."""
        self._require_own()
        if self.exists and (name := self._other_name()) and not self.is_ours:
            raise UserError(
                f"{self.path} was not made by `python -m cluster up` (it holds {name}); nothing in it was touched"
            )

    def delete(self) -> None:
        """Delete all that was made in the folder, and the folder if nothing else is in it.

        Of a link only the link is deleted, not what it points to.
        """
        for name in _FOLDERS:
            if (self.path / name).is_symlink():
                (self.path / name).unlink()
            elif (self.path / name).is_dir():
                shutil.rmtree(self.path / name)
        for name in (*_FILES, MARKER):
            (self.path / name).unlink(missing_ok=True)
        self.delete_partial_files()
        with suppress(OSError):  # other files are in it, or it is where a disk is mounted
            self.path.rmdir()

    def delete_partial_files(self) -> None:
        """Delete what a command that was killed was about to put in place."""
        ours = tuple(f".{name}." for name in (*_FILES, MARKER))
        partial = [path for path in self.path.glob(f".*{_PARTIAL}") if path.name.startswith(ours)]
        for path in (*partial, *(self.path / "s3").glob(f".*.{'[0-9a-f]' * 16}{_PARTIAL}")):
            path.unlink(missing_ok=True)

    def _require_own(self) -> None:
        if self.exists and self.path.stat().st_uid != os.geteuid():
            raise UserError(f"--state {self.path} belongs to another user; name a folder of your own", 2)

    def _other_name(self) -> str | None:
        """The name of something in the folder that shows that it is not ours, None where it is empty."""
        return min(self._names(), key=lambda name: (name in {*_FILES, *_FOLDERS}, name), default=None)

    def _names(self) -> list[str]:
        """Names of what is in the folder, without files that a command is about to put there, or was when it died."""
        return [
            entry.name
            for entry in self.path.iterdir()
            if not (entry.name.startswith(".") and entry.name.endswith(_PARTIAL))
        ]

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
            self.write_private(file.name, json.dumps(asdict(Credentials.generate())) + "\n")
        return self._complete(_read_json(file))

    def _complete(self, content: Any) -> Credentials:
        """The credentials in ``content``; those that an earlier version did not have are generated.

        They are kept once `up` has marked the folder, which until then is known by the credentials that it has.
        """
        names = {field.name for field in fields(Credentials)}
        valid = (
            isinstance(content, dict) and content.keys() <= names and all(isinstance(v, str) for v in content.values())
        )
        if not valid or not content.keys() >= _UNMARKED_CREDENTIALS.keys():
            raise UserError(f"{self.path / 'credentials.json'} is damaged; `down --delete-data` starts anew")
        if content.keys() < names:
            content = {**asdict(Credentials.generate()), **content}
            if self.is_marked:
                self.write_private("credentials.json", json.dumps(content) + "\n")
        return Credentials(**content)

    def write_private(self, name: str, content: str | bytes) -> Path:
        """Write a file that only its owner can read, whole or not at all."""
        target = self.path / name
        # a name of its own, since two commands may make the folder at the same time
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}{_PARTIAL}")
        try:
            with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
                stream.write(content.encode() if isinstance(content, str) else content)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
        return target


def _read_json(file: Path) -> Any:
    """What is in the file, None where there is no such file or it is none."""
    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError):
        return None


def shell_lines(variables: Mapping[str, str], unset: tuple[str, ...]) -> str:
    """The variables as a file that a shell can source."""
    lines = ["# Settings of the embedded services. Secret: for this user's own shells and jobs."]
    lines += [f"unset {name}" for name in unset]
    lines += [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
    return "\n".join(lines) + "\n"
