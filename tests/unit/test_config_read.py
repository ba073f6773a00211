"""Reading YAML: types of scalars, their lines, and that any bytes give a result or an error."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from reconciler.config.load import load_text
from reconciler.config.problem import ConfigError, Problem
from reconciler.config.syntax import yaml_reader as module
from reconciler.config.syntax.nodes import Scalar, Table, plain
from reconciler.config.syntax.yaml_reader import read


@pytest.fixture(params=["c", "python"])
def parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both parsers of PyYAML: a build without libyaml has only the Python one."""
    loader = yaml.SafeLoader if request.param == "python" else getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    monkeypatch.setattr(module, "_LOADER", loader)


def refused(data: bytes) -> Sequence[Problem]:
    """Return the messages of the reader for these bytes."""
    try:
        _, problems = read(data, "f")
    except ConfigError as error:
        return error.problems
    return problems


@pytest.mark.usefixtures("parser")
@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("8022:22", "8022:22"),
        ("022", "022"),
        ("0o22", "0o22"),
        ("0x1F", "0x1F"),
        ("1_000", "1_000"),
        ("2027-01-31", "2027-01-31"),
        ("2027-01-31T00:00:00Z", "2027-01-31T00:00:00Z"),
        ("yes", "yes"),
        ("off", "off"),
        ("true", True),
        ("false", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("22", 22),
        ("-1", -1),
        ("1.5", 1.5),
        ("1e3", "1e3"),
        (".inf", ".inf"),
        ('"22"', "22"),
        ("'true'", "true"),
        ("9" * 5000, "9" * 5000),
    ],
)
def test_a_scalar_has_the_type_it_looks_like(written: str, meant: object) -> None:
    root, _ = read(f"a: {written}\n".encode(), "f")
    assert plain(root) == {"a": meant}


@pytest.mark.usefixtures("parser")
def test_each_node_has_its_line_and_column() -> None:
    root, _ = read("# über\na:\n  - {b: 1}\n  - ü: 2\n".encode(), "f")
    (entry,) = root
    assert (entry.line, entry.column) == (2, 1)
    items = plain(root)
    assert items == {"a": [{"b": 1}, {"ü": 2}]}
    second = entry.value.values[1]  # type: ignore[union-attr]
    assert isinstance(second, Table)
    assert (second.entries[0].line, second.entries[0].column) == (4, 5)
    value = second.entries[0].value
    assert isinstance(value, Scalar)
    assert (value.line, value.column) == (4, 8)


@pytest.mark.usefixtures("parser")
def test_a_byte_order_mark_is_ignored() -> None:
    root, _ = read(b"\xef\xbb\xbfa: 1\n", "f")
    assert plain(root) == {"a": 1}


@pytest.mark.usefixtures("parser")
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        b"\xff\xfea\0",
        b"[" * 100_000,
        b"{a: " * 100_000,
        b"- " * 100_000,
        b"? " * 1000,
        b"*a",
        b"&a [*a]",
        b"%YAML 9.9\n---\na: 1\n",
        b"%YAML 99999999999999999999.1\n---\na: 1\n",
        b"%TAG ! x\n%TAG ! y\n---\na: 1\n",
        b'a: "\\ud800"\n',
        b'a: "\\UFFFFFFFF"\n',
        b'a: "\\0"\n',
        b"a: !!python/object:os.system {}\n",
        b"? [a]\n: 1\n",
        b"a: 1\n---\nb: 1\n",
        b"a: 1\n...\nb: 1\n",
        b"\t",
        b"- a\n",
        b"a",
        b"'",
    ],
)
def test_other_content_than_a_mapping_is_an_error_without_a_traceback(data: bytes) -> None:
    problems = refused(data)
    assert problems
    assert all(problem.file == "f" and problem.message for problem in problems)


@pytest.mark.usefixtures("parser")
@pytest.mark.parametrize("written", ["\\x1b", "\\u009b", "\\x80", "\\N", "\\x7f"])
@pytest.mark.parametrize("text", ['a: "{}31m"', '"{}31m": 1'])
def test_control_characters_are_refused(written: str, text: str) -> None:
    (problem,) = refused(text.format(written).encode())
    assert "is not allowed in a value" in problem.message


@pytest.mark.parametrize("value", ["\x1b[31m", "\x9b31m"])
def test_control_characters_in_a_variable_are_refused(value: str) -> None:
    (problem,) = load_text("targets: {a: {host: '${X}', agent: true, user: u}}", environ={"X": value}).errors
    assert problem.message == "the value of ${X} contains control characters: remove them"


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_reported(data: bytes) -> None:
    loaded = load_text(data)
    assert loaded.valid is not bool(loaded.errors)
    assert all(str(problem).startswith("tunnels.yaml") for problem in loaded.errors)


_KEYS = st.sampled_from(
    [
        "targets",
        "defaults",
        "target",
        "tunnel",
        "prod",
        "host",
        "hosts",
        "port",
        "user",
        "privateKey",
        "password",
        "jumpHost",
        "jumpHosts",
        "tunnels",
        "type",
        "local",
        "remote",
        "socks",
        "localPort",
        "remotePort",
        "localSocket",
        "auth",
        "labels",
        "health",
        "file",
        "env",
        "allow",
        "x-a",
        "x-allow",
        "algorithms",
        "reconnect",
        "expiresAt",
        "allowDestinations",
        "mode",
        "hostKeys",
        "connectTimeout",
    ]
)
_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-1, 70_000),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=12),
    st.sampled_from(
        ["local", "5432:db:5432", "10s", "${X}", "${X:-1}", "$$", "${", "[::1]:1:b:2", "a", "prod", "*:80"]
    ),
)
_TREES = st.recursive(
    _SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_KEYS, inner, max_size=5)),
    max_leaves=25,
)


@given(_TREES, _TREES)
def test_any_tree_of_known_keys_is_read_or_reported(targets: object, tunnels: object) -> None:
    tree = {"targets": {"prod": {"host": "a", "agent": True, "tunnels": [tunnels]}, "b": targets}, "defaults": targets}
    for one in (tree, targets, {"targets": targets}):
        loaded = load_text(yaml.safe_dump(one, allow_unicode=True), environ={"HOME": "/home/me"})
        assert all(problem.message for problem in loaded.errors)
        assert bool(loaded.errors) != loaded.usable
