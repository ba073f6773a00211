"""The `fuzz` fixture: a fixed set of inputs in the suite, or as many inputs as fit into FUZZ_SECONDS."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from fuzz.driver import Fuzz

SECONDS = float(os.environ.get("FUZZ_SECONDS", "0"))
_TIMEOUT_BEYOND = 300.0  # seconds, mostly for shrinking a failing input

_figures: list[str] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Divide the seconds evenly among the tests."""
    targets = [item for item in items if "fuzz" in getattr(item, "fixturenames", ())]
    for item in targets:
        item.stash[_SHARE] = SECONDS / len(targets)
        if SECONDS:
            item.add_marker(pytest.mark.timeout(SECONDS / len(targets) + _TIMEOUT_BEYOND))


_SHARE = pytest.StashKey[float]()


@pytest.fixture
def fuzz(request: pytest.FixtureRequest) -> Iterator[Fuzz]:
    """Run a check on generated inputs with `Fuzz.run`."""
    made = Fuzz(request.node.stash.get(_SHARE, 0.0))
    yield made
    _figures.extend(f"{request.node.name}: {figure}" for figure in made.figures)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if SECONDS and _figures:
        terminalreporter.section("fuzzing")
        for figure in _figures:
            terminalreporter.write_line(figure)
