"""Client of the control socket: finds the running process, sends requests, and explains why there is no response.

HTTP over a unix socket (docs/contract.md), with the standard library only: probes and shell prompts run `status` and
`wait`, so start-up time matters. Failures are raised as `CommandError`, with a message for the user.

The peer's uid is checked before anything is sent. A request may carry secrets (`plan` sends files) and the response is
trusted, so a socket that another user has put in place of this user's must not be used.
"""

from __future__ import annotations

import http.client
import json
import os
import pwd
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any
from urllib.parse import urlencode

import click

from reconciler.cli.terminal.table import print_message
from reconciler.report.socket_paths import how_to_make_a_place, socket_paths, trusted_uids, why_no_place
from reconciler.system.peer_credentials import peer_uid

_RESPONSE_TIMEOUT = 15.0  # seconds; slower requests pass their own
_STREAM_TIMEOUT = 40.0  # seconds without data on an event stream; the server sends a comment every 15 s


class CommandError(click.ClickException):
    """Ends the command with exit code 1 and its message on stderr."""

    exit_code = 1

    def show(self, file: IO[Any] | None = None) -> None:
        print_message("error", self.message, file)


class NotRunningError(CommandError):
    """No process listens on any of the possible socket paths."""


class ForeignSocketError(CommandError):
    """The process that listens on the socket belongs to another user. Nothing was sent to it."""


class RequestRefusedError(CommandError):
    """The running process refused the request. `status` is the HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Control:
    """A running process. `path` is its control socket, "" to search the default paths."""

    def __init__(self, path: str = "", environ: Mapping[str, str] = os.environ) -> None:
        self.is_named = bool(path)
        self.paths = (path,) if path else socket_paths(environ)
        self._environ = environ

    def get(self, path: str, *, within: float = _RESPONSE_TIMEOUT, **query: str) -> Any:
        """Send a GET request and return the JSON of the response. Raises CommandError."""
        url = f"{path}?{_encoded(query)}" if query else path
        with self._request("GET", url, None, within) as response:
            return _content(response)

    def post(self, path: str, body: object, *, within: float = _RESPONSE_TIMEOUT) -> Any:
        """Send a POST request and return the JSON of the response. Raises CommandError."""
        with self._request("POST", path, json.dumps(body).encode(), within) as response:
            return _content(response)

    def follow(self, path: str, **query: str) -> Iterator[Any]:
        """Yield the data of server-sent events as they arrive, until the process ends. Raises CommandError."""
        with self._request("GET", f"{path}?{_encoded(query)}", None, _STREAM_TIMEOUT) as response:
            if response.status != http.client.OK:
                _content(response)
            data: list[str] = []
            for raw in response:
                line = raw.decode("utf-8", "replace").rstrip("\r\n")
                if line.startswith("data:"):
                    data.append(line[5:].removeprefix(" "))
                elif not line and data:
                    yield json.loads("\n".join(data))
                    data.clear()

    @contextmanager
    def _request(self, method: str, path: str, body: bytes | None, within: float) -> Iterator[http.client.HTTPResponse]:
        connection, socket_path = self._connect(within)
        headers = {"Content-Type": "application/json"} if body is not None else {}
        try:
            connection.request(method, path, body, headers)
            yield connection.getresponse()
        except TimeoutError:
            raise CommandError(
                f"no response from the process at {socket_path} within {within:g} s: it is busy or stopped"
            ) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise CommandError(
                f"invalid response from the process at {socket_path}, or it has ended: {error!r}"
            ) from error
        finally:
            connection.close()

    def _connect(self, within: float) -> tuple[_Connection, str]:
        """Connect to the first socket on which a process of a trusted user listens.

        Raises ForeignSocketError if only processes of other users listen, NotRunningError if none does.
        """
        failures: list[str] = []
        foreign: ForeignSocketError | None = None
        for path in self.paths:
            connection = _Connection(path, within)
            try:
                connection.connect()
            except BlockingIOError:  # the listen backlog is full
                connection.close()
                raise CommandError(f"the process at {path} accepts no connections: it is busy or stopped") from None
            except OSError as error:
                connection.close()
                failures.append(f"{path} ({_reason(error)})")
            else:
                refusal = self._refusal(connection, path)
                if refusal is None:
                    return connection, path
                connection.close()
                foreign = foreign or refusal
        if foreign is not None:
            raise foreign
        raise NotRunningError(f"no running process found at {', '.join(failures)}: {self._advice()}")

    def _advice(self) -> str:
        """Return what to do if no process was found."""
        start = "start one with `tunnels run FILE`"
        if self.is_named:
            return start
        if problem := why_no_place(self._environ):
            return f"a process here has no control socket, because {problem}; {how_to_make_a_place()} and restart it"
        return f"{start}, or name its control socket with --control or $TUNNELS_CONTROL"

    def _refusal(self, connection: _Connection, path: str) -> ForeignSocketError | None:
        """Return an error if the process that listens at `path` is not trusted, else None."""
        uid, trusted = peer_uid(connection.sock), trusted_uids(path, is_named=self.is_named)
        if uid in trusted:
            return None
        owner = "an unknown user" if uid is None else _user(uid)
        hint = "stop that process" if self.is_named else "stop that process, or name the right socket with --control"
        expected = " or ".join(_user(one) for one in sorted(trusted, reverse=True))
        return ForeignSocketError(
            f"the process that listens at {path} belongs to {owner}, expected {expected}: "
            f"nothing was sent to it; {hint}"
        )


def _user(uid: int) -> str:
    """Return `uid 33 (www-data)`, or only the number if it has no name."""
    try:
        return f"uid {uid} ({pwd.getpwuid(uid).pw_name})"
    except (KeyError, OverflowError):
        return f"uid {uid}"


def _encoded(query: Mapping[str, str]) -> str:
    """Encode a query. Arguments that are not UTF-8 keep their bytes."""
    return urlencode(query, errors="surrogateescape")


def _reason(error: OSError) -> str:
    match error:
        case FileNotFoundError() | NotADirectoryError():
            return "no such socket"
        case ConnectionRefusedError():
            return "its process has ended"
        case PermissionError():
            return "permission denied: run this command as the user of the process"
        case _:
            return (error.strerror or str(error)).lower()


def _content(response: http.client.HTTPResponse) -> Any:
    """Return the JSON of a response. Raises RequestRefusedError with the message of an error response."""
    text = response.read().decode("utf-8", "replace")
    if response.status == http.client.OK:
        return json.loads(text)
    try:
        message = json.loads(text)["error"]
    except (ValueError, KeyError, TypeError):
        message = f"the process responded {response.status} {response.reason}"
    raise RequestRefusedError(response.status, str(message))
