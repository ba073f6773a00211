"""`tunnels check`: errors and warnings about files, keys and algorithms, and exit codes."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from integration import commands
from reconciler.cli.main import main
from support.keys import Keys
from support.special_files import SPECIAL, put

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_the_loader_reports_an_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Click must not refuse it first. (os.access is patched because root can read every file.)"""
    (tmp_path / "tunnels.yaml").write_text("targets: {}\n")
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert CliRunner().invoke(main, ["check", str(tmp_path / "tunnels.yaml")]).exit_code == 0


async def test_check_distinguishes_valid_and_invalid_files(tmp_path: Path) -> None:
    assert (await commands.ran("check", EXAMPLES / "tunnels.yaml")).code == 0
    bad = tmp_path / "bad.yaml"
    bad.write_text("targets: {prod: {host: a, tunnels: [{type: local, localPort: abc, remotePort: 1}]}}\n")
    code, out, err = await commands.ran("check", bad)
    assert (code, out) == (2, "")
    assert f"error: {bad}:1:" in err
    assert "localPort" in err
    assert "Traceback" not in err


async def test_check_each_judges_the_files_of_a_directory_by_themselves(tmp_path: Path) -> None:
    """Two teams may use the same names and ports: their files go to different machines."""
    (tmp_path / "teams").mkdir()
    (tmp_path / "empty").mkdir()
    valid = "targets: {prod: {host: a, tunnels: [{type: local, localPort: 5432, remotePort: 5432}]}}\n"
    for name in ("teams/a.yaml", "teams/b.yml"):
        (tmp_path / name).write_text(valid)
    code, out, _ = await commands.ran("check", "--each", tmp_path / "teams")
    assert (code, out.count(": valid, 1 target and 1 tunnel\n")) == (0, 2)
    (tmp_path / "teams/a.yaml").write_text(valid.replace("5432", "abc", 1))
    code, out, err = await commands.ran("check", "--each", tmp_path / "empty", tmp_path / "teams", tmp_path / "missing")
    assert (code, out.count(": valid")) == (2, 1)
    for name in ("empty: no *.yaml", "teams/a.yaml:1:", "missing: cannot be read"):
        assert f"error: {tmp_path / name}" in err


@pytest.mark.parametrize("kind", SPECIAL)
async def test_check_reports_special_files_at_any_path(tmp_path: Path, kind: str) -> None:
    """A pipe without a writer is waited for, up to a limit: `check <(command)` is a pipe."""
    make, said = SPECIAL[kind]
    odd = tmp_path / "odd"
    put(odd, make)
    code, out, err = await commands.ran("check", odd)
    assert (code, out) == (2, "")
    assert str(odd) in err
    what = {"a pipe": "timed out waiting for data from the pipe", "a directory": "no *.yaml"}.get(kind, said)
    assert what.lower() in err.lower()
    fields = ("privateKey", "certificate", "password", "passphrase", "knownHosts")
    key = Keys(tmp_path).make("key", passphrase="x").private
    file = tmp_path / "tunnels.yaml"
    file.write_text(
        "targets:\n"
        f"  privateKey: {{host: h, privateKey: {odd}}}\n"
        f"  certificate: {{host: h, privateKey: {key}, passphrase: x, certificate: {odd}}}\n"
        f"  password: {{host: h, password: {{file: {odd}}}}}\n"
        f"  passphrase: {{host: h, privateKey: {key}, passphrase: {{file: {odd}}}}}\n"
        f"  knownHosts: {{host: h, privateKey: {key}, passphrase: x, knownHosts: {odd}}}\n".replace(
            "privateKey: {host", "privatekey: {host"
        ).replace("knownHosts: {host", "knownhosts: {host")
    )
    code, out, err = await commands.ran("check", file)
    assert code == 0
    assert "Traceback" not in err
    if kind != "a file of 12 GiB":  # refused only when it is used
        for field in fields:
            assert re.search(rf"\.{field}: {re.escape(str(odd))}: .*{re.escape(said)}", err, re.IGNORECASE), field


async def test_check_warns_of_unusable_keys_and_algorithms(tmp_path: Path, keys: Keys) -> None:
    fine, locked, garbage = keys.make("fine"), keys.make("locked", passphrase="x"), tmp_path / "garbage"
    garbage.write_text("hello")
    file = tmp_path / "tunnels.yaml"
    fields = {
        "fine": f"privateKey: {fine.private}",
        "locked": f"privateKey: {locked.private}",
        "garbage": f"privateKey: {garbage}",
        "picked": f"privateKey: {fine.public}",
        "cipher": f"privateKey: {fine.private}, algorithms: {{cipher: [nosuch]}}",
        "list": f"privateKey: [{fine.private}, {locked.private}]",
        "passphrase": f"privateKey: {locked.private}, passphrase: {{file: {garbage}}}",
        "certificate": f"privateKey: {fine.private}, certificate: {garbage}",
    }
    messages = (
        "give its `passphrase`",
        "is not a valid private key",
        "selects a key of the agent, and there is none",
        'unknown cipher "nosuch"',
        "the passphrase does not decrypt",
        "is not a valid certificate",
    )
    file.write_text(
        "targets:\n" + "".join(f"  {name}: {{host: h, user: u, {more}}}\n" for name, more in fields.items())
    )
    checked = await commands.ran("check", file, env={"SSH_AUTH_SOCK": ""})
    assert checked.code == 0
    wrong = f"warning: {file}:(\\d+):\\d+: targets\\.(\\S+): .*(%s).*( \\[[a-z-]+\\])"
    warnings = [re.fullmatch(wrong % "|".join(messages), line) for line in checked.err.splitlines()]
    assert [one.groups() for one in warnings if one] == [
        ("3", "locked.privateKey", messages[0], " [unusable-login]"),
        ("4", "garbage.privateKey", messages[1], " [unusable-login]"),
        ("5", "picked.privateKey", messages[2], " [unusable-login]"),
        ("6", "cipher.algorithms.cipher[0]", messages[3], " [unknown-algorithm]"),
        ("7", "list.privateKey", messages[0], " [unusable-login]"),
        ("8", "passphrase.passphrase", messages[4], " [unusable-login]"),
        ("9", "certificate.certificate", messages[5], " [unusable-login]"),
    ]
    assert len(warnings) == 7
    strict = await commands.ran("check", "--strict", file, env={"SSH_AUTH_SOCK": ""})
    assert (strict.code, strict.out) == (2, "")
    assert [line.replace("error: ", "warning: ") for line in strict.err.splitlines()] == checked.err.splitlines()
    allow = "x-allow: [unusable-login, unknown-algorithm]"
    file.write_text(file.read_text().replace("host: h,", f"host: h, {allow},"))
    waived = await commands.ran("check", "--strict", file, env={"SSH_AUTH_SOCK": ""})
    assert (waived.code, waived.err) == (0, "")


async def test_check_opens_no_key_outside_the_secrets_directory(tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "garbage").write_text("hello")
    file = tmp_path / "tunnels.yaml"
    file.write_text("targets: {a: {host: h, user: u, privateKey: garbage}}\n")
    checked = await commands.ran("check", "--secrets-dir", tmp_path / "secrets", file)
    assert checked.code == 2
    assert checked.err.count("\n") == 1
    assert "--secrets-dir requires a file in" in checked.err


async def test_check_prints_the_configuration_with_defaults_and_revision() -> None:
    code, out, _ = await commands.ran("check", "--output", "json", EXAMPLES / "tunnels.yaml")
    found = json.loads(out)
    assert code == 0
    assert found["valid"] is True
    assert found["revision"].startswith("sha256:")
    assert found["config"]["targets"]["prod"]["keepaliveInterval"] == "10s"
