"""A page in headless Chromium, through its DevTools: what it asks for, what it complains about, how wide it is."""

import asyncio
import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
_PATIENCE_SECONDS = 60.0
_FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-dev-shm-usage", "--remote-debugging-port=0",
)  # fmt: skip


@dataclass
class Visit:
    """One page at one width. ``requests``: addresses beside that of the page itself; ``picture``: PNG."""

    width: int
    console: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)
    picture: bytes = b""


@dataclass(frozen=True)
class _Setting:
    height: int
    media: str
    headers: Mapping[str, str]
    when: str


def visit(
    page: Path | str,
    widths: Sequence[int],
    expressions: Sequence[str] = (),
    with_picture: bool = False,
    media: str = "screen",
    height: int = 800,
    headers: Mapping[str, str] | None = None,
    when: str = "true",
) -> list[Visit]:
    """Open a page, a file or an address, at each width and evaluate JavaScript expressions in it.

    ``with_picture``: PNG of what is then seen, ``height`` pixels high. ``media``: screen or print. ``headers`` go with
    every request. ``when``: an expression that is true as soon as the page has built itself.
    """
    assert CHROMIUM is not None
    with tempfile.TemporaryDirectory(prefix="chromium-") as profile:
        command = [CHROMIUM, *_FLAGS, f"--user-data-dir={profile}", "about:blank"]
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        try:
            setting = _Setting(height, media, headers or {}, when)
            return asyncio.run(_visits(_port(Path(profile), process), page, widths, expressions, with_picture, setting))
        finally:
            os.killpg(process.pid, 15)
            process.wait()
            time.sleep(0.2)  # its helpers still write into the profile


def _port(profile: Path, process: subprocess.Popen[bytes]) -> int:
    end = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < end and process.poll() is None:
        file = profile / "DevToolsActivePort"
        if file.exists() and (lines := file.read_text().splitlines()):
            return int(lines[0])
        time.sleep(0.05)
    raise TimeoutError("Chromium does not start")


async def _visits(
    port: int,
    page: Path | str,
    widths: Sequence[int],
    expressions: Sequence[str],
    with_picture: bool,
    setting: _Setting,
) -> list[Visit]:
    address = page.as_uri() if isinstance(page, Path) else page
    async with aiohttp.ClientSession() as session:
        async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
            target = next(tab for tab in await answer.json() if tab["type"] == "page")
        async with session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0) as socket:
            tab = _Tab(socket, setting)
            for domain in ("Page", "Runtime", "Log", "Network"):
                await tab.call(f"{domain}.enable")
            await tab.call("Emulation.setEmulatedMedia", media=setting.media)
            await tab.call("Network.setExtraHTTPHeaders", headers=dict(setting.headers))
            return [await tab.visit(address, width, expressions, with_picture) for width in widths]


class _Tab:
    def __init__(self, socket: aiohttp.ClientWebSocketResponse, setting: _Setting) -> None:
        self._socket = socket
        self._setting = setting
        self._calls = 0
        self._now = Visit(0)
        self._loaded = False

    async def visit(self, address: str, width: int, expressions: Sequence[str], with_picture: bool) -> Visit:
        self._now, self._loaded = Visit(width), False
        metrics = {"width": width, "height": self._setting.height, "deviceScaleFactor": 1, "mobile": width < 600}
        await self.call("Emulation.setDeviceMetricsOverride", **metrics)
        await self.call("Page.navigate", url=address)
        while not self._loaded:
            self._note(await self._next())
        end = time.monotonic() + _PATIENCE_SECONDS
        while not await self._evaluate(self._setting.when):
            if time.monotonic() > end:
                raise TimeoutError(f"{address} was not ready: {self._setting.when}")
            await asyncio.sleep(0.2)
        self._now.values = [await self._evaluate(expression) for expression in expressions]
        if with_picture:
            shot = await self.call("Page.captureScreenshot")
            self._now.picture = base64.b64decode(shot["data"])
        self._now.requests = [request for request in self._now.requests if request != address]
        return self._now

    async def _evaluate(self, expression: str) -> Any:
        found = await self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        return found["result"].get("value")

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._calls += 1
        number = self._calls
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        while (message := await self._next()).get("id") != number:
            self._note(message)
        assert "error" not in message, message
        return message["result"]

    async def _next(self) -> dict[str, Any]:
        return json.loads(await self._socket.receive_str(timeout=_PATIENCE_SECONDS))

    def _note(self, message: dict[str, Any]) -> None:
        method, parameters = message.get("method"), message.get("params", {})
        if method == "Page.loadEventFired":
            self._loaded = True
        elif method == "Network.requestWillBeSent":
            address = parameters["request"]["url"]
            # the page brings its own icon
            if not address.startswith("data:"):
                self._now.requests.append(address)
        elif method == "Log.entryAdded":
            self._now.console.append(parameters["entry"]["text"])
        elif method == "Runtime.consoleAPICalled":
            self._now.console.append(str(parameters["args"]))
        elif method == "Runtime.exceptionThrown":
            self._now.console.append(parameters["exceptionDetails"]["text"])
