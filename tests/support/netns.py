"""A network namespace for a server, so that tests can drop its packets. Needs root."""

import itertools
import os
import shutil
import subprocess
from pathlib import Path
from typing import Self

from support.network_changes import changes
from support.sshd import Sshd

_numbers = itertools.count(1)
PORT = 2222  # every port is free in the server's own namespace


class Namespace:
    """A veth pair: `here` is an address of this machine, `there` is an address in a network namespace."""

    def __init__(self) -> None:
        number = os.getpid() % 250
        # The kernel removes a namespace some time after its deletion, so each one has unique names.
        unique = f"{os.getpid()}-{next(_numbers)}"
        self.name = f"tunnels-{unique}"
        self.here, self.there = f"10.213.{number}.1", f"10.213.{number}.2"
        self._device = f"tu{unique}"

    @staticmethod
    def possible() -> bool:
        """Return True if this process may create a network namespace."""
        if os.geteuid() != 0 or shutil.which("ip") is None:
            return False
        probe = f"tunnels-probe-{os.getpid()}"
        made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, check=False).returncode == 0
        subprocess.run(["ip", "netns", "del", probe], capture_output=True, check=False)
        return made

    def blackhole(self) -> None:
        """Drop every packet from the namespace, acknowledgements included."""
        self._inside("ip", "route", "add", "blackhole", f"{self.here}/32")

    def restore(self) -> None:
        self._inside("ip", "route", "del", "blackhole", f"{self.here}/32")

    def drop_connection(self, port: int) -> None:
        """Drop every packet to this port of this machine: those of one connection."""
        self._inside("ip", "rule", "add", *self._connection(port))

    def restore_connection(self, port: int) -> None:
        self._inside("ip", "rule", "del", *self._connection(port))

    def _connection(self, port: int) -> tuple[str, ...]:
        return "pref", "1", "to", self.here, "ipproto", "tcp", "dport", str(port), "blackhole"

    def _inside(self, *command: str) -> None:
        _run("ip", "netns", "exec", self.name, *command)

    def __enter__(self) -> Self:
        _run("ip", "netns", "add", self.name)
        try:
            with changes():
                self._connect()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _connect(self) -> None:
        _run("ip", "link", "add", self._device, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        _run("ip", "address", "add", f"{self.here}/30", "dev", self._device)
        _run("ip", "link", "set", self._device, "up")
        self._inside("ip", "address", "add", f"{self.there}/30", "dev", "eth0")
        self._inside("ip", "link", "set", "eth0", "up")
        self._inside("ip", "link", "set", "lo", "up")

    def __exit__(self, *_: object) -> None:
        with changes():
            # The veth pair first: the next one needs its address. It may not exist, so errors are ignored.
            subprocess.run(["ip", "link", "del", self._device], capture_output=True, check=False)
            _run("ip", "netns", "del", self.name)


class SshdThere(Sshd):
    """sshd in a network namespace."""

    def __init__(self, directory: Path, namespace: Namespace) -> None:
        super().__init__(directory, host=namespace.there, port=PORT)
        self._namespace = namespace

    def command(self) -> list[str]:
        return ["ip", "netns", "exec", self._namespace.name, *super().command()]


def _run(*command: str) -> None:
    ran = subprocess.run(command, check=False, capture_output=True, text=True)
    assert ran.returncode == 0, f"{' '.join(command)}: {ran.stderr.strip()}"
