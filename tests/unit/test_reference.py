"""The generated pages agree with the source, and the source describes everything that they list."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Iterator
from typing import cast, get_type_hints, is_typeddict

import pytest

from generate.commands import Command, every_command
from generate.endpoints import SECTIONS, control_application, http_application, routes
from generate.environment import option_variables
from generate.metrics import families
from generate.pages import DOCS, pages
from generate.sample import sample
from reconciler.cli import responses
from reconciler.cli.environment import READ
from reconciler.cli.response_keys import KEYS
from reconciler.cli.responses import (
    ClientFailureJson,
    ConfigJson,
    EventJson,
    FileJson,
    PlannedStepJson,
    StatusJson,
    StepJson,
    TargetJson,
    TunnelJson,
)
from reconciler.report.events import Event
from reconciler.report.snapshot import Json, Snapshot, to_json
from reconciler.runtime.diagnose import Step
from reconciler.runtime.plan_report import PlanStep

PACKAGE = DOCS.parent / "reconciler"
PAGES = pages()
COMMANDS = list(every_command())
ROUTES = [*routes(http_application()), *routes(control_application())]


@pytest.mark.parametrize("name", PAGES)
def test_a_generated_page_is_up_to_date(name: str) -> None:
    """`make reference` generates the pages."""
    assert (DOCS / name).read_text("utf-8") == PAGES[name]


def test_every_page_of_the_reference_is_generated() -> None:
    found = {path.relative_to(DOCS).as_posix() for path in (*DOCS.glob("reference/*"), *DOCS.glob("man/*"))}
    assert found == set(PAGES) - {"reference.md"}


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_a_command_says_its_exit_codes_and_what_each_option_does(command: Command) -> None:
    assert command.exits
    assert command.blocks
    assert [option.forms for option in command.options if not option.meaning] == []


@pytest.mark.parametrize(("method", "path", "text"), ROUTES)
def test_an_endpoint_has_a_description(method: str, path: str, text: str) -> None:
    assert text, f"the handler of {method} {path} has no docstring"


def test_every_metric_is_in_the_sample_with_its_labels() -> None:
    assert [one.name for one in families() if not one.samples or not one.documentation] == []


# --- keys of JSON -----------------------------------------------------------------------------------------------------


def test_every_response_has_a_section() -> None:
    declared = {one for one in vars(responses).values() if is_typeddict(one)}
    assert declared == set(KEYS) == {kind for _, kind, _ in SECTIONS}


@pytest.mark.parametrize("kind", KEYS, ids=lambda kind: kind.__name__)
def test_every_key_of_a_response_has_a_meaning(kind: type) -> None:
    assert set(KEYS[kind]) == set(get_type_hints(kind))


def _sent() -> Iterator[tuple[type, Json]]:
    status = to_json(sample(Snapshot))
    config = cast("dict[str, list[Json]]", status["config"])
    yield StatusJson, status
    yield ClientFailureJson, cast("list[dict[str, Json]]", status["tunnels"])[0]["lastClientFailure"]
    yield ConfigJson, cast("Json", status["config"])
    yield FileJson, config["files"][0]
    yield TargetJson, cast("list[Json]", status["targets"])[0]
    yield TunnelJson, cast("list[Json]", status["tunnels"])[0]
    yield EventJson, sample(Event, phase="up", before="down", reason="timeout").to_json()
    yield StepJson, dataclasses.asdict(sample(Step))
    yield PlannedStepJson, sample(PlanStep).to_json()


@pytest.mark.parametrize(("kind", "sent"), list(_sent()), ids=lambda one: one.__name__ if isinstance(one, type) else "")
def test_the_process_sends_exactly_the_keys_that_are_described(kind: type, sent: Json) -> None:
    assert set(sent) == set(KEYS[kind])


# --- environment variables --------------------------------------------------------------------------------------------

# Set for asyncssh and not read; and the environment of the commands that `tunnels import` translates.
_NO_SETTINGS = {"LOGNAME", "USER"}


def _variables_read() -> set[str]:
    """Return the names that the source looks up in an environment."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text("utf-8"))
        for node in ast.walk(tree):
            found |= set(_names(node))
    return found


def _names(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.Call(func=ast.Attribute(attr="get", value=mapping), args=[ast.Constant(value=str(name)), *_]):
            if ast.unparse(mapping).endswith("environ"):
                yield name
        case ast.Subscript(value=mapping, slice=ast.Constant(value=str(name))):
            if ast.unparse(mapping).endswith("environ"):
                yield name
        case ast.GeneratorExp(elt=ast.Call(func=ast.Attribute(attr="get", value=mapping)), generators=[loop]):
            if ast.unparse(mapping).endswith("environ") and isinstance(loop.iter, ast.Tuple):
                yield from (str(one.value) for one in loop.iter.elts if isinstance(one, ast.Constant))
        case _:
            pass


def test_every_variable_that_the_source_reads_is_described() -> None:
    described = {*READ, *(name for name, _, _ in option_variables())}
    read = _variables_read()
    assert {"TMPDIR", "NO_COLOR", "XDG_RUNTIME_DIR"} <= read
    assert read - _NO_SETTINGS - described == set()
    assert set(READ) - read == set()
