"""Values of variables are shown by the variable's name; what is no secret by nature is shown as it is."""

from __future__ import annotations

import pytest

from reconciler.config.load import Loaded, load_text
from reconciler.planned import between
from reconciler.system.hidden import Hidden, hide, hide_json

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
    assert hide(text) == shown


def test_ids_and_closed_sets_of_words_in_json_stay_as_they_are() -> None:
    hidden = Hidden()
    hidden.add("A", "prod")
    told = {"id": "prod/pg", "target": "prod", "message": "prod fails", "list": ["prod", 1, None]}
    assert hide_json(told) == {"id": "prod/pg", "target": "prod", "message": "${A} fails", "list": ["${A}", 1, None]}


def test_a_value_is_hidden_only_while_its_configuration_is_there() -> None:
    hidden = Hidden()
    hidden.add("A", "s3cr3t")
    assert hide("s3cr3t") == "${A}"
    del hidden
    assert hide("s3cr3t") == "s3cr3t"


@pytest.mark.parametrize("value", ['a"b\\c-token', "tök€n-value", "a b/c?d-token"])
def test_a_value_that_was_escaped_is_hidden_too(value: str) -> None:
    hidden = Hidden()
    hidden.add("A", value)
    for written in (value, repr(value)[1:-1], value.encode("unicode_escape").decode()):
        assert hide(f"<{written}>") == "<${A}>"


def test_a_variable_in_a_name_is_refused() -> None:
    [problem] = loaded("targets: {p: {host: h, agent: true, tunnels: [{local: '1:h:2', name: 'a-${KIND}'}]}}").errors
    assert "a name is shown everywhere, so it takes no variable" in problem.message
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
