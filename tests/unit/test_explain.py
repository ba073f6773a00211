"""`tunnels explain`: every field of the schema is explained, by path and by name."""

from __future__ import annotations

from enum import EnumType, StrEnum

import pytest
from click.testing import CliRunner, Result

from reconciler.cli.main import main
from reconciler.config import problem
from reconciler.config.code_guides import CODE_GUIDES
from reconciler.config.problem import ErrorCode, WarningCode
from reconciler.config.schema.explain import _all_fields, explain
from reconciler.config.syntax.nodes import plain
from reconciler.config.syntax.yaml_reader import read
from reconciler.core.observed import Reason
from reconciler.core.text.reason_guides import REASON_GUIDES, Guide

EVERY = [path for path, _ in _all_fields()]


def ran(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["explain", *arguments])


def test_every_field_has_a_meaning_and_can_be_found_by_path_and_by_name() -> None:
    for path in EVERY:
        [one] = explain(path)
        assert one.places == (path,)
        assert one.meaning, path
        places = [place for meaning in explain(path.rpartition(".")[2]) for place in meaning.places]
        assert path in places or explain(path.rpartition(".")[2])[0].places == (path.rpartition(".")[2],)


def test_every_example_is_the_yaml_of_the_example_in_the_schema() -> None:
    written = {path: one.get("examples", ())[:2] for path, one in _all_fields()}
    for path, examples in written.items():
        [one] = explain(path)
        if not examples:
            continue
        found = [next(iter(plain(read(line.encode(), "x")[0]).values())) for line in one.examples]  # type: ignore[attr-defined]
        assert found == list(examples), path


@pytest.mark.parametrize(
    ("field", "place"),
    [
        ("targets.prod.port", "targets.NAME.port"),
        ("targets.prod.eu.port", "targets.NAME.port"),
        ("targets.prod.tunnels.db.localPort", "targets.NAME.tunnels[].localPort"),
        ("targets.prod.tunnels[0].localPort", "targets.NAME.tunnels[].localPort"),
        ("targets.prod.tunnels.localPort", "targets.NAME.tunnels[].localPort"),
        ("targets.prod.jumpHost.host", "targets.NAME.jumpHost.host"),
        ("targets.prod.jumpHosts[1].privateKey[0].file", "targets.NAME.jumpHosts[].privateKey[].file"),
        ("defaults.tunnel.health.interval", "defaults.tunnel.health.interval"),
        ("targets.prod", "targets.NAME"),
        ("targets", "targets"),
        ("holdTimeout", "targets.NAME.tunnels[].holdTimeout"),
    ],
)
def test_a_path_or_a_name_finds_its_field(field: str, place: str) -> None:
    assert place in [one for found in explain(field) for one in found.places]


def test_a_name_with_two_meanings_is_explained_twice() -> None:
    shown = ran("port")
    assert "Port of the SSH server." in shown.output
    assert len(shown.output.split("\n\n")) > 1


def test_a_field_shows_type_default_meaning_and_example() -> None:
    shown = ran("targets.prod.port")
    assert shown.exit_code == 0
    assert shown.output == (
        "targets.NAME.port\n"
        "  Port of the SSH server.\n"
        "  takes    a whole number from 1 to 65535\n"
        "  default  22\n"
        "  example  port: 2222\n"
    )


@pytest.mark.parametrize(
    ("field", "hint"),
    [
        ("hold_timeout", "did you mean `holdTimeout`?"),
        ("targets.prod.tunnels.db.locaPort", "did you mean `localPort`?"),
        ("targets.prod.tunnels.db.listen", "fields about it are `type`, `localHost`, `localPort`"),
        ("zzzz", "`tunnels explain targets.NAME` lists those of a target"),
        ("targets.prod.zzzz", "the fields of `targets.NAME` are `type`"),
        ("...", "expected a path such as `targets.prod.port`, or a name"),
        ("a." * 500, "expected a path"),
        ("x\x1b[31m", "is not a field"),
    ],
)
def test_an_unknown_field_gets_a_hint(field: str, hint: str) -> None:
    shown = ran(field)
    assert shown.exit_code == 1
    assert hint in shown.output.replace("\n", " ")
    assert "\x1b" not in shown.output


# --- reasons and codes ------------------------------------------------------------------------------------------------


def test_every_reason_and_every_code_has_a_guide() -> None:
    assert list(REASON_GUIDES) == list(Reason)
    kinds = [kind for kind in vars(problem).values() if isinstance(kind, EnumType) and kind is not StrEnum]
    codes = set[object]().union(*(kind.__members__.values() for kind in kinds))
    assert {ErrorCode.VALUE, WarningCode.EXPIRED} < codes
    assert set(CODE_GUIDES) == codes


@pytest.mark.parametrize(("word", "guide"), [*REASON_GUIDES.items(), *CODE_GUIDES.items()])
def test_a_reason_or_code_shows_its_meaning_and_each_cause_with_its_fix(word: str, guide: Guide) -> None:
    shown = ran(word)
    assert shown.exit_code == 0
    assert guide.causes
    for text in (guide.meaning, *(part for cause in guide.causes for part in (cause.what, cause.fix))):
        assert text in shown.output


def test_a_reason_says_when_it_is_tried_again() -> None:
    assert "retry    Every 1 s." in ran("bind").output
    assert "retry" not in ran("open-proxy").output


@pytest.mark.parametrize(
    ("word", "titles"),
    [
        ("DNS", ["dns (reason)"]),
        ("host-key", ["host_key (reason)"]),
        ("open_proxy", ["open-proxy (code)"]),
        ("secret_unreadable", ["secret_unreadable (reason)", "secret-unreadable (code)"]),
    ],
)
def test_a_reason_or_code_is_found_with_another_case_or_hyphen(word: str, titles: list[str]) -> None:
    shown = ran(word)
    assert shown.exit_code == 0
    assert [part.splitlines()[0] for part in shown.output.split("\n\n")] == titles


@pytest.mark.parametrize(
    ("word", "hint"),
    [("openproxy", "open-proxy"), ("local_port_inuse", "local_port_in_use"), ("targets.prod.openproxy", "")],
)
def test_a_misspelt_reason_or_code_gets_a_hint(word: str, hint: str) -> None:
    shown = ran(word)
    assert shown.exit_code == 1
    assert (f"did you mean `{hint}`?" in shown.output) == bool(hint)


def test_a_word_that_is_a_field_and_a_reason_is_explained_as_both() -> None:
    shown = ran("auth").output
    assert "targets.NAME.tunnels[].auth" in shown
    assert "auth (reason)" in shown
