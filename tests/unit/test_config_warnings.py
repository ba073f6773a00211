"""Warnings: what is doubtful is told once, where it stands; what is no more than a consequence is not."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from reconciler.config.load import Loaded, load_text
from reconciler.config.options import Options
from support.special_files import SPECIAL, put

ENVIRON = {"HOME": "/home/me", "H": "x", "SSH_AUTH_SOCK": "/run/agent"}


def target(fields: str, **options: object) -> Loaded:
    """What is said of a target with these fields (flow style)."""
    made = Options(user="me", **options)  # type: ignore[arg-type]
    return load_text(f"targets: {{p: {{{fields}}}}}", environ=ENVIRON, options=made)


def said(loaded: Loaded) -> list[str]:
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
def test_two_dollars_are_one_in_a_default_too(written: str, meant: str) -> None:
    loaded = target(f'host: h, agent: true, user: "{written}"')
    assert said(loaded) == []
    assert loaded.desired.targets["p"].access.hop.user == meant


def test_a_variable_in_a_default_is_no_text() -> None:
    (problem,) = said(target('host: "${A:-${B}}", agent: true'))
    assert problem.startswith("tunnels.yaml:1:21: targets.p.host: a default cannot contain a variable")


@pytest.mark.parametrize("written", ["${H}", "a-${H}", "${H}-${H}"])
def test_a_variable_that_may_not_be_read_is_not_said_to_be_unset(written: str) -> None:
    (problem,) = said(target(f'host: "{written}", agent: true', allow_env=("ABC",)))
    assert problem == "tunnels.yaml:1:21: targets.p.host: H may not be read: --allow-env allows ABC*"


def test_nor_does_it_hide_that_another_one_is() -> None:
    refused, unset = said(target('host: "${H}-${ABC}", agent: true', allow_env=("ABC",)))
    assert "H may not be read" in refused
    assert unset == "tunnels.yaml:1:21: targets.p.host: ${ABC} is not set [unset-variable]"


def test_where_a_path_hangs_on_an_unset_variable_the_default_is_not_looked_at() -> None:
    (problem,) = said(target('host: h, agent: true, knownHosts: "${NO}/known_hosts"'))
    assert "${NO} is not set" in problem


# --- ways to log in ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fields", ["", "privateKey: []", "agent: false", "privateKey: [], agent: false"])
def test_a_target_without_any_way_to_log_in_is_told(fields: str) -> None:
    (problem,) = said(target(f"host: h, {fields}"))
    assert problem == (
        "tunnels.yaml:1:11: targets.p: no way to log in: add `privateKey`, `agent` or `password` [no-login]"
    )


@pytest.mark.parametrize("fields", ["privateKey: 1.5", "privateKey: {fil: k}", "agent: yes", "password: [a]"])
def test_a_way_to_log_in_that_is_wrong_is_not_said_to_be_missing(fields: str) -> None:
    loaded = target(f"host: h, {fields}")
    assert [problem.code for problem in loaded.warnings] == (
        ["secret-unreadable"] if fields == "privateKey: 1.5" else []
    )


@pytest.mark.parametrize("field", ["privateKey", "password", "passphrase", "certificate"])
def test_an_empty_file_holds_no_secret(field: str, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("k")
    (tmp_path / "empty").touch()
    others = "" if field == "privateKey" else f"privateKey: {key}, "
    (problem,) = said(target(f"host: h, {others}{field}: {{file: {tmp_path}/empty}}"))
    assert problem.endswith(f": targets.p.{field}: {tmp_path}/empty: file is empty [secret-unreadable]")


@pytest.mark.parametrize("kind", SPECIAL)
def test_what_is_no_file_is_named_and_not_read(tmp_path: Path, kind: str) -> None:
    make, what = SPECIAL[kind]
    put(tmp_path / "key", make)
    problems = said(target(f"host: h, privateKey: {tmp_path}/key, knownHosts: {tmp_path}/key"))
    if kind == "a file of 12 GiB":  # read when it is used, and then refused
        assert problems == []
    else:
        assert [what in problem for problem in problems] == [True, True], problems


def test_an_empty_known_hosts_file_knows_nobody_yet(tmp_path: Path) -> None:
    (tmp_path / "known").touch()
    assert said(target(f"host: h, agent: true, knownHosts: {tmp_path}/known")) == []


def test_an_agent_that_is_not_there_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with socket.socket(socket.AF_UNIX) as agent:
        agent.bind(str(tmp_path / "agent"))
        assert said(target(f"host: h, agent: {tmp_path}/agent")) == []
    for name, why in (("nosuch", "no such file"), ("file", "not a socket")):
        (problem,) = said(target(f"host: h, agent: {tmp_path}/{name}"))
        assert problem == f"tunnels.yaml:1:31: targets.p.agent: {tmp_path}/{name}: {why} [secret-unreadable]"
        assert said(target(f"host: h, agent: {tmp_path}/{name}, x-allow: [secret-unreadable]")) == []
