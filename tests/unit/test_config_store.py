"""A file with very many errors: the first are reported, at little cost for the event loop."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.config.load import Config, load_text
from reconciler.config.problem import Problem
from reconciler.config.syntax.yaml_reader import MAX_PROBLEMS
from reconciler.report.events import Event
from reconciler.runtime.config_store import ConfigStore

HEAD = "targets:\n  a:\n    host: a\n    user: u\n    agent: true\n"
MISTAKES = {
    "an anchor each": "targets:\n" + "".join(f"  a{n}: &a{n} {{host: a}}\n" for n in range(400)),
    "an unknown key each": HEAD + "".join(f"    key{n}: 1\n" for n in range(400)),
    "a variable each": HEAD + "".join(f"    v{n}: '${{'\n" for n in range(400)),
    "a jump host each": "targets:\n" + "".join(f"  a{n}: {{host: a, jumpHost: b{n}}}\n" for n in range(400)),
    "an address each": f"{HEAD}    tunnels:\n" + "".join(f"    - {{name: t{n}, local: '1:h:1'}}\n" for n in range(400)),
}


@pytest.mark.parametrize("text", MISTAKES.values(), ids=list(MISTAKES))
def test_very_many_errors_are_cut_with_a_note(text: str) -> None:
    *first, last = load_text(text).errors
    assert len(first) == MAX_PROBLEMS
    assert [problem.line for problem in first] == sorted(problem.line for problem in first)
    assert str(last) == "tunnels.yaml: more than 100 problems: fix these to see the others"


def test_very_many_warnings_are_limited_too() -> None:
    text = "targets:\n" + "".join(f"  a{n}: {{host: a, user: u, password: x}}\n" for n in range(400))
    loaded = load_text(text)
    assert loaded.valid
    assert len(loaded.desired.targets) == 400
    assert len(loaded.warnings) == MAX_PROBLEMS + 1


def test_the_limit_is_per_file(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(MISTAKES["an unknown key each"])
    (tmp_path / "b.yaml").write_text("targets: {b: {hots: b}}")
    loaded = Config([tmp_path], environ={}).reload()
    assert [problem.file for problem in loaded.errors] == [str(tmp_path / "a.yaml")] * 101 + [str(tmp_path / "b.yaml")]


async def test_reporting_problems_takes_linear_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Problems are compared in the event loop: quadratic time would stall the relays."""
    file = tmp_path / "tunnels.yaml"
    file.write_text(MISTAKES["an unknown key each"])
    events: list[Event] = []
    store = ConfigStore(Config([file], environ={}), events.append)
    await store.load()
    compared = 0
    equal = Problem.__eq__

    def counting(one: Problem, other: object) -> bool:
        nonlocal compared
        compared += 1
        return equal(one, other)

    file.write_text(MISTAKES["an unknown key each"] + "# saved again\n")
    monkeypatch.setattr(Problem, "__eq__", counting)
    loaded = await store.load()
    assert len(loaded.errors) == MAX_PROBLEMS + 1
    assert compared < 10 * MAX_PROBLEMS
    logged = [record for record in caplog.records if record.levelname == "ERROR"]
    assert len(logged) == len(loaded.errors), "each problem is logged once, when it is new"
    assert [event.phase for event in events] == ["invalid", "invalid"]
