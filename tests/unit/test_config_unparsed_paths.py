"""Rejected YAML (an alias, a duplicate key) hides no other mistake and causes no further message."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.config.load import Config, Loaded, load_text
from reconciler.config.options import Options

ENVIRON = {"HOME": "/home/me", "SSH_AUTH_SOCK": "/run/agent"}
OPTIONS = Options(user="me")
REFUSED = (
    "are not supported",
    "duplicate key",
    "cannot be a key",
    "characters",
    "is not allowed in a",
    "invalid name",
    "second YAML document",
)
MISTAKE = "  b: {host: b, agent: true, tunnels: [{local: '99999:h:1'}]}\n"  # after everything else
SAID_OF_IT = "targets.b.tunnels[0].local: port 99999 is out of range"


def load(text: str) -> Loaded:
    return load_text(text, environ=ENVIRON, options=OPTIONS)


def messages(loaded: Loaded) -> list[str]:
    return [str(problem) for problem in (*loaded.errors, *loaded.warnings)]


@pytest.mark.parametrize(
    ("refused", "times"),
    [
        ('  "": {host: x, agent: true}\n', 1),
        ("  a: &a {host: a, agent: true}\n", 1),
        ("  a: &a {host: a, agent: true}\n  c: *a\n", 2),
        ("  a: &a {host: a, agent: true}\n  c: *a\n  d: {host: d, agent: true, jumpHost: c}\n", 2),
        ("  a: &a {host: a, agent: true}\n  c: {<<: *a, port: 23}\n", 2),
        ("  a: &a {host: a, agent: true}\n  c: {<<: [*a, *a], port: 23}\n", 3),
        ("  a: {host: &h a, agent: true}\n  c: {host: *h, hostKeys: *h, privateKey: *h}\n", 4),
        ("  a: {host: a, agent: &on true}\n  c: {host: c, agent: *on, compress: *on, port: *on}\n", 4),
        ("  a: {host: a, agent: true, algorithms: &a {cipher: [c]}}\n  c: {host: c, agent: true, algorithms: *a}\n", 2),
        ("  a: {host: a, agent: true, tunnels: &t []}\n  c: {host: c, agent: true, tunnels: *t}\n", 2),
        ("  a: {host: a, agent: true, tunnels: [&t {socks: 1}, *t, {<<: *t, name: x}]}\n", 3),
        ("  a: {host: a, agent: true, tunnels: [{local: &l '1:h:1'}, {local: *l}, {type: *l}]}\n", 3),
        ("  a: {host: a, agent: true, tunnels: [{local: &l '1:h:1'}, {local: '2:h:1', health: *l}]}\n", 2),
        ("  a: {host: a, agent: true, tunnels: [{socks: &s 1}, {socks: 2, auth: *s, labels: *s, name: *s}]}\n", 4),
        ("  a: {host: a, agent: true}\n  a: {host: c, port: x}\n", 1),
        ("  a: {host: a, host: c, agent: true}\n", 1),
        ("  a: {host: a, agent: true, tunnels: [{type: local, localPort: 1, localPort: 2, remotePort: 1}]}\n", 1),
        ("  [x]: {host: a, agent: true}\n  c: {host: c, agent: true, jumpHost: x}\n", 1),
        ("  a: {? [host] : a, agent: true}\n", 1),
        (f"  {'a' * 300}: {{host: a, agent: true}}\n", 1),
        ("  a: {host: !env X, agent: true, port: !!int 22, user: !!str 7, compress: !!bool true}\n", 4),
        ("  a: !include a.yaml\n  c: {host: c, agent: true, jumpHost: a}\n", 1),
        ('  a: {host: "\\x1b", agent: true}\n', 1),
    ],
)
def test_rejected_yaml_neither_hides_nor_causes_other_errors(refused: str, times: int) -> None:
    found = messages(load(f"targets:\n{refused}{MISTAKE}"))
    *others, last = found
    assert SAID_OF_IT in last
    assert len(others) == times, others
    assert all(any(words in one for words in REFUSED) for one in others), others


@pytest.mark.parametrize(
    "before",
    [
        "x-base: &base {agent: true}\ndefaults: {target: *base}\n",
        "x-base: &base {agent: true}\ndefaults: {target: {<<: *base, port: 23}}\n",
        "x-base: &base {target: {agent: true}}\ndefaults: *base\n",
        "x-base: &base {agent: true}\n<<: *base\n",
    ],
)
def test_keys_that_rejected_defaults_may_set_are_not_reported_missing(before: str) -> None:
    found = messages(load(f"{before}targets:\n  a: {{host: a}}\n{MISTAKE.replace(', agent: true', '')}"))
    assert len(found) == 3, found
    assert SAID_OF_IT in found[-1]


def test_a_duplicate_key_may_hide_a_name_that_others_use() -> None:
    text = "targets: {a: {host: a, agent: true, jumpHost: b}}\ntargets: {b: {host: b, agent: true}}\n"
    (problem,) = messages(load(text))
    assert problem == "tunnels.yaml:2:1: duplicate key `targets`, first on line 1: keep one"


def test_of_two_documents_the_first_is_checked() -> None:
    second, port = messages(load("defaults: {target: {port: x}}\n---\ntargets: {}\n"))[::-1]
    assert "second YAML document" in second
    assert "defaults.target.port" in port


def test_an_empty_key_is_reported_with_its_path() -> None:
    text = 'targets: {a: {host: a, agent: true, "": 1, tunnels: [{socks: 1, labels: {"": x}}]}}'
    key, label = messages(load(text))
    assert key.startswith('tunnels.yaml:1:37: targets.a."": unknown key')
    assert label.startswith(
        'tunnels.yaml:1:74: targets.a.tunnels[0].labels."": invalid name "": expected 1 to 63 letters, digits'
    )


def test_a_file_with_an_alias_does_not_reject_good_files(tmp_path: Path) -> None:
    """It may define the target that the good file adds to: the last good content decides."""
    shared, team = tmp_path / "shared.yaml", tmp_path / "team.yaml"
    shared.write_text("targets: {a: {host: a, agent: true}}")
    team.write_text("targets: {a: {tunnels: [{local: '1:h:1'}]}}")
    files = Config([tmp_path], environ=ENVIRON, options=OPTIONS)
    files.reload()
    for number, bad in enumerate(
        ("x-a: &a {host: a}\ntargets: {a: *a}", "x: &a {a: {}}\ntargets: *a", "targets: {<<: *a}")
    ):
        shared.write_text(bad)
        team.write_text(f"targets: {{a: {{tunnels: [{{local: '{2 + number}:h:1'}}]}}}}")
        loaded = files.reload()
        assert [result.valid for result in loaded.files] == [False, True]
        assert {problem.file for problem in loaded.errors} == {str(shared)}
        assert list(loaded.desired.tunnels) == [f"a/local-{2 + number}"]


_PIECES = st.sampled_from(
    [
        *(
            "targets: ",
            "defaults: ",
            "target: ",
            "tunnel: ",
            "a: ",
            "b: ",
            "<<: ",
            '"": ',
            "? ",
            ": ",
            "- ",
            "tunnels: ",
        ),
        *(
            "{",
            "}",
            "[",
            "]",
            ", ",
            "\n",
            "\n  ",
            "\n    ",
            "&x ",
            "*x",
            "*x : ",
            "!t ",
            "!!str ",
            "!!int ",
            "! ",
            "---\n",
        ),
        *("host: ", "hosts: ", "jumpHost: ", "jumpHosts: ", "local: ", "type: ", "health: ", "auth: ", "privateKey: "),
        *("labels: ", "algorithms: ", "cipher: ", "reconnect: ", "x-allow: ", "file: ", "env: ", "agent: ", "port: "),
        *("1:h:1", "h", "true", "22", "''", '"\\x1b"', "${X}", "${X:-${Y}}", "local", "${", "~"),
    ]
)


@given(st.lists(_PIECES, max_size=40).map("".join))
def test_any_pieces_of_yaml_are_read_or_reported(text: str) -> None:
    for one in (text, f"targets:\n  p: {{host: h, agent: true}}\n  {text}\n", f"targets: {{p: {{host: h}}, {text}}}"):
        loaded = load(one)
        assert bool(loaded.errors) != loaded.usable
        assert all(problem.message for problem in loaded.errors)
