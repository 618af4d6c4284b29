"""Another user of the machine, without any of our credentials, who tries the ports of services.

``python tests/stranger.py < attempts.json`` makes the attempts as user 65534 and prints what became of each: the HTTP
status and the beginning of the answer, the gRPC status, "disconnected", or the name of the error.
"""

import encodings.idna  # noqa: F401 - sockets look it up when they connect
import http.client
import json
import os
import ssl
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import grpc
import psutil
import pytest

NOBODY = 65534
_SECONDS = 10
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")


def http_request(port: int, method: str, path: str, tls: bool = False, password: str = "") -> dict[str, object]:
    return {"kind": "http", "port": port, "method": method, "path": path, "tls": tls, "password": password}


def grpc_call(port: int, method: str, tls: bool = False) -> dict[str, object]:
    return {"kind": "grpc", "port": port, "method": method, "tls": tls}


def outcomes(attempts: Sequence[dict[str, object]]) -> list[str]:
    """What became of the attempts that the other user made."""
    environment = {"PATH": os.defpath, "HOME": "/nonexistent"}
    stranger = subprocess.run(
        [sys.executable, __file__], input=json.dumps(attempts), env=environment, cwd="/", capture_output=True, text=True
    )
    assert stranger.returncode == 0, stranger.stderr
    return json.loads(stranger.stdout)


def run_as_stranger(program: str, arguments: Sequence[str], text: str, seconds: float) -> str:
    """Output of a program that the other user runs and that is ended after a while; the program is lent to it."""
    descriptor = os.open(program, os.O_RDONLY)
    try:
        running = subprocess.run(
            [f"/proc/self/fd/{descriptor}", *arguments],
            input=text.encode(),
            env={"PATH": os.defpath, "HOME": "/nonexistent"},
            cwd="/",
            user=NOBODY,
            group=NOBODY,
            extra_groups=[],
            pass_fds=[descriptor],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=seconds,
        )
        return running.stdout.decode(errors="replace")
    except subprocess.TimeoutExpired as error:
        return (error.stdout or b"").decode(errors="replace")
    finally:
        os.close(descriptor)


def listening_ports(processes: Sequence[psutil.Process]) -> list[int]:
    ports: set[int] = set()
    for process in processes:
        with suppress(psutil.NoSuchProcess):  # Ray's idle workers end when they like
            listening = [each for each in process.net_connections("tcp") if each.status == psutil.CONN_LISTEN]
            ports.update(each.laddr.port for each in listening)
    return sorted(ports)


def _http(attempt: dict) -> str:
    context = ssl._create_unverified_context()
    connection = (
        http.client.HTTPSConnection("127.0.0.1", attempt["port"], timeout=_SECONDS, context=context)
        if attempt["tls"]
        else http.client.HTTPConnection("127.0.0.1", attempt["port"], timeout=_SECONDS)
    )
    headers = {"Authorization": attempt["password"]} if attempt["password"] else {}
    body = b"{}" if attempt["method"] in ("POST", "PUT", "PATCH") else None
    connection.request(attempt["method"], attempt["path"], body, {**headers, "Content-Type": "application/json"})
    answer = connection.getresponse()
    return f"{answer.status} {answer.read(200).decode(errors='replace')}"


def _grpc(attempt: dict) -> str:
    address = f"127.0.0.1:{attempt['port']}"
    options = [("grpc.enable_http_proxy", 0)]
    if attempt["tls"]:
        # whom the server says it is, and without a certificate of one's own
        authority = ssl.get_server_certificate(("127.0.0.1", attempt["port"])).encode()
        channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(authority), options)
    else:
        channel = grpc.insecure_channel(address, options)
    with channel:
        try:
            return f"OK {channel.unary_unary(attempt['method'])(b'', timeout=_SECONDS)!r}"
        except grpc.RpcError as error:
            return f"{error.code().name} {error.details()}"


def _outcome(attempt: dict) -> str:
    try:
        return _http(attempt) if attempt["kind"] == "http" else _grpc(attempt)
    except ConnectionRefusedError:
        return "refused"  # nobody listens: not what a test of a server wants to hear
    except ConnectionError:
        # a server that hangs up is heard as an end, a reset or a broken pipe, whichever comes first
        return "disconnected"
    except (OSError, http.client.HTTPException) as error:
        return type(error).__name__


def _main() -> None:
    attempts = json.load(sys.stdin)
    # imported already: the interpreter need not be where this user may look
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    assert not os.access(Path("/root"), os.R_OK)
    with ThreadPoolExecutor(len(attempts)) as pool:
        results = list(pool.map(_outcome, attempts))
    print(json.dumps(results))


if __name__ == "__main__":
    _main()
