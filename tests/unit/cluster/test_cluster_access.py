"""Which cluster a job goes to, and who gets which token."""

import http.server
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.config import SubmitSettings
from cluster.jobs.access import Access, chosen_access
from cluster.local.processes import ProcessId
from cluster.local.state import State, StateFolder
from dataprep.runtime.command_line import UserError

ROOT = Path(__file__).parents[3]
LOCAL, ABROAD = "http://127.0.0.1:8265", "http://head.example:8265"
NO_TOKEN = {"RAY_AUTH_MODE": "disabled"}


@pytest.fixture
def services(tmp_path: Path) -> Iterator[StateFolder]:
    """State of services whose Ray runs, as far as anybody can see from outside."""
    folder = StateFolder.at(tmp_path / "state")
    folder.make()
    folder.write_private("ray-token", folder.credentials().ray_token)
    environment = os.environ | {"BULKFORMER_EMBEDDED_SERVICE": folder.mark("ray")}
    with subprocess.Popen(["sleep", "600"], env=environment) as ray:
        folder.write(State({"dashboard": 8265}, {"ray": ProcessId.of(ray.pid)}))
        yield folder
        ray.kill()


def shell(folder: StateFolder) -> dict[str, str]:
    """The variables of a shell that has sourced the settings of the services."""
    return {"RAY_API_SERVER_ADDRESS": LOCAL, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(folder.token_file)}


def access(environment: dict[str, str], state: Path | str = "nowhere", **settings) -> Access:
    return chosen_access(SubmitSettings(state=Path(state), **settings), environment)


@pytest.mark.parametrize("address", [None, LOCAL, f"{LOCAL}/", "http://localhost:8265"])
def test_the_services_of_this_machine_get_their_token(services: StateFolder, address: str | None):
    expected = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(services.token_file)}

    assert access({}, services.path, address=address).variables == expected
    assert access(shell(services), address=address).variables == expected


@pytest.mark.parametrize("address", [ABROAD, "https://head.example", "http://127.0.0.1:9999"])
def test_nobody_else_gets_it(services: StateFolder, address: str):
    token = services.credentials().ray_token
    value = {"RAY_API_SERVER_ADDRESS": address, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}

    assert access(shell(services), services.path, address=address) == Access(address, NO_TOKEN)
    assert access(shell(services) | {"RAY_API_SERVER_ADDRESS": address}) == Access(address, NO_TOKEN)
    assert access(value, services.path) == Access(address, NO_TOKEN)
    with pytest.raises(UserError, match="is the token of services on this machine"):
        access({}, address=address, token_file=services.token_file)


def test_whoever_listens_in_place_of_services_that_do_not_run_does_not_get_it(services: StateFolder):
    services.write(State({"dashboard": 8265}))

    for environment, state in (({}, services.path), (shell(services), "nowhere")):
        with pytest.raises(UserError, match="Ray does not run in"):
            access(environment, state)


def test_a_tunnel_on_the_port_that_the_services_had_gets_the_token_that_stands_beside_it(services: StateFolder):
    beside = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "of the other cluster"}
    environment = {"RAY_API_SERVER_ADDRESS": LOCAL, **beside}

    # while the services run, the port is theirs
    assert access(environment, services.path).variables["RAY_AUTH_TOKEN_PATH"] == str(services.token_file)
    services.write(State({"dashboard": 8265}))
    assert access(environment, services.path) == Access(LOCAL, beside)
    with pytest.raises(UserError, match="Ray does not run in"):
        access({"RAY_API_SERVER_ADDRESS": LOCAL}, services.path)


def test_the_token_of_the_environment_goes_to_the_address_of_the_environment_alone(tmp_path: Path):
    own = {"RAY_API_SERVER_ADDRESS": ABROAD, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "mine"}

    assert access(own) == Access(ABROAD, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "mine"})
    assert access(own, address="http://other.example:8265").variables == NO_TOKEN


def test_a_token_file_is_for_the_address_beside_it(tmp_path: Path):
    (tmp_path / "token").write_text("mine")

    chosen = access({}, address=ABROAD, token_file=tmp_path / "token")

    assert chosen == Access(ABROAD, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")})
    with pytest.raises(UserError, match="cannot be read"):
        access({}, address=ABROAD, token_file=tmp_path / "missing")


class Foreigner(http.server.BaseHTTPRequestHandler):
    seen: list[str | None]
    status: int

    def do_GET(self) -> None:
        self.seen.append(self.headers.get("Authorization"))
        self.send_response(self.status)
        self.end_headers()

    do_POST = do_PUT = do_GET  # noqa: N815 - names of the standard library

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(
    ("status", "message"),
    [(500, "cannot use the cluster at"), (200, "cannot use the cluster at"), (401, "--token-file")],
)
def test_a_server_that_is_no_cluster_is_one_line_and_hears_no_token(tmp_path: Path, status: int, message: str):
    handler = type("Handler", (Foreigner,), {"seen": [], "status": status})
    with http.server.HTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        command = [sys.executable, "-m", "cluster", "submit", "--state", str(tmp_path / "none"), "--working-dir",
                   str(tmp_path), "--address", f"http://127.0.0.1:{server.server_port}", "--", "true"]  # fmt: skip
        submission = subprocess.run(
            command,
            cwd=ROOT,
            env=environment | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a" * 64, "NO_PROXY": "127.0.0.1"},
            capture_output=True,
            text=True,
            timeout=100,
        )
        server.shutdown()

    assert submission.returncode == 1
    assert message in submission.stderr
    assert submission.stderr.count("\n") == 1
    assert set(handler.seen) == {None}


def test_a_cluster_that_is_not_there_is_one_line(tmp_path: Path):
    command = [sys.executable, "-m", "cluster", "submit", "--working-dir", str(tmp_path), "--address",
               "http://127.0.0.1:9", "--", "true"]  # fmt: skip

    submission = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)

    assert submission.returncode == 1
    assert submission.stderr.startswith("error: cannot use the cluster at http://127.0.0.1:9: ")
    assert submission.stderr.count("\n") == 1
