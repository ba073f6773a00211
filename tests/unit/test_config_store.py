"""A file with more mistakes than anybody mends at once: it costs the event loop nothing, and is told in part."""

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
def test_of_very_many_mistakes_the_first_are_told_and_that_there_are_more(text: str) -> None:
    *told, last = load_text(text).errors
    assert len(told) == MAX_PROBLEMS
    assert [problem.line for problem in told] == sorted(problem.line for problem in told)
    assert str(last) == "tunnels.yaml: more than 100 problems: fix these to see the others"


def test_of_very_many_warnings_too() -> None:
    text = "targets:\n" + "".join(f"  a{n}: {{host: a, user: u, password: x}}\n" for n in range(400))
    loaded = load_text(text)
    assert loaded.valid
    assert len(loaded.desired.targets) == 400
    assert len(loaded.warnings) == MAX_PROBLEMS + 1


def test_each_file_has_its_own_share(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(MISTAKES["an unknown key each"])
    (tmp_path / "b.yaml").write_text("targets: {b: {hots: b}}")
    loaded = Config([tmp_path], environ={}).reload()
    assert [problem.file for problem in loaded.errors] == [str(tmp_path / "a.yaml")] * 101 + [str(tmp_path / "b.yaml")]


async def test_a_bad_file_saved_twice_does_not_compare_each_problem_with_all_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Loads are told in the event loop: what grows with the square of the problems keeps all clients waiting."""
    file = tmp_path / "tunnels.yaml"
    file.write_text(MISTAKES["an unknown key each"])
    events: list[Event] = []
    loads = ConfigStore(Config([file], environ={}), events.append)
    await loads.load()
    compared = 0
    equal = Problem.__eq__

    def counting(one: Problem, other: object) -> bool:
        nonlocal compared
        compared += 1
        return equal(one, other)

    file.write_text(MISTAKES["an unknown key each"] + "# saved again\n")
    monkeypatch.setattr(Problem, "__eq__", counting)
    loaded = await loads.load()
    assert len(loaded.errors) == MAX_PROBLEMS + 1
    assert compared < 10 * MAX_PROBLEMS
    told = [record for record in caplog.records if record.levelname == "ERROR"]
    assert len(told) == len(loaded.errors), "each problem is told once, when it is new"
    assert [event.phase for event in events] == ["invalid", "invalid"]
