"""A proxy before an object store that fails as busy, broken and distant stores do, when a test asks for it.

    with FaultyProxy(endpoint) as proxy:
        proxy.inject(Fault("SlowDown", 503), times=3, method="PUT")
        ...  # clients use proxy.address

Requests are forwarded with their Host header, so signatures stay valid.
"""

from __future__ import annotations

import contextlib
import http.client
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "expect", "te", "trailer", "upgrade"}


@dataclass(frozen=True)
class Fault:
    """What a client gets instead of an answer: an S3 error, or with ``status`` 0 a closed connection.

    ``after_forwarding``: the store carries out the request first, and only its answer is lost.
    """

    code: str = ""
    status: int = 0
    after_forwarding: bool = False


SLOW_DOWN = Fault("SlowDown", 503)
THROTTLED = Fault("ThrottlingException", 400)
TOO_MANY_REQUESTS = Fault("TooManyRequests", 429)
INTERNAL_ERROR = Fault("InternalError", 500)
EXPIRED_TOKEN = Fault("ExpiredToken", 400)
CLOSED = Fault()
ANSWER_LOST = Fault(after_forwarding=True)


@dataclass
class _Order:
    """A fault that is still to be injected ``times`` times."""

    fault: Fault
    times: int
    method: str | None
    key_part: str

    def applies(self, method: str, path: str) -> bool:
        return self.times > 0 and self.method in (None, method) and self.key_part in path


@dataclass
class FaultyProxy:
    """Forwards to ``endpoint``; ``injected`` lists what it did instead, as (method, path, fault)."""

    endpoint: str
    injected: list[tuple[str, str, Fault]] = field(default_factory=list)
    _orders: list[_Order] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        self._server.proxy = self  # type: ignore[attr-defined]

    @property
    def address(self) -> str:
        """What AWS_ENDPOINT_URL has to be."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def inject(self, fault: Fault, times: int = 1, method: str | None = None, key_part: str = "") -> None:
        """Let the next ``times`` requests of a method (default: any) whose path has ``key_part`` in it fail."""
        with self._lock:
            self._orders.append(_Order(fault, times, method, key_part))

    def heal(self) -> None:
        """Forget all faults that are still to be injected."""
        with self._lock:
            self._orders.clear()

    def fault_for(self, method: str, path: str) -> Fault | None:
        """The fault that a request meets, which is then used up."""
        with self._lock:
            order = next((order for order in self._orders if order.applies(method, path)), None)
            if order is None:
                return None
            order.times -= 1
            self.injected.append((method, path, order.fault))
            return order.fault

    def __enter__(self) -> FaultyProxy:
        threading.Thread(target=self._server.serve_forever, name="s3-proxy", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # a client that waits for the rest of a small answer would wait for TCP's delayed acknowledgement
    disable_nagle_algorithm = True

    def _serve(self) -> None:
        proxy: FaultyProxy = self.server.proxy  # type: ignore[attr-defined]
        body = self._body()
        fault = proxy.fault_for(self.command, self.path)
        if fault is None or fault.after_forwarding:
            status, headers, content = self._forwarded(proxy.endpoint, body)
            if fault is None:
                self._answer(status, headers, content)
                return
        assert fault is not None
        if fault.status:
            text = f"<Error><Code>{fault.code}</Code><Message>injected {fault.code}</Message></Error>"
            self._answer(fault.status, [("Content-Type", "application/xml")], text.encode())
        else:
            self.close_connection = True

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _serve  # noqa: N815 - names of the standard library

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _forwarded(self, endpoint: str, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(urlsplit(endpoint).netloc, timeout=60)
        with contextlib.closing(connection):
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in _HOP_BY_HOP and name.lower() != "content-length":
                    connection.putheader(name, value)
            connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()

    def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
        self.send_response_only(status)
        is_head = self.command == "HEAD"
        for name, value in headers:
            # an answer to HEAD says how long the content would be
            if name.lower() not in _HOP_BY_HOP and (is_head or name.lower() != "content-length"):
                self.send_header(name, value)
        if not is_head:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if not is_head:
            self.wfile.write(content)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing: the tests ask what was injected."""
