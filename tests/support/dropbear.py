"""A real Dropbear server on loopback. Its remote forwards behave differently from OpenSSH's."""

import os
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from support.container import is_entered, passwd_entry, user_name
from support.keys import KeyPair, Keys
from support.processes import ServerProcess, tied_to_parent
from support.wait import free_port


class DropbearUnavailableError(Exception):
    """Dropbear is not installed, or the test cannot give it its own home directory."""


@cache
def dropbear_binary() -> str:
    found = shutil.which("dropbear", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if found is None:
        raise DropbearUnavailableError("dropbear is not installed (Debian: dropbear-bin)")
    return found


@cache
def _takes_authorized_keys_directory() -> bool:
    """Return True if Dropbear has the option `-D` (since 2024.86)."""
    usage = subprocess.run([dropbear_binary(), "--help"], capture_output=True, text=True, check=False)
    return "\n-D " in usage.stdout + usage.stderr


class Dropbear(ServerProcess):
    """Dropbear with one authorized key. A restart keeps the port. `options` are additional arguments."""

    def __init__(
        self, directory: Path, *, options: Sequence[str] = (), client: KeyPair | None = None, port: int = 0
    ) -> None:
        super().__init__(directory / "dropbear.log", ready="Not backgrounding")
        self.host = "127.0.0.1"
        self.port = port or free_port()
        self.user = user_name()
        self.options = list(options)
        self._home = directory / "home"
        self._ssh_directory = self._home / ".ssh"
        self._ssh_directory.mkdir(parents=True, exist_ok=True)
        # Dropbear refuses keys in a directory that other users may write to.
        for private in (self._home, self._ssh_directory):
            private.chmod(0o700)
        self._passwd = directory / "passwd"
        self._host_key = directory / "dropbear_host_key"
        self.client = client or Keys(directory).make("client")
        self.host_public_key = self._make_host_key()
        self.known_hosts = directory / "known_hosts"
        self.known_hosts.write_text(f"[{self.host}]:{self.port} {self.host_public_key}\n")
        self.authorize(self.client)

    def __repr__(self) -> str:
        return f"Dropbear({self.host}:{self.port})"

    @property
    def client_key(self) -> Path:
        return self.client.private

    def authorize(self, key: KeyPair) -> None:
        authorized = self._ssh_directory / "authorized_keys"
        with authorized.open("a") as file:
            file.write(key.public_line + "\n")
        authorized.chmod(0o600)

    def _make_host_key(self) -> str:
        if not self._host_key.exists():
            make = ["dropbearkey", "-t", "ed25519", "-f", str(self._host_key)]
            subprocess.run(make, check=True, capture_output=True)
        show = ["dropbearkey", "-y", "-f", str(self._host_key)]
        shown = subprocess.run(show, check=True, capture_output=True, text=True).stdout
        line = next(line for line in shown.splitlines() if line.startswith("ssh-ed25519 "))
        return " ".join(line.split()[:2])

    def command(self) -> list[str]:
        server = [dropbear_binary(), "-F", "-E", "-s", "-m", "-P", str(self._home / "dropbear.pid")]
        server += ["-p", f"{self.host}:{self.port}", "-r", str(self._host_key), *self.options]
        if _takes_authorized_keys_directory():
            return tied_to_parent([*server, "-D", str(self._ssh_directory)])
        return self._with_own_home(tied_to_parent(server))

    def _with_own_home(self, server: list[str]) -> list[str]:
        """Return a command that runs the server with another passwd file, in a mount namespace.

        Older versions read ~/.ssh of the account, and only the passwd file says where that is.
        """
        self._passwd.write_text(passwd_entry(self._home))
        if is_entered():
            return ["env", f"NSS_WRAPPER_PASSWD={self._passwd}", *server]
        unshare = ["unshare", "--mount"]
        if os.geteuid() != 0:
            unshare += ["--user", "--map-current-user", "--keep-caps"]
        mount = f"mount --bind {shlex.quote(str(self._passwd))} /etc/passwd"
        if subprocess.run([*unshare, "sh", "-c", mount], check=False, capture_output=True).returncode != 0:
            raise DropbearUnavailableError("no mount namespaces here, which a Dropbear before 2024.86 needs")
        # The parent's death signal is set last: the kernel forgets it when credentials change.
        return [*unshare, "sh", "-c", f"{mount} && exec {shlex.join(server)}"]
