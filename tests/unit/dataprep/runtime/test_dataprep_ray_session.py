"""What happens where Ray cannot be reached, or has nowhere to put its sockets."""

import ipaddress
import json
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


# A command with a Ray of its own: in another process, since Ray reads its environment when it is imported.
COMMAND = """
from dataprep.config import InspectSettings
from dataprep.runtime.command_line import Command, main

def work(settings):
    import psutil
    from ray._common.usage.usage_lib import usage_stats_enabled
    from dataprep.runtime.ray_session import connected
    with connected():
        processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
        listening = {
            open.laddr.ip for one in processes for open in one.net_connections("inet") if open.status == "LISTEN"
        }
        return {"listening": sorted(listening), "reports": usage_stats_enabled()}

raise SystemExit(main("x", "", {"work": Command(InspectSettings, work, "")}, ["work", "c", "--json"]))
"""


def test_a_ray_of_its_own_starts_under_a_long_temporary_folder_listens_here_and_reports_to_nobody(tmp_path: Path):
    """Too long for Ray's sockets, as batch systems have it."""
    long = tmp_path / ("x" * 60)
    long.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", COMMAND], capture_output=True, text=True, env=environment | {"TMPDIR": str(long)}
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert not found["reports"]
    assert found["listening"]
    assert all(ipaddress.ip_address(address.removeprefix("::ffff:")).is_loopback for address in found["listening"])
