"""The client of the control socket: finds the running process, asks it, and says why there is no answer.

HTTP over a unix socket (DESIGN section 7) with nothing but the standard library: `status` and `wait` are run by probes
and prompts, where start-up time is what they cost. Failures are raised as `Trouble`, whose text is for people.

Nothing is sent before the kernel has named the peer's uid. A request may carry secrets (`plan` sends files), and an
answer is believed: a socket that another user has put in place of ours must get neither.
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

from reconciler.cli.terminal.table import complain
from reconciler.report.socket_paths import socket_paths, trusted_uids
from reconciler.system.peer_credentials import peer_uid

_ANSWER_WITHIN = 15.0  # seconds; what takes longer says so
_SILENT_FOR = 40.0  # seconds without a word from who is followed; it gives a sign of life every 15 s


class Trouble(click.ClickException):
    """Ends the command with its sentence on stderr."""

    exit_code = 1

    def show(self, file: IO[Any] | None = None) -> None:
        complain("error", self.message, file)


class NothingRuns(Trouble):
    """No process answers at any of the places where its socket may be."""


class ForeignSocket(Trouble):
    """A process of another user listens there: it is not ours, and nothing was sent to it."""


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
        asked = f"{path}?{_encoded(query)}" if query else path
        with self._answer("GET", asked, None, within) as answer:
            return _content(answer)

    def post(self, path: str, body: object, *, within: float = _ANSWER_WITHIN) -> Any:
        """The answer's JSON. Raises Trouble."""
        with self._answer("POST", path, json.dumps(body).encode(), within) as answer:
            return _content(answer)

    def follow(self, path: str, **query: str) -> Iterator[Any]:
        """The data of server-sent events as they come, until the process ends. Raises Trouble."""
        with self._answer("GET", f"{path}?{_encoded(query)}", None, _SILENT_FOR) as answer:
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
        """A connection to the first socket that a process of ours listens on.

        Raises ForeignSocket where only other users' processes listen, NothingRuns where nobody does.
        """
        why: list[str] = []
        foreign: ForeignSocket | None = None
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
                refusal = self._refusal(connection, path)
                if refusal is None:
                    return connection, path
                connection.close()
                foreign = foreign or refusal
        if foreign is not None:
            raise foreign
        hint = "" if self.is_named else "; --control or $TUNNELS_CONTROL names another place"
        raise NothingRuns(f"no `tunnels run` answers at {', '.join(why)}{hint}; `tunnels run FILE` starts one")

    def _refusal(self, connection: _Connection, path: str) -> ForeignSocket | None:
        """Return why the process that listens at `path` is not to be asked, None if it is ours."""
        uid, trusted = peer_uid(connection.sock), trusted_uids(path, is_named=self.is_named)
        if uid in trusted:
            return None
        owner = "a user that the system does not tell" if uid is None else _user(uid)
        hint = "stop that process" if self.is_named else "stop that process, or name the right socket with --control"
        expected = " or ".join(_user(one) for one in sorted(trusted, reverse=True))
        return ForeignSocket(
            f"the process that listens at {path} belongs to {owner}, expected {expected}: "
            f"nothing was sent to it; {hint}"
        )


def _user(uid: int) -> str:
    """`uid 33 (www-data)`; the number alone where it has no name."""
    try:
        return f"uid {uid} ({pwd.getpwuid(uid).pw_name})"
    except (KeyError, OverflowError):
        return f"uid {uid}"


def _encoded(query: Mapping[str, str]) -> str:
    """An argument need not be UTF-8."""
    return urlencode(query, errors="surrogateescape")


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
