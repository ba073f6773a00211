"""Values of variables are replaced by the variable's name. Values that cannot be secret stay visible."""

from __future__ import annotations

import pytest

from reconciler.config.load import Loaded, load_text
from reconciler.runtime.plan_report import between
from reconciler.system.redaction import Redactor, redact, redact_json

ENVIRON = {
    "TOKEN": "s3cr3t-token",
    "SHORT": "q7x",
    "PORT": "15432",
    "BIND": "127.0.0.2",
    "NET": "10.0.0.0/8",
    "WAIT": "30s",
    "KIND": "socks",
    "BASTION": "bastion.example.com",
    "WAY": "5432:db.internal:5432",
    "TARGET": "prod",
}


def loaded(text: str) -> Loaded:
    return load_text(text, environ=ENVIRON)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("GET /health?token=s3cr3t-token", "GET /health?token=${TOKEN}"),
        ("an S3CR3T-TOKEN.", "an ${TOKEN}."),
        ("xs3cr3t-tokenx", "x${TOKEN}x"),
        ("the user q7x, not q7xx", "the user ${SHORT}, not q7xx"),
        ("127.0.0.2:15432 of 10.0.0.0/8 within 30s, socks", "127.0.0.2:15432 of 10.0.0.0/8 within 30s, socks"),
        ("bastion.example.com:22", "${BASTION}:22"),
        ("db.internal:5432", "${WAY}:5432"),
        ("target prod is up", "target prod is up"),
    ],
)
def test_a_value_is_replaced_by_the_name_of_its_variable(text: str, shown: str) -> None:
    names = " ".join(f"${{{name}}}" for name in ENVIRON)
    kept = loaded(f"targets: {{prod: {{host: h, agent: true, user: '{names}'}}}}")
    assert kept.valid, kept.errors
    assert redact(text) == shown


def test_ids_and_closed_sets_of_words_in_json_stay_as_they_are() -> None:
    hidden = Redactor()
    hidden.add("A", "prod")
    told = {"id": "prod/pg", "target": "prod", "message": "prod fails", "list": ["prod", 1, None]}
    assert redact_json(told) == {"id": "prod/pg", "target": "prod", "message": "${A} fails", "list": ["${A}", 1, None]}


def test_a_value_is_hidden_only_while_its_configuration_exists() -> None:
    hidden = Redactor()
    hidden.add("A", "s3cr3t")
    assert redact("s3cr3t") == "${A}"
    del hidden
    assert redact("s3cr3t") == "s3cr3t"


@pytest.mark.parametrize("value", ['a"b\\c-token', "tök€n-value", "a b/c?d-token"])
def test_a_value_that_was_escaped_is_hidden_too(value: str) -> None:
    hidden = Redactor()
    hidden.add("A", value)
    for written in (value, repr(value)[1:-1], value.encode("unicode_escape").decode()):
        assert redact(f"<{written}>") == "<${A}>"


def test_a_variable_in_a_name_is_refused() -> None:
    [problem] = loaded("targets: {p: {host: h, agent: true, tunnels: [{local: '1:h:2', name: 'a-${KIND}'}]}}").errors
    assert "a name cannot contain a variable" in problem.message
    assert "socks" not in problem.message


def test_no_default_name_is_made_of_a_variable() -> None:
    tunnels = "[{type: local, localSocket: '/run/${TOKEN}', remotePort: 1}, {local: '/run/${TOKEN}/pg.sock:h:1'}]"
    result = loaded(f"targets: {{p: {{host: h, agent: true, tunnels: {tunnels}}}}}")
    assert list(result.desired.tunnels) == ["p/local-socket", "p/local-pg.sock"]


def test_a_plan_shows_variables_by_their_names_also_in_long_values() -> None:
    path = "/health?" + "x" * 60 + "${TOKEN}"
    text = "targets: {p: {host: h, agent: true, tunnels: [{local: '1:h:2', health: {type: http, path: '%s'}}]}}"
    old, new = loaded(text % "/"), loaded(text % path)
    said = " ".join(step.why for step in between(old.desired, new.desired).steps)
    assert "s3cr" not in said
    assert "health" in said


def test_values_that_overlap_in_a_text_are_both_hidden() -> None:
    hidden = Redactor()
    hidden.add("FIRST", "my-host")
    hidden.add("SECOND", "host-s3cr3t")
    assert redact("<my-host-s3cr3t>") == "<${FIRST}${SECOND}>"
    assert redact("<my-host> <host-s3cr3t>") == "<${FIRST}> <${SECOND}>"


@pytest.mark.parametrize("value", ["tunnel", "target", "ssh", "warning", "connection"])
def test_a_word_of_the_messages_is_not_hidden_in_them(value: str) -> None:
    hidden = Redactor()
    hidden.add("A", value)
    text = "warning: targets.prod.tunnels[0]: no ssh connection to the target, so the tunnel is down"
    assert redact(text) == text


def test_a_short_value_is_found_if_a_longer_one_has_the_same_start() -> None:
    hidden = Redactor()
    hidden.add("SHORT", "q7x")
    hidden.add("LONG", "q7x-s3cr3t")
    assert redact("q7x q7x-s3cr3t q7x-s q7x") == "${SHORT} ${LONG} ${SHORT}-s ${SHORT}"


def test_a_value_that_repeats_itself_is_shown_once() -> None:
    hidden = Redactor()
    hidden.add("A", "abababab")
    assert redact(f"<{'ab' * 100}>") == "<${A}>"


def test_a_character_with_a_longer_lower_case_keeps_positions() -> None:
    hidden = Redactor()
    hidden.add("A", "s3cr3t\u0130x")
    assert redact("\u0130\u0130 S3CR3T\u0130X \u0130") == "\u0130\u0130 ${A} \u0130"


def test_labels_are_hidden_whatever_they_are_called() -> None:
    hidden = Redactor()
    hidden.add("A", "s3cr3t")
    names = ("name", "id", "target", "level", "type")
    told = {"name": "s3cr3t", "labels": dict.fromkeys(names, "s3cr3t")}
    assert redact_json(told) == {"name": "s3cr3t", "labels": dict.fromkeys(names, "${A}")}


@pytest.mark.parametrize(
    "value", ["~/s3cr3t/key", "../s3cr3t/key", "../../s3cr3t/key", "./s3cr3t//key", "~u/s3cr3t/key"]
)
def test_a_path_is_hidden_also_behind_its_directory(value: str) -> None:
    hidden = Redactor()
    hidden.add("A", value)
    assert "s3cr3t" not in redact("/home/u/s3cr3t/key: there is no such file")


@pytest.mark.parametrize(
    "values",
    [
        [f"{number:08x}-{number * 7919 % 65536:04x}" for number in range(2_000)],
        [":".join(f"{number:06x}" for number in range(10_000))],
        ["x" * 1_000_000 + "\u00e9"],
        [f"token-{number}" for number in range(2_000)],
    ],
    ids=["many", "many parts", "long", "alike"],
)
@pytest.mark.timeout(30)
def test_many_and_long_values_do_not_make_it_slow(values: list[str]) -> None:
    """One regular expression of all values would take a minute of CPU time for each of these."""
    hidden = Redactor()
    for number, value in enumerate(values):
        hidden.add(f"V{number}", value)
    line = 'ssh_tunnel_info{target="prod-1",tunnel="pg",listen="127.0.0.1:15432",token="0a0b0c"} 1\n'
    assert redact(line * 10_000)
