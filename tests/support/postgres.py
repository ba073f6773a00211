"""A real PostgreSQL server in a temporary directory, and its clients psql and pg_dump."""

import asyncio
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Self

from support.container import is_entered, temporary_root
from support.processes import session_scoped, tied_to_parent
from support.wait import free_port

_SUPERUSER = "postgres"


class PostgresMissingError(Exception):
    """PostgreSQL is not installed."""


class PsqlError(Exception):
    """psql failed. The text is its standard error."""


@cache
def _binary(name: str) -> str:
    """Return the path of a program. Debian keeps the server's programs out of PATH, in a directory for each version."""
    versions = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: float(path.parts[4]))
    found = str(versions[-1]) if versions and not is_entered() else shutil.which(name)
    if found is None:
        raise PostgresMissingError(f"{name} is not installed (Debian: postgresql)")
    return found


def _unprivileged_user() -> pwd.struct_passwd | None:
    """Return the account for the server if this process is root, else None: PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")


class Postgres:
    """One server. A plain context manager, so that a session-scoped fixture needs no event loop."""

    def __init__(self) -> None:
        self._initdb, self._postgres = _binary("initdb"), _binary("postgres")
        self.host = "127.0.0.1"
        self.port = free_port()
        self.user = self.database = _SUPERUSER
        self._account = _unprivileged_user()
        # Not pytest's directory: only its owner may enter it, and a unix socket needs a short path.
        self.directory = Path(tempfile.mkdtemp(prefix="tunnels-pg-", dir=temporary_root()))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def socket_path(self) -> Path:
        """The server's unix socket, for `remoteSocket`."""
        return self.directory / f".s.PGSQL.{self.port}"

    def start(self) -> None:
        data = self.directory / "data"
        if self._account is not None:
            os.chown(self.directory, self._account.pw_uid, self._account.pw_gid)
        initdb = [self._initdb, "-D", str(data), "-U", _SUPERUSER, "-A", "trust", "-E", "UTF8", "--no-locale", "-N"]
        subprocess.run(self._as_account(initdb), cwd="/", check=True, capture_output=True)
        settings = {
            "listen_addresses": self.host,
            "port": str(self.port),
            "unix_socket_directories": str(self.directory),
            "fsync": "off",
            "max_connections": "300",
        }
        flags = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                # QUIT is the immediate shutdown, which also ends the postmaster's children.
                self._as_account(tied_to_parent([self._postgres, "-D", str(data), *flags], by="QUIT")),
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        session_scoped.add(self._process.pid)
        self._wait_until_ready(self._process)

    def _as_account(self, command: list[str]) -> list[str]:
        if self._account is None:
            return command
        ids = ["--reuid", str(self._account.pw_uid), "--regid", str(self._account.pw_gid), "--clear-groups"]
        return ["setpriv", *ids, "--", *command]

    def _wait_until_ready(self, process: subprocess.Popen[bytes], within: float = 60.0) -> None:
        ready = [_binary("pg_isready"), "-q", "-h", self.host, "-p", str(self.port)]
        deadline = time.monotonic() + within
        while subprocess.run(ready, check=False).returncode != 0:
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"PostgreSQL did not start:\n{(self.directory / 'log').read_text()}")
            time.sleep(0.02)

    def stop(self) -> None:
        if self._process is not None:
            # QUIT does not wait for clients. This data needs no checkpoint.
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(timeout=30)
            session_scoped.discard(self._process.pid)
            self._process = None
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


async def psql(host: str, port: int, sql: str, *, within: float = 60.0) -> str:
    """Run one statement with the real psql. Return its output without headings. Raises PsqlError."""
    quiet = ["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1"]
    return (await _output("psql", host, port, [*quiet, "-c", sql], within)).decode().strip()


async def pg_dump(host: str, port: int, *, within: float = 60.0) -> bytes:
    """Return the whole database from the real pg_dump, without the lines that differ between runs."""
    lines = (await _output("pg_dump", host, port, [], within)).splitlines(keepends=True)
    return b"".join(line for line in lines if not line.startswith((b"\\restrict", b"\\unrestrict")))


async def _output(program: str, host: str, port: int, arguments: list[str], within: float) -> bytes:
    process = await asyncio.create_subprocess_exec(
        _binary(program),
        *("-h", host, "-p", str(port), "-U", _SUPERUSER, "-d", _SUPERUSER, *arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(within):
            output, error = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        raise PsqlError(error.decode().strip())
    return output
