"""Builds the image of the Dockerfile as root, without a container engine and without a registry.

The base is a root of packages of Debian 12 with its Python. The packages are only unpacked, because a Python program
needs no configured system. buildah runs the build with its chroot isolation, in a storage of its own. The build needs
the package indexes of Debian and Python, and uses the pip configuration of this machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
_BASE = "localhost/debian-python:test"
_NAME = "localhost/tunnel-reconciler"
# The shell and its commands, Python as the Dockerfile calls it, and setpriv.
_PACKAGES = ("base-files", "base-passwd", "coreutils", "dash", "util-linux", "python3-venv", "python-is-python3")
_PROGRAMS = {"buildah": "buildah", "mmdebstrap": "mmdebstrap", "make": "make"}
# The index may be another one, with a certificate that only this machine trusts.
_HOST_FILES = ("/etc/pip.conf", "/etc/ssl/certs")
_WITHIN = 600.0  # seconds


@dataclass(frozen=True, slots=True)
class Image:
    """A built image: its root directory, and its configuration in the form of Docker's image specification."""

    root: Path
    config: dict[str, Any]


def why_not() -> str:
    """Return why this machine cannot build the image, or ""."""
    if os.geteuid() != 0:
        return "needs root, to build an image"
    missing = [package for program, package in _PROGRAMS.items() if shutil.which(program) is None]
    return f"not installed: {', '.join(missing)}" if missing else ""


@contextlib.contextmanager
def built(version: str) -> Iterator[Image]:
    """Build the image of this version, and remove it at the end."""
    with tempfile.TemporaryDirectory(prefix="tunnels-image-") as temporary:
        directory = Path(temporary)
        configuration = directory / "storage.conf"
        configuration.write_text(
            f'[storage]\ndriver = "vfs"\ngraphroot = "{directory}/storage"\nrunroot = "{directory}/run"\n'
        )
        environ = {
            **os.environ,
            "BUILDAH_ISOLATION": "chroot",
            "CONTAINERS_STORAGE_CONF": str(configuration),
            "TMPDIR": temporary,
        }

        def run(*command: str | Path) -> str:
            done = subprocess.run(
                command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False, timeout=_WITHIN
            )
            assert done.returncode == 0, done.stdout + done.stderr
            return done.stdout.strip()

        container = run("buildah", "from", "scratch")
        options = ("--variant=extract", '--aptopt=APT::Install-Recommends "false"', f"--include={','.join(_PACKAGES)}")
        run("mmdebstrap", "--quiet", *options, "bookworm", run("buildah", "mount", container))
        run("buildah", "commit", "--quiet", "--rm", container, _BASE)
        volumes = [f"--volume {path}:{path}:ro" for path in _HOST_FILES if Path(path).exists()]
        arguments = f"--build-arg BASE={_BASE} {' '.join(volumes)}"
        run("make", "image", "ENGINE=buildah", f"IMAGE={_NAME}", f"ARGS={arguments}")
        described = json.loads(run("buildah", "inspect", "--type", "image", f"{_NAME}:{version}"))
        container = run("buildah", "from", f"{_NAME}:{version}")
        yield Image(Path(run("buildah", "mount", container)), described["Docker"]["config"])
