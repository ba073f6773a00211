"""A network of its own for a server, so that its packets can be lost: a real blackhole, for root only."""

import itertools
import os
import shutil
import subprocess
from pathlib import Path
from typing import Self

from support.sshd import Sshd

_numbers = itertools.count(1)
PORT = 2222  # the namespace is the server's alone: any port is free there


class Namespace:
    """Two ends of a cable: `here`, an address of this machine, and `there`, of a network namespace."""

    def __init__(self) -> None:
        number = os.getpid() % 250
        # The kernel takes a namespace apart some time after it was deleted: the next one needs names of its own.
        unique = f"{os.getpid()}-{next(_numbers)}"
        self.name = f"tunnels-{unique}"
        self.here, self.there = f"10.213.{number}.1", f"10.213.{number}.2"
        self._device = f"tu{unique}"

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
        # The cable first: its address here must be gone when the next one is laid. It may not have come about.
        subprocess.run(["ip", "link", "del", self._device], capture_output=True, check=False)
        _run("ip", "netns", "del", self.name)


class SshdThere(Sshd):
    """sshd in a namespace, reached at its far end."""

    def __init__(self, directory: Path, namespace: Namespace) -> None:
        super().__init__(directory, host=namespace.there, port=PORT)
        self._namespace = namespace

    def command(self) -> list[str]:
        return ["ip", "netns", "exec", self._namespace.name, *super().command()]


def _run(*command: str) -> None:
    ran = subprocess.run(command, check=False, capture_output=True, text=True)
    assert ran.returncode == 0, f"{' '.join(command)}: {ran.stderr.strip()}"
