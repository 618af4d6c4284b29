"""What happens where Ray cannot be reached, or has nowhere to put its sockets."""

import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from ray.exceptions import AuthenticationError

from dataprep.runtime import ray_session
from dataprep.runtime.command_line import UserError


def test_a_cluster_that_has_gone_is_named_at_once(monkeypatch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr(ray_session, "_ANSWER_SECONDS", 1.0)
    began = time.monotonic()
    with pytest.raises(UserError, match=f"no Ray cluster answers at RAY_ADDRESS={address}"), ray_session.connected():
        pass
    assert time.monotonic() - began < 5


def test_something_else_that_listens_there_is_no_cluster(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        accepting = threading.Thread(target=lambda: silent.accept()[0], daemon=True)
        accepting.start()
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(ray_session, "_ANSWER_SECONDS", 1.0)
        with pytest.raises(UserError, match="no Ray cluster answers"), ray_session.connected():
            pass


def test_a_missing_token_is_one_line(monkeypatch):
    def refuse(**_: object) -> None:
        raise AuthenticationError("Token authentication is enabled\nbut no authentication token was found")

    monkeypatch.setenv("RAY_ADDRESS", "auto")
    monkeypatch.setattr(ray_session.ray, "init", refuse)
    found = "^RAY_ADDRESS=auto: Token.* no authentication token was found"
    with pytest.raises(UserError, match=found), ray_session.connected():
        pass


def test_ray_starts_under_a_temporary_folder_too_long_for_its_sockets_and_reports_to_nobody(tmp_path: Path):
    """As batch systems have it; in a process of its own, since Ray reads TMPDIR when it starts."""
    long = tmp_path / ("x" * 60)
    long.mkdir()
    program = (
        "from ray._common.usage.usage_lib import usage_stats_enabled\n"
        "from dataprep.runtime.ray_session import connected\n"
        "with connected(): print('connected,', usage_stats_enabled())"
    )
    of_others = ("RAY_ADDRESS", "RAY_TMPDIR", "RAY_USAGE_STATS_ENABLED")
    environment = {name: value for name, value in os.environ.items() if name not in of_others}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment | {"TMPDIR": str(long)}
    )
    assert done.stdout == "connected, False\n", done.stderr
