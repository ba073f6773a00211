"""Raising the limit of open files, and starting child processes with the original one."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from reconciler.system import descriptors

INFINITE = resource.RLIM_INFINITY


class Limits:
    """Simulated limits of a system that refuses more than `most`, whatever the hard limit is (as macOS does)."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, most: int) -> None:
        self.now = soft, hard
        self._most = most
        monkeypatch.setattr(descriptors, "_original", None)
        monkeypatch.setattr(resource, "getrlimit", lambda _which: self.now)
        monkeypatch.setattr(resource, "setrlimit", self._set)

    def _set(self, _which: int, wanted: tuple[int, int]) -> None:
        if wanted[0] > self._most:
            raise ValueError("current limit exceeds maximum limit")
        self.now = wanted


@pytest.mark.parametrize(
    ("soft", "hard", "most", "raised"),
    [
        (1024, 4096, 1 << 30, 4096),
        (1024, 1024, 1 << 30, 1024),
        (1024, 1 << 30, 1 << 30, 1 << 20),
        (256, INFINITE, 1 << 30, 1 << 20),
        (256, INFINITE, 245_760, 65_536),  # macOS: kern.maxfilesperproc
        (256, INFINITE, 12_000, 10_240),
        (256, INFINITE, 300, 256),
        (1 << 22, 1 << 30, 1 << 30, 1 << 22),  # more than HIGHEST: unchanged
    ],
)
def test_the_soft_limit_is_raised_as_far_as_possible(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, most: int, raised: int
) -> None:
    limits = Limits(monkeypatch, soft, hard, most)
    assert descriptors.raise_soft_limit() == min(raised, descriptors.HIGHEST)
    assert limits.now == (raised, hard)
    assert descriptors.raise_soft_limit() == min(raised, descriptors.HIGHEST), "a second time changes nothing"
    wrapped = descriptors.with_given_limit(["sh"], {"PATH": "/bin"})
    assert wrapped == ("sh",) if raised == soft else str(soft) in wrapped


def test_a_started_program_has_its_own_arguments_environment_and_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descriptors, "_original", 123)
    environ = {"PATH": "/usr/bin:/bin", "a.b": "c d"}
    soft = "resource.getrlimit(resource.RLIMIT_NOFILE)[0]"
    show = f"import os, resource, sys; print({soft}, sys.argv[1:], os.environ.get('a.b')); sys.exit(9)"
    command = [sys.executable, "-c", show, "", "a b", "-x"]
    ran = subprocess.run(
        descriptors.with_given_limit(command, environ), env=environ, capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (9, "123 ['', 'a b', '-x'] c d\n", "")


@pytest.mark.parametrize(
    ("program", "error"),
    [("no-such-program", FileNotFoundError), ("./no-such", FileNotFoundError), ("/etc/passwd", PermissionError)],
)
def test_a_program_that_cannot_be_started_raises_as_starting_it_does(
    monkeypatch: pytest.MonkeyPatch, program: str, error: type[OSError]
) -> None:
    monkeypatch.setattr(descriptors, "_original", 123)
    with pytest.raises(error):
        descriptors.with_given_limit([program], {"PATH": "/usr/bin:/bin"})
    with pytest.raises(error):
        subprocess.run([program], env={"PATH": "/usr/bin:/bin"}, check=False)


def test_a_program_that_cannot_run_has_the_exit_code_of_a_shell(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(descriptors, "_original", 123)
    program = tmp_path / "program"
    program.write_text(f"#!{tmp_path}/no-such-interpreter\n")
    program.chmod(0o700)
    command = descriptors.with_given_limit([str(program)], {"PATH": ""})
    assert command[0] == sys.executable
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (127, f"cannot run {program}: No such file or directory\n")
