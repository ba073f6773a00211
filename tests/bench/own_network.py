"""Runs a benchmark in a network namespace of its own, with Linux's default TCP congestion control.

Over loopback, BBR measures its own pacing: it costs all programs a fifth to a third of their rate, and those with few
large reads the most. A namespace has its own setting, and no other traffic.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

USUAL = "cubic"
MACHINES = "machine"  # the machine's own network and setting
_SETTING = Path("/proc/sys/net/ipv4/tcp_congestion_control")
_INSIDE = "BENCH_IN_NAMESPACE"
_SCRIPT = 'ip link set lo up && sysctl -qw net.ipv4.tcp_congestion_control="$0" && exec "$@"'


def congestion_control() -> str:
    """Return the TCP congestion control that is in use here."""
    return _SETTING.read_text().strip() if _SETTING.exists() else "unknown"


def enter(wanted: str) -> None:
    """Run this program again in a namespace with this congestion control. Returns there, or if it is not possible."""
    if wanted == MACHINES or os.environ.get(_INSIDE) or not _possible():
        return
    os.environ[_INSIDE] = "1"
    program = [sys.executable, "-m", "bench", *sys.argv[1:]]
    command = ["unshare", "--net", "sh", "-c", _SCRIPT, wanted, *program]
    os.execvp(command[0], command)  # noqa: S606 - the arguments are those of this program


def _possible() -> bool:
    tools = all(shutil.which(name) for name in ("unshare", "ip", "sysctl"))
    return tools and subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False).returncode == 0
