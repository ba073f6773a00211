"""A network of its own for a server, so that its packets can be lost: a real blackhole, for root only."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Self

from support.sshd import Sshd

PORT = 2222  # the namespace is the server's alone: any port is free there


class Namespace:
    """Two ends of a cable: `here`, an address of this machine, and `there`, of a network namespace."""

    def __init__(self) -> None:
        number = os.getpid() % 250
        self.name = f"tunnels-{os.getpid()}"
        self.here, self.there = f"10.213.{number}.1", f"10.213.{number}.2"
        self._device = f"tun{os.getpid()}"

    @staticmethod
    def possible() -> bool:
        """Whether this process may make one."""
        if os.geteuid() != 0 or shutil.which("ip") is None:
            return False
        probe = f"tunnels-probe-{os.getpid()}"
        made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, check=False).returncode == 0
        subprocess.run(["ip", "netns", "del", probe], capture_output=True, check=False)
        return made

    def blackhole(self) -> None:
        """Nothing comes back from there any more, not even an acknowledgement."""
        self._inside("ip", "route", "add", "blackhole", f"{self.here}/32")

    def restore(self) -> None:
        self._inside("ip", "route", "del", "blackhole", f"{self.here}/32")

    def _inside(self, *command: str) -> None:
        _run("ip", "netns", "exec", self.name, *command)

    def __enter__(self) -> Self:
        _run("ip", "netns", "add", self.name)
        try:
            _run("ip", "link", "add", self._device, "type", "veth", "peer", "name", "eth0", "netns", self.name)
            _run("ip", "address", "add", f"{self.here}/30", "dev", self._device)
            _run("ip", "link", "set", self._device, "up")
            self._inside("ip", "address", "add", f"{self.there}/30", "dev", "eth0")
            self._inside("ip", "link", "set", "eth0", "up")
            self._inside("ip", "link", "set", "lo", "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        _run("ip", "netns", "del", self.name)


class SshdThere(Sshd):
    """sshd in a namespace, reached at its far end."""

    def __init__(self, directory: Path, namespace: Namespace) -> None:
        super().__init__(directory, host=namespace.there, port=PORT)
        self._namespace = namespace

    def command(self) -> list[str]:
        return ["ip", "netns", "exec", self._namespace.name, *super().command()]


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)
