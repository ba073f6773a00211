"""A container's conditions: a uid without a name, no HOME, a read-only root, no /tmp, no capabilities.

A share of the integration tests runs under them here; `make container-test` runs all of them.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support import container
from support.processes import tied_to_parent

ROOT = Path(__file__).parents[2]
WITHIN = 300.0  # seconds, ten times the usual
SCENARIOS = [
    "tests/integration/test_local_forward.py::test_either_side_may_send_eof_first_and_still_receive",
    "tests/integration/test_local_forward.py::test_psql_works_through_a_local_forward",
    "tests/integration/test_run.py",
    "tests/integration/test_home_directory.py",
]
# Every command that may run on a read-only machine, and its exit code there.
_COMMANDS = r"""
cd /
unset TMPDIR
mkdir "$PYTEST_DEBUG_TEMPROOT/bin-with-compiler" && ln -s /bin/false "$PYTEST_DEBUG_TEMPROOT/bin-with-compiler/gcc"
PATH="$PYTEST_DEBUG_TEMPROOT/bin-with-compiler:$PATH"
file="$PYTEST_DEBUG_TEMPROOT/tunnels.yaml"
printf 'targets:\n  a: {host: 127.0.0.1, port: 1, user: u, password: p, tunnels: [{local: "0:h:1"}]}\n' >"$file"
tunnels() { echo "== $1"; "$PYTHON" -m reconciler "$@" 2>&1; echo "-- $?"; }
export PYTHONPATH="$ROOT"
tunnels status
tunnels wait --timeout 0s
tunnels events
tunnels connections
tunnels reload
tunnels pause a
tunnels schema
tunnels check "$file"
tunnels plan "$file"
tunnels trust "$file"
tunnels import -- ssh -L 1:h:2 u@h
tunnels demo --exit-after 1s
tunnels run --listen none "$file" -- true --timeout 1s
"""


@pytest.fixture(autouse=True)
def possible() -> None:
    if problem := container.why_not():
        pytest.skip(problem)


def ran(*words: str) -> subprocess.CompletedProcess[str]:
    command = tied_to_parent(container.command(*words))
    environ = {**os.environ, "PYTHON": sys.executable, "ROOT": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=WITHIN, env=environ)


def test_the_conditions_are_those_of_a_container() -> None:
    said = ran("sh", "-c", "id -un; touch /tmp/x; touch /x; echo ~; env; grep Cap /proc/self/status").stdout
    assert "HOME=" not in said
    assert {line.split()[1] for line in said.splitlines() if line.startswith("Cap")} == {"0" * 16}
    assert not Path("/x").exists()


def test_every_command_works_or_reports_what_is_missing() -> None:
    done = ran("sh", "-c", f"PYTHON={sys.executable} ROOT={ROOT}\n{_COMMANDS}")
    ended = {part.partition("\n")[0]: part for part in done.stdout.split("== ") if part}
    assert "Traceback" not in done.stdout, done.stdout[-4000:]
    codes = {name: int(part.rpartition("-- ")[2]) for name, part in ended.items()}
    works = dict.fromkeys(["schema", "check", "plan", "import"], 0)
    nothing_there = dict.fromkeys(["wait", "events", "connections", "reload", "pause", "trust", "run"], 1)
    assert codes == works | nothing_there | {"status": 3, "demo": 1}
    assert "set TMPDIR" in ended["demo"]
    assert "is writable" in ended["run"]


@pytest.mark.timeout(WITHIN + 60)
def test_the_main_scenarios_pass() -> None:
    pytest_command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:hypothesispytest"]
    done = ran(*pytest_command, *SCENARIOS)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
