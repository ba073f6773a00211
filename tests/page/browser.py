"""A headless Chromium, driven by the Chrome DevTools protocol: no driver, no further dependency.

`Chromium` is the process, one for the session; `Tab` is one page in a browser context of its own, one for each test.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp

from support.processes import halt, is_alive, send_signal, session_scoped, tied_to_parent
from support.wait import eventually

Json = dict[str, Any]

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_START_SECONDS = 60.0


class ChromiumMissingError(Exception):
    """No Chromium is installed."""


class Chromium:
    """A plain context manager, so that a session-scoped fixture needs no event loop."""

    def __init__(self) -> None:
        program = next(filter(None, map(shutil.which, _NAMES)), None)
        if program is None:
            raise ChromiumMissingError(
                "Chromium is not installed: tests/system-packages.sh installs it (as root, on Debian)"
            )
        self._program = program
        self._directory = Path(tempfile.mkdtemp(prefix="tunnels-page-"))
        self._process: subprocess.Popen[bytes] | None = None
        self.address = ""

    def __enter__(self) -> Self:
        command = [
            self._program,
            "--headless",
            "--no-sandbox",  # root has none; only pages of this repository are opened
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-breakpad",
            "--disable-dev-shm-usage",
            "--remote-debugging-port=0",
            f"--user-data-dir={self._directory / 'profile'}",
            "about:blank",
        ]
        with (self._directory / "log").open("wb") as log:
            self._process = subprocess.Popen(
                tied_to_parent(command), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        session_scoped.add(self._process.pid)
        try:
            self.address = self._await_address()
        except BaseException:
            self._end()
            raise
        return self

    def _await_address(self) -> str:
        port_file = self._directory / "profile" / "DevToolsActivePort"
        deadline = time.monotonic() + _START_SECONDS
        while True:
            lines = port_file.read_text().splitlines() if port_file.exists() else []
            if len(lines) == 2:
                return f"ws://127.0.0.1:{lines[0]}{lines[1]}"
            assert self._process is not None
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(
                    f"Chromium does not start:\n{(self._directory / 'log').read_text(errors='replace')}"
                )
            time.sleep(0.02)

    def _end(self) -> None:
        assert self._process is not None
        doomed = halt([self._process.pid])
        send_signal(doomed, signal.SIGKILL)
        self._process.wait()
        deadline = time.monotonic() + 30
        while any(map(is_alive, doomed)) and time.monotonic() < deadline:
            time.sleep(0.01)
        shutil.rmtree(self._directory, ignore_errors=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()


class Tab:
    """A page. `complaints`: console errors, uncaught exceptions and violations of the content policy."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Json]] = {}
        self._session = ""
        self._aborted = False  # a request of the page, by a change of the network
        self.complaints: list[str] = []

    async def call(self, method: str, **params: object) -> Json:
        """Make one protocol call. Raises AssertionError with the message of a failure."""
        number = next(self._numbers)
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        message: Json = {"id": number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        await self._socket.send_str(json.dumps(message))
        return await asyncio.wait_for(answer, 60)

    async def read(self) -> None:
        """Pass responses to their calls until the browser exits."""
        async for message in self._socket:
            message_json: Json = json.loads(message.data)
            if "id" in message_json:
                waiting = self._waiting.pop(message_json["id"])
                if waiting.cancelled():
                    continue
                if "error" in message_json:
                    waiting.set_exception(AssertionError(str(message_json["error"])))
                else:
                    waiting.set_result(message_json["result"])
            else:
                self._receive(message_json.get("method", ""), message_json.get("params", {}))

    def _receive(self, method: str, params: Json) -> None:
        match method:
            case "Runtime.exceptionThrown":
                details = params["exceptionDetails"]
                self.complaints.append(details.get("exception", {}).get("description") or details["text"])
            case "Runtime.consoleAPICalled" if params["type"] in ("error", "warning", "assert"):
                self.complaints.append(" ".join(str(one.get("value")) for one in params["args"]))
            case "Log.entryAdded" if params["entry"]["level"] in ("error", "warning"):
                entry = params["entry"]
                if "net::ERR_NETWORK_CHANGED" in entry["text"]:
                    self._aborted = True
                if "net::ERR_" in entry["text"]:
                    return  # the browser's own message about a stopped server
                self.complaints.append(f"{entry['source']}: {entry['text']} {entry.get('url', '')}")
            case "Audits.issueAdded":
                self.complaints.append(f"issue: {json.dumps(params['issue'])}")
            case _:
                pass

    async def attach(self) -> str:
        """Open a new context and page. Return the context, for disposal."""
        context: str = (await self.call("Target.createBrowserContext"))["browserContextId"]
        made = await self.call("Target.createTarget", url="about:blank", browserContextId=context)
        attached = await self.call("Target.attachToTarget", targetId=made["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Audits"):
            await self.call(f"{domain}.enable")
        return context

    async def detach(self, context: str) -> None:
        self._session = ""
        await self.call("Target.disposeBrowserContext", browserContextId=context)

    async def run(self, expression: str, *, gesture: bool = False) -> Any:
        """Return the value of a JavaScript expression; a promise is awaited. `gesture`: as if a person did it."""
        result = await self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True, userGesture=gesture
        )
        if "exceptionDetails" in result:
            raise AssertionError(f"{expression}: {result['exceptionDetails']}")
        return result["result"].get("value")

    async def click(self, expression: str) -> None:
        """Click the element of a JavaScript expression."""
        await self.run(f"({expression}).click()", gesture=True)

    async def until(self, expression: str, within: float = 30.0) -> Any:
        """Wait until a JavaScript expression is truthy."""
        return await eventually(lambda: self.run(expression), within=within, message=expression, every=0.05)

    async def size(self, width: int, height: int, *, phone: bool = False, scale: float = 1) -> None:
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=phone
        )

    async def media(self, **features: str) -> None:
        """Emulate media features, such as `prefers_color_scheme="dark"`."""
        listed = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        await self.call("Emulation.setEmulatedMedia", features=listed)

    async def open(self, url: str) -> None:
        """Open a page, again if a change of the machine's network aborted its requests."""
        for _ in range(5):
            self._aborted = False
            await self.call("Page.navigate", url=url)
            await self.until("document.URL !== 'about:blank' && document.readyState === 'complete'")
            if not self._aborted:
                return
        raise AssertionError(f"the network changed whenever {url} was loading")

    async def press(self, key: str, *, text: str = "", code: int = 0, modifiers: int = 0) -> None:
        """Press a key. `text`: the typed text. `code`: the Windows virtual key code."""
        common: Json = {"key": key, "windowsVirtualKeyCode": code, "modifiers": modifiers}
        await self.call("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", text=text, **common)
        await self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    async def type(self, text: str) -> None:
        for letter in text:
            await self.press(letter, text=letter)

    async def shoot(self, path: Path, *, whole: bool = False) -> None:
        shot = await self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))


@contextlib.asynccontextmanager
async def new_tab(chromium: Chromium) -> AsyncIterator[Tab]:
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(chromium.address, max_msg_size=0, heartbeat=None) as socket,
    ):
        tab = Tab(socket)
        reading = asyncio.create_task(tab.read())
        context = await tab.attach()
        try:
            yield tab
        finally:
            await tab.detach(context)
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reading
