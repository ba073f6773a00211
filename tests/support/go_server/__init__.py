"""A real SSH server in Go, on golang.org/x/crypto/ssh. Needs a Go toolchain and the package's source in a GOPATH."""

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

from support.keys import KeyPair, Keys
from support.processes import ServerProcess, tied_to_parent
from support.wait import free_port

_SOURCE = Path(__file__).parent
_DEBIAN_GOPATH = "/usr/share/gocode"  # of golang-golang-x-crypto-dev
_PACKAGE = "golang.org/x/crypto/ssh"


class GoMissingError(Exception):
    """No Go toolchain, or no source of the SSH package."""


@cache
def _built(directory: Path) -> Path:
    """Build the server in this directory and return its path."""
    go = shutil.which("go")
    if go is None:
        raise GoMissingError("go is not installed (Debian: golang-go)")
    gopath = os.pathsep.join(filter(None, (os.environ.get("GOPATH"), _DEBIAN_GOPATH)))
    ours = {"GO111MODULE": "off", "GOPATH": gopath, "GOCACHE": str(directory / "cache")}
    environment = {**os.environ, **ours}
    # It also fails in an environment without HOME if GOCACHE is not set.
    found = subprocess.run([go, "list", _PACKAGE], env=environment, capture_output=True, check=False)
    if found.returncode != 0:
        raise GoMissingError(f"{_PACKAGE} is not in GOPATH (Debian: golang-golang-x-crypto-dev)")
    binary = directory / "go-server"
    build = [go, "build", "-o", str(binary), "."]
    made = subprocess.run(build, cwd=_SOURCE, env=environment, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    return binary


class GoServer(ServerProcess):
    """The server with one authorized key. A restart keeps the port. It changes keys after `rekey_bytes`, if not 0.

    `build` is the directory where the binary is built, once for all servers of the process.
    """

    def __init__(self, directory: Path, build: Path, *, rekey_bytes: int = 0, client: KeyPair | None = None) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        super().__init__(directory / "go.log", ready="listening on")
        self.host, self.port, self.user = "127.0.0.1", free_port(), "tester"
        self.rekey_bytes = rekey_bytes
        keys = Keys(directory)
        self.client = client or keys.make("client")
        self._host_key = keys.make("host")
        self._authorized_keys = directory / "authorized_keys"
        self._authorized_keys.write_text(f"{self.client.public_line}\n")
        self.known_hosts = directory / "known_hosts"
        self.known_hosts.write_text(f"[{self.host}]:{self.port} {self.host_public_key}\n")
        self._binary = _built(build)

    def __repr__(self) -> str:
        return f"GoServer({self.host}:{self.port})"

    @property
    def client_key(self) -> Path:
        return self.client.private

    @property
    def host_public_key(self) -> str:
        return " ".join(self._host_key.public_line.split()[:2])

    def command(self) -> list[str]:
        files = [str(self._host_key.private), str(self._authorized_keys)]
        return tied_to_parent([str(self._binary), f"{self.host}:{self.port}", *files, str(self.rekey_bytes)])
