"""The client of the control socket: finds the running process, asks it, and says why there is no answer.

HTTP over a unix socket (DESIGN section 7) with nothing but the standard library: `status` and `wait` are run by probes
and prompts, where start-up time is what they cost. Failures are raised as `Trouble`, whose text is for people.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any
from urllib.parse import urlencode

import click

from reconciler.cli.table import complain
from reconciler.report.places import socket_paths

_ANSWER_WITHIN = 15.0  # seconds; what takes longer says so
_SILENT_FOR = 40.0  # seconds without a word from who is followed; it gives a sign of life every 15 s


class Trouble(click.ClickException):
    """Ends the command with its sentence on stderr."""

    exit_code = 1

    def show(self, file: IO[Any] | None = None) -> None:
        complain("error", self.message, file)


class NothingRuns(Trouble):
    """No process answers at any of the places where its socket may be."""


class Refused(Trouble):
    """The running process answered no; `status` is the HTTP status."""

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
    """A running process. `path` is its socket, "" to look where it may be."""

    def __init__(self, path: str = "", environ: Mapping[str, str] = os.environ) -> None:
        self.is_named = bool(path)
        self.paths = (path,) if path else socket_paths(environ)

    def get(self, path: str, *, within: float = _ANSWER_WITHIN, **query: str) -> Any:
        """The answer's JSON. Raises Trouble."""
        asked = f"{path}?{urlencode(query)}" if query else path
        with self._answer("GET", asked, None, within) as answer:
            return _content(answer)

    def post(self, path: str, body: object, *, within: float = _ANSWER_WITHIN) -> Any:
        """The answer's JSON. Raises Trouble."""
        with self._answer("POST", path, json.dumps(body).encode(), within) as answer:
            return _content(answer)

    def follow(self, path: str, **query: str) -> Iterator[Any]:
        """The data of server-sent events as they come, until the process ends. Raises Trouble."""
        with self._answer("GET", f"{path}?{urlencode(query)}", None, _SILENT_FOR) as answer:
            if answer.status != http.client.OK:
                _content(answer)
            data: list[str] = []
            for raw in answer:
                line = raw.decode("utf-8", "replace").rstrip("\r\n")
                if line.startswith("data:"):
                    data.append(line[5:].removeprefix(" "))
                elif not line and data:
                    yield json.loads("\n".join(data))
                    data.clear()

    @contextmanager
    def _answer(self, method: str, path: str, body: bytes | None, within: float) -> Iterator[http.client.HTTPResponse]:
        connection, where = self._connect(within)
        headers = {"Content-Type": "application/json"} if body is not None else {}
        try:
            connection.request(method, path, body, headers)
            yield connection.getresponse()
        except TimeoutError:
            raise Trouble(
                f"the process at {where} did not answer within {within:g} s: it is busy, or stopped"
            ) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise Trouble(f"the process at {where} ended, or gave no answer that makes sense: {error!r}") from error
        finally:
            connection.close()

    def _connect(self, within: float) -> tuple[_Connection, str]:
        """A connection to the first socket that somebody listens on."""
        why: list[str] = []
        for path in self.paths:
            connection = _Connection(path, within)
            try:
                connection.connect()
            except BlockingIOError:  # so many wait for it already that no more may
                connection.close()
                raise Trouble(f"the process at {path} takes nobody: it is busy, or stopped") from None
            except OSError as error:
                connection.close()
                why.append(f"{path} ({_reason(error)})")
            else:
                return connection, path
        hint = "" if self.is_named else "; --control or $TUNNELS_CONTROL names another place"
        raise NothingRuns(f"no `tunnels run` answers at {', '.join(why)}{hint}; `tunnels run FILE` starts one")


def _reason(error: OSError) -> str:
    match error:
        case FileNotFoundError() | NotADirectoryError():
            return "not there"
        case ConnectionRefusedError():
            return "left over: its process has ended"
        case PermissionError():
            return "not yours: be the user it runs as"
        case _:
            return (error.strerror or str(error)).lower()


def _content(answer: http.client.HTTPResponse) -> Any:
    """The JSON of a good answer; a bad one is raised with its own sentence."""
    text = answer.read().decode("utf-8", "replace")
    if answer.status == http.client.OK:
        return json.loads(text)
    try:
        said = json.loads(text)["error"]
    except (ValueError, KeyError, TypeError):
        said = f"it answered {answer.status} {answer.reason}"
    raise Refused(answer.status, str(said))
