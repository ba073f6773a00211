"""A running program under attack, and an unrelated tunnel with measured round trips.

The control is the same path without the program: `ssh -L` through the same sshd to the same echo service. On a machine
that has others to serve both are late.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from support.processes import tied_to_parent
from support.sshd import Sshd
from support.tunnels import local, socks, target
from support.wait import WITHIN, fd_count, free_port, rss_bytes

MIB = 1 << 20
RSS_MIB = 48.0  # that any number of inputs may add
_DESCRIPTORS = 8  # of the watcher and the like, which come and go
_SCRIPT = Path(__file__).with_name("echo_beside.py")


@dataclass(frozen=True, slots=True)
class AttackedProgram:
    """The addresses of the program under attack. `echo` is a permitted destination for SOCKS clients."""

    process: subprocess.Popen[bytes]
    log: Path
    http: int
    control: Path
    socks: int
    echo: int
    _judged: list[int]  # length of the log that was checked

    def assert_unharmed(self) -> None:
        """Check that the program runs and has logged no fault since the last call."""
        with self.log.open("rb") as log:
            log.seek(self._judged[0])
            said = log.read().decode("utf-8", "replace")
            self._judged[0] = log.tell()
        assert self.process.poll() is None, f"it has ended:\n{said[-4000:]}"
        assert "Traceback" not in said, said[-6000:]


@contextlib.contextmanager
def attacked_program(sshd: Sshd, directory: Path) -> Iterator[tuple[AttackedProgram, list[str]]]:
    """Run the program during the block. At the end, add a line about the measured round trips to the list."""
    echo, beside, control = free_port(), free_port(), free_port()
    made = _started(sshd, directory, echo, beside)
    figures: list[str] = []
    forward = ["ssh", "-N", "-F", "none", "-p", str(sshd.port), "-i", str(sshd.client_key), "-l", sshd.user]
    forward += ["-o", f"UserKnownHostsFile={sshd.known_hosts}", "-L", f"{control}:127.0.0.1:{echo}", sshd.host]
    with _ended(made.process), _piped([sys.executable, str(_SCRIPT), str(echo)]) as measured, _piped(forward):
        assert measured.stdout is not None
        assert measured.stdout.readline() == b"ready\n"
        for port in (control, beside, made.socks, made.http):
            _until_listening(port)
        _until_ready(made)
        assert measured.stdin is not None
        measured.stdin.write(f"{beside} {control}\n".encode())
        measured.stdin.flush()
        memory, descriptors = rss_bytes(made.process.pid), fd_count(made.process.pid)
        yield made, figures
        made.assert_unharmed()
        out, _ = measured.communicate(timeout=WITHIN)
        assert measured.returncode == 0, "the tunnel beside was cut"
        times = json.loads(out)
        _judge(times["tunnel"], times["control"], figures)
        _until_released(made.process.pid, descriptors + _DESCRIPTORS)
        grown = (rss_bytes(made.process.pid) - memory) / MIB
        figures.append(f"it grew by {grown:.1f} MiB")
        assert grown < RSS_MIB, f"it grew by {grown:.0f} MiB"
        made.process.send_signal(signal.SIGTERM)
        assert made.process.wait(WITHIN) == 0
        assert "Traceback" not in _log_text(made)


def _started(sshd: Sshd, directory: Path, echo: int, beside: int) -> AttackedProgram:
    file, log, control = directory / "tunnels.yaml", directory / "program.log", directory / "control.sock"
    proxy, http = free_port(), free_port()
    text = "targets:\n" + target(sshd, "beside") + local("echo", beside, echo)
    text += target(sshd, "attacked") + socks("socks", proxy, drainTimeout="0s") + local("local", free_port(), echo)
    file.write_text(text)
    command = [sys.executable, "-m", "reconciler", "run", str(file), "--listen", f"127.0.0.1:{http}"]
    command += ["--control", str(control)]
    with log.open("ab") as out:
        process = subprocess.Popen(
            tied_to_parent(command), stdin=subprocess.DEVNULL, stdout=out, stderr=out, env={"HOME": str(directory)}
        )
    return AttackedProgram(process, log, http, control, proxy, echo, [0])


def _log_text(made: AttackedProgram) -> str:
    return made.log.read_text(errors="replace")


@contextlib.contextmanager
def _ended(process: subprocess.Popen[bytes]) -> Iterator[None]:
    try:
        yield
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def _piped(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process. Kill it at the end of the block."""
    with subprocess.Popen(tied_to_parent(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def _wait(condition: Callable[[], bool], message: str) -> None:
    deadline = time.monotonic() + WITHIN
    while not condition():
        assert time.monotonic() < deadline, f"not within {WITHIN:g} s: {message}"
        time.sleep(0.01)


def _until_listening(port: int) -> None:
    def listening() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    _wait(listening, f"a listener on port {port}")


def _until_ready(made: AttackedProgram) -> None:
    def ready() -> bool:
        with socket.create_connection(("127.0.0.1", made.http)) as client:
            client.sendall(b"GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
            return client.recv(65536).startswith(b"HTTP/1.1 200")

    _wait(ready, "its tunnels are up")


def _until_released(pid: int, descriptors: int) -> None:
    _wait(lambda: fd_count(pid) <= descriptors, f"it has {descriptors} descriptors or fewer, as before")


def _judge(tunnel: list[float], control: list[float], figures: list[str]) -> None:
    """Compare with the control path, which a slow machine delays as well."""
    worst, control_worst = max(tunnel), max(control)
    late = sum(time > 0.1 for time in tunnel)
    ordered = sorted(tunnel)
    figures.append(
        f"echo beside it: {len(tunnel)} round trips, median {1000 * ordered[len(ordered) // 2]:.1f} ms, "
        f"at most {1000 * worst:.0f} ms, {late} over 100 ms (control, ssh -L: at most {1000 * control_worst:.0f} ms, "
        f"{sum(time > 0.1 for time in control)} over 100 ms)"
    )
    if float(os.environ.get("FUZZ_SECONDS", "0")):  # no timed assertions in the suite
        assert worst < 1.0 + 5 * control_worst, figures[-1]
