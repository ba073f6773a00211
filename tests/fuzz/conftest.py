"""The `fuzz` fixture: a fixed, reproducible set of inputs in the suite; with FUZZ_SECONDS as many as fit into them."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from fuzz.driver import Fuzz

SECONDS = float(os.environ.get("FUZZ_SECONDS", "0"))
_TIMEOUT_BEYOND = 300.0  # seconds, of which most are for a failing input to be made smaller

_figures: list[str] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Spread the seconds evenly over the targets."""
    targets = [item for item in items if "fuzz" in getattr(item, "fixturenames", ())]
    for item in targets:
        item.stash[_SHARE] = SECONDS / len(targets)
        if SECONDS:
            item.add_marker(pytest.mark.timeout(SECONDS / len(targets) + _TIMEOUT_BEYOND))


_SHARE = pytest.StashKey[float]()


@pytest.fixture
def fuzz(request: pytest.FixtureRequest) -> Iterator[Fuzz]:
    """Runs a check on generated inputs; see `Fuzz.run`."""
    made = Fuzz(request.node.stash.get(_SHARE, 0.0))
    yield made
    _figures.extend(f"{request.node.name}: {figure}" for figure in made.figures)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if SECONDS and _figures:
        terminalreporter.section("fuzzing")
        for figure in _figures:
            terminalreporter.write_line(figure)
