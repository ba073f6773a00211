"""Warnings: each doubtful value is reported once with its line; consequences of it are not."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from reconciler.config.load import Loaded, load_text
from reconciler.config.options import Options
from support.special_files import SPECIAL, put

ENVIRON = {"HOME": "/home/me", "H": "x", "SSH_AUTH_SOCK": "/run/agent"}


def target(fields: str, **options: object) -> Loaded:
    """Return the warnings for a target with these fields (flow style)."""
    made = Options(user="me", **options)  # type: ignore[arg-type]
    return load_text(f"targets: {{p: {{{fields}}}}}", environ=ENVIRON, options=made)


def messages(loaded: Loaded) -> list[str]:
    return [str(problem) for problem in (*loaded.errors, *loaded.warnings)]


# --- variables -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("${U:-u$$x}", "u$x"),
        ("${U:-$$}", "$"),
        ("a${U:-$$$$b}$$", "a$$b$"),
        ("${U:-$${x}", "${x"),
        ("${H:-u$$x}", "x"),
        ("${U:-u$x}", "u$x"),
    ],
)
def test_two_dollars_in_a_default_are_one(written: str, meant: str) -> None:
    loaded = target(f'host: h, agent: true, user: "{written}"')
    assert messages(loaded) == []
    assert loaded.desired.targets["p"].access.hop.user == meant


def test_a_variable_in_a_default_is_an_error() -> None:
    (problem,) = messages(target('host: "${A:-${B}}", agent: true'))
    assert problem.startswith("tunnels.yaml:1:21: targets.p.host: a default cannot contain a variable")


@pytest.mark.parametrize("written", ["${H}", "a-${H}", "${H}-${H}"])
def test_a_forbidden_variable_is_not_reported_as_unset(written: str) -> None:
    (problem,) = messages(target(f'host: "{written}", agent: true', allow_env=("ABC",)))
    assert problem == "tunnels.yaml:1:21: targets.p.host: H may not be read: --allow-env allows ABC*"


def test_a_forbidden_variable_does_not_hide_an_unset_one() -> None:
    refused, unset = messages(target('host: "${H}-${ABC}", agent: true', allow_env=("ABC",)))
    assert "H may not be read" in refused
    assert unset == "tunnels.yaml:1:21: targets.p.host: ${ABC} is not set [unset-variable]"


def test_a_path_with_an_unset_variable_is_not_checked() -> None:
    (problem,) = messages(target('host: h, agent: true, knownHosts: "${NO}/known_hosts"'))
    assert "${NO} is not set" in problem


# --- ways to log in ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fields", ["", "privateKey: []", "agent: false", "privateKey: [], agent: false"])
def test_a_target_without_a_login_gets_a_warning(fields: str) -> None:
    (problem,) = messages(target(f"host: h, {fields}"))
    assert problem == (
        "tunnels.yaml:1:11: targets.p: no way to log in: add `privateKey`, `agent` or `password` [no-login]"
    )


@pytest.mark.parametrize("fields", ["privateKey: 1.5", "privateKey: {fil: k}", "agent: yes", "password: [a]"])
def test_an_invalid_login_is_not_reported_as_missing(fields: str) -> None:
    loaded = target(f"host: h, {fields}")
    assert [problem.code for problem in loaded.warnings] == (
        ["secret-unreadable"] if fields == "privateKey: 1.5" else []
    )


@pytest.mark.parametrize("field", ["privateKey", "password", "passphrase", "certificate"])
def test_an_empty_secret_file_gets_a_warning(field: str, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("k")
    (tmp_path / "empty").touch()
    others = "" if field == "privateKey" else f"privateKey: {key}, "
    (problem,) = messages(target(f"host: h, {others}{field}: {{file: {tmp_path}/empty}}"))
    assert problem.endswith(f": targets.p.{field}: {tmp_path}/empty: file is empty [secret-unreadable]")


@pytest.mark.parametrize("kind", SPECIAL)
def test_a_special_file_is_reported_and_not_read(tmp_path: Path, kind: str) -> None:
    make, what = SPECIAL[kind]
    put(tmp_path / "key", make)
    problems = messages(target(f"host: h, privateKey: {tmp_path}/key, knownHosts: {tmp_path}/key"))
    if kind == "a file of 12 GiB":  # read when it is used, and then refused
        assert problems == []
    else:
        assert [what in problem for problem in problems] == [True, True], problems


def test_an_empty_known_hosts_file_is_valid(tmp_path: Path) -> None:
    (tmp_path / "known").touch()
    assert messages(target(f"host: h, agent: true, knownHosts: {tmp_path}/known")) == []


def test_a_missing_agent_gets_a_warning(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with socket.socket(socket.AF_UNIX) as agent:
        agent.bind(str(tmp_path / "agent"))
        assert messages(target(f"host: h, agent: {tmp_path}/agent")) == []
    for name, why in (("nosuch", "no such file"), ("file", "not a socket")):
        (problem,) = messages(target(f"host: h, agent: {tmp_path}/{name}"))
        assert problem == f"tunnels.yaml:1:31: targets.p.agent: {tmp_path}/{name}: {why} [secret-unreadable]"
        assert messages(target(f"host: h, agent: {tmp_path}/{name}, x-allow: [secret-unreadable]")) == []
