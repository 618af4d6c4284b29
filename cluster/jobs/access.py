"""Which cluster a job goes to, and with which token: each token goes to the cluster that it was given for, only."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from cluster.config import ClusterSettings
from cluster.local import processes
from cluster.local.state import StateFolder
from dataprep.runtime.command_line import UserError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

_NO_TOKEN = {"RAY_AUTH_MODE": "disabled"}
_TOKEN_VARIABLES = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


@dataclass(frozen=True)
class Access:
    """Address of a cluster's dashboard, and the RAY_AUTH_* variables with which it is asked."""

    address: str
    variables: Mapping[str, str]

    @property
    def has_token(self) -> bool:
        named = any(name in self.variables for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
        return self.variables.get("RAY_AUTH_MODE", "token" if named else "disabled") == "token"

    def require_token(self) -> None:
        """Raises :class:`UserError` for a cluster on another machine without a token: anybody could run code there."""
        if not (self.has_token or _is_loopback(self.address)):
            raise UserError(
                f"no token for {self.address}: give --token-file, or RAY_AUTH_MODE=token and the token beside "
                "RAY_API_SERVER_ADDRESS in the environment. Clusters on other machines are not used without one",
                2,
            )


def connect(settings: ClusterSettings) -> JobSubmissionClient:
    """A client of the cluster. Raises :class:`UserError` where there is none or it does not answer as one."""
    access = chosen_access(settings, os.environ)
    access.require_token()
    for name in _TOKEN_VARIABLES:
        os.environ.pop(name, None)
    # Ray prefers this variable to the argument of its client
    os.environ.update(access.variables, RAY_API_SERVER_ADDRESS=access.address)
    # only now: Ray reads those variables when it is imported
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    _hush("ray")
    try:
        return JobSubmissionClient(access.address)
    except AuthenticationError:
        which = "a token" if access.variables == _NO_TOKEN else "another token than it was sent"
        raise UserError(f"the cluster at {access.address} wants {which}: give --token-file") from None
    # requests' errors are OSError, an answer that is no JSON ValueError
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise UserError(f"cannot use the cluster at {access.address}: {_first_line(error)}") from None


def chosen_access(settings: ClusterSettings, environment: Mapping[str, str]) -> Access:
    """The cluster to use: ``--address``, else the environment's, else the services of this machine.

    The token of those services goes to them alone, while they run; the environment's goes to the address that stands
    beside it in the environment; ``--token-file`` is for ``--address``. Raises :class:`UserError` where there is no
    cluster, or where the token that was asked for is not there or must not be sent.
    """
    folder = StateFolder.at(settings.state)
    local, environment_address = _dashboard(folder), environment.get("RAY_API_SERVER_ADDRESS")
    address = settings.address or environment_address or local
    if address is None:
        raise UserError(f"no cluster: `python -m cluster up` starts one in {folder.path}, or give --address", 2)
    if settings.token_file is not None:
        return Access(address, _given_token(settings.token_file, address))
    token = {name: environment[name] for name in _TOKEN_VARIABLES if name in environment}
    owner = _owner(token, folder)
    is_named = environment_address is not None and _same(address, environment_address)
    # a tunnel to another cluster may have the port that the services had; then the environment has its token
    is_tunnel = is_named and bool(token) and owner is None and not _runs(folder)
    if local is not None and _same(address, local) and not is_tunnel:
        _require_running(folder)
        return Access(address, _token_of(folder))
    if not is_named:
        return Access(address, _NO_TOKEN)
    if owner is not None:
        if not _same(address, _dashboard(owner)):
            return Access(address, _NO_TOKEN)
        _require_running(owner)
    return Access(address, token)


def _given_token(file: Path, address: str) -> dict[str, str]:
    try:
        file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--token-file {file} cannot be read: {error}", 2) from None
    owner = _state_around(file)
    if owner is not None and not _same(address, _dashboard(owner)):
        raise UserError(f"--token-file {file} is the token of services on this machine and not for {address}", 2)
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(file.resolve())}


def _token_of(folder: StateFolder) -> dict[str, str]:
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(folder.token_file)}


def _owner(token: Mapping[str, str], folder: StateFolder) -> StateFolder | None:
    """The state folder of the services that the environment's token is for, None if it is for something else."""
    if "RAY_AUTH_TOKEN" in token:
        is_local = folder.is_ours and token["RAY_AUTH_TOKEN"] == folder.credentials().ray_token
        return folder if is_local else None
    return _state_around(Path(token["RAY_AUTH_TOKEN_PATH"])) if "RAY_AUTH_TOKEN_PATH" in token else None


def _state_around(file: Path) -> StateFolder | None:
    folder = StateFolder.at(file.expanduser().resolve().parent)
    return folder if folder.is_ours else None


def _dashboard(folder: StateFolder) -> str | None:
    """Address of the dashboard of the services in this state, running or not."""
    port = folder.read().ports.get("dashboard") if folder.is_ours else None
    return f"http://127.0.0.1:{port}" if port else None


def _runs(folder: StateFolder) -> bool:
    return processes.find(folder.read().processes.get("ray"), folder.mark("ray")) is not None


def _require_running(folder: StateFolder) -> None:
    """Raises :class:`UserError` where the services do not run: whoever listens there now is not to have the token."""
    if not _runs(folder):
        raise UserError(f"Ray does not run in {folder.path}; `python -m cluster up` starts it")


def _same(address: str, other: str | None) -> bool:
    return other is not None and _normal(address) == _normal(other)


def _normal(address: str) -> str:
    return address.rstrip("/").replace("//localhost:", "//127.0.0.1:")


def _is_loopback(address: str) -> bool:
    host = urlsplit(address).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _hush(package: str) -> None:
    """Keep a package's chatter off the terminal; its errors are raised anyway."""
    for name in logging.root.manager.loggerDict:
        if name == package or name.startswith(f"{package}."):
            logging.getLogger(name).setLevel(logging.ERROR)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
