"""The figures of a run: values, medians, and the JSON file that `make bench-compare` reads."""

from __future__ import annotations

import json
import os
import platform
import shutil
import statistics
import subprocess
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from bench.own_network import congestion_control

OURS, REFERENCE = "tunnels", "ssh"


@dataclass(frozen=True, slots=True)
class Key:
    """What was measured: of which program, in which case."""

    measurement: str
    case: str
    unit: str
    program: str
    more_is_better: bool = False


@dataclass(frozen=True, slots=True)
class Figure:
    """The values of all rounds of one measurement."""

    key: Key
    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)


class Figures:
    """All figures of a run, in the order in which they were first recorded."""

    def __init__(self, facts: dict[str, str]) -> None:
        self.facts = facts  # machine, versions, command
        self._values: dict[Key, list[float]] = {}

    def __iter__(self) -> Iterator[Figure]:
        return (Figure(key, tuple(values)) for key, values in self._values.items())

    def add(self, key: Key, value: float) -> None:
        self._values.setdefault(key, []).append(value)

    def save(self, path: Path) -> None:
        figures = [asdict(figure.key) | {"values": figure.values} for figure in self]
        path.write_text(json.dumps({"facts": self.facts, "figures": figures}, indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> Figures:
        stored = json.loads(path.read_text())
        loaded = cls(stored["facts"])
        for figure in stored["figures"]:
            values = figure.pop("values")
            loaded._values[Key(**figure)] = values
        return loaded


def facts(command: str) -> dict[str, str]:
    """Return the facts without which figures mean nothing: machine, versions, command."""
    ssh = subprocess.run(["ssh", "-V"], capture_output=True, text=True, check=False).stderr.strip()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "command": command,
        "processor": f"{os.cpu_count()} x {_processor()}",
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "congestion control": congestion_control(),
        "python": platform.python_version(),
        "ssh": ssh,
        "autossh": "installed" if shutil.which("autossh") else "not installed: left out",
        **{name: metadata.version(name) for name in ("asyncssh", "cryptography")},
        "commit": commit.stdout.strip() or "unknown",
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
