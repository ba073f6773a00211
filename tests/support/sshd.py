"""A real OpenSSH server on loopback with its own key, configuration and port. Needs no root.

It is the first sshd in PATH, or the one of the system. To test another one, put its directory and that of its ssh,
ssh-keygen, ssh-agent and ssh-add first in PATH.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from support.container import user_name
from support.keys import KeyPair, Keys
from support.processes import ServerProcess, tied_to_parent
from support.wait import free_port

_PRIVILEGE_SEPARATION_DIRECTORY = Path("/run/sshd")


@cache
def sshd_binary() -> str:
    """Return the absolute path of sshd, which it needs to re-execute itself for each connection."""
    found = shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    assert found is not None, "sshd is not installed (Debian: openssh-server)"
    return found


def _make_privilege_separation_directory() -> None:
    if os.geteuid() == 0:
        _PRIVILEGE_SEPARATION_DIRECTORY.mkdir(mode=0o755, exist_ok=True)


@cache
def sshd_takes(option: str) -> bool:
    """Return True if this sshd knows the option and takes its value."""
    _make_privilege_separation_directory()
    with tempfile.TemporaryDirectory() as directory:
        host_key = Keys(Path(directory)).make("host").private
        command = [sshd_binary(), "-t", "-f", "/dev/null", "-h", str(host_key), "-o", option]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0


class Sshd(ServerProcess):
    """sshd with one authorized key. A restart keeps the port.

    `options` are sshd_config keywords that replace or extend the defaults. `authorize` adds another key.
    """

    def __init__(
        self,
        directory: Path,
        *,
        options: Mapping[str, str] | None = None,
        client: KeyPair | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        super().__init__(directory / "sshd.log", ready="Server listening on")
        self.host = host
        self.port = port or free_port(host)
        self.user = user_name()
        self.options = dict(options or {})
        self._directory = directory
        keys = Keys(directory)
        self.client = client or keys.make("client")
        self.host_key = keys.make("host")
        self.known_hosts = directory / "known_hosts"
        self.authorized_keys = directory / "authorized_keys"
        self.known_hosts.write_text(f"[{self.host}]:{self.port} {self.host_public_key}\n")
        self.authorize(self.client)

    def __repr__(self) -> str:
        return f"Sshd({self.host}:{self.port})"

    @property
    def client_key(self) -> Path:
        """The authorized private key."""
        return self.client.private

    @property
    def host_public_key(self) -> str:
        """`ssh-ed25519 AAAA...`, as for `hostKeys:`."""
        return " ".join(self.host_key.public_line.split()[:2])

    def authorize(self, key: KeyPair, *, restrictions: str = "") -> None:
        """Authorize another key, with authorized_keys options (`permitopen="..."`) if given."""
        with self.authorized_keys.open("a") as file:
            file.write(f"{restrictions} {key.public_line}\n".lstrip())
        self.authorized_keys.chmod(0o600)

    def change_host_key(self) -> None:
        """Use another host key from the next start on. known_hosts keeps the old one, as after a reinstallation."""
        self.host_key = Keys(self._directory).make("host")

    def command(self) -> list[str]:
        _make_privilege_separation_directory()
        config = self._directory / "sshd_config"
        config.write_text("".join(f"{key} {value}\n" for key, value in self._configuration().items()))
        return tied_to_parent([sshd_binary(), "-D", "-e", "-f", str(config)])

    def _configuration(self) -> dict[str, str]:
        address = f"[{self.host}]" if ":" in self.host else self.host
        defaults = {
            "ListenAddress": f"{address}:{self.port}",
            "HostKey": str(self.host_key.private),
            "AuthorizedKeysFile": str(self.authorized_keys),
            "PidFile": "none",
            "LogLevel": "VERBOSE",
            "UsePAM": "no",
            "UseDNS": "no",
            "StrictModes": "no",
            "PermitRootLogin": "yes",
            "PasswordAuthentication": "no",
            "KbdInteractiveAuthentication": "no",
            "AllowTcpForwarding": "yes",
            "AllowStreamLocalForwarding": "yes",
            "MaxStartups": "10000",
            "MaxSessions": "10000",
            "PrintMotd": "no",
        }
        if sshd_takes("PerSourcePenalties=no"):
            # Tests fail to log in on purpose, all from one address.
            defaults["PerSourcePenalties"] = "no"
        # The test's options replace the defaults. A `Match` block must be last, and is.
        return defaults | self.options
