"""Builds the wheel and the source archive of this checkout, and installs the wheel as users do."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
URL = "https://git.example.com/team/tunnels"
_OFFLINE = ("--no-index", "--no-deps")
_WITHIN = 200  # seconds


def run(*command: str | Path, cwd: Path = ROOT, extra: Mapping[str, str] | None = None) -> str:
    """Run a command without variables of this run's Python and pytest, and return its output."""
    environ = own_environ() | {"PROJECT_URL": ""} | dict(extra or {})
    done = subprocess.run(command, env=environ, cwd=cwd, capture_output=True, text=True, check=False, timeout=_WITHIN)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def own_environ() -> dict[str, str]:
    """Return the environment variables without those of this run's Python and pytest."""
    ours = ("PYTHON", "PYTEST", "TUNNELS_")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """Return a directory that `make` fills, once for all processes of pytest-xdist."""
    base = factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    directory, done = base / name, base / f"{name}.done"
    with (base / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir()
            make(directory)
            done.touch()
    return directory


@dataclass(frozen=True, slots=True)
class Packages:
    """The wheel and source archive of this checkout, the unpacked archive, and the wheel that is built from it."""

    wheel: Path
    archive: Path
    unpacked: Path
    rebuilt: Path

    @classmethod
    def of(cls, directory: Path) -> Packages:
        """Return the packages that `build` left in the directory."""
        (wheel,), (archive,) = directory.glob("*.whl"), directory.glob("*.tar.gz")
        (rebuilt,) = (directory / "rebuilt").glob("*.whl")
        return cls(wheel, archive, directory / archive.name.removesuffix(".tar.gz"), rebuilt)


def build(directory: Path) -> None:
    """Build as a release does: with the address of a repository, which the second wheel has from the archive."""
    run(sys.executable, "-m", "hatchling", "build", "--directory", directory, extra={"PROJECT_URL": URL})
    (archive,) = directory.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        opened.extractall(directory, filter="data")
    wheel = ("wheel", "--no-build-isolation", *_OFFLINE, "--wheel-dir", directory / "rebuilt", archive)
    run(sys.executable, "-m", "pip", "--disable-pip-version-check", "--isolated", *wheel)


def _constraints(directory: Path) -> Path:
    """Write the versions of requirements/run.txt without their hashes, which a wheel from a file cannot have."""
    constraints = directory / "constraints.txt"
    locked = re.findall(r"^([^\s#].*?) \\$", (ROOT / "requirements/run.txt").read_text(), re.MULTILINE)
    constraints.write_text("\n".join(locked) + "\n")
    return constraints


def install_with_pip(directory: Path, wheel: Path) -> None:
    """Install the wheel and its dependencies from the index into a new environment."""
    venv.create(directory, symlinks=True)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", directory / "bin" / "python")
    run(*pip, "install", "--no-compile", "--constraint", _constraints(directory), wheel)
    run(*pip, "check")


def install_with_pipx(directory: Path, wheel: Path) -> None:
    """Install the wheel and its dependencies with pipx. The commands are in `bin`."""
    places = {
        "PIPX_HOME": str(directory),
        "PIPX_BIN_DIR": str(directory / "bin"),
        "PIPX_MAN_DIR": str(directory / "man"),
    }
    options = f"--no-compile --constraint {_constraints(directory)}"
    run(sys.executable, "-m", "pipx", "install", f"--pip-args={options}", wheel, extra=places)
