"""`tunnels trust` and `tunnels check --connect`, against real servers."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from integration.commands import ran
from support.keys import Keys
from support.services import EchoServer
from support.sshd import Sshd
from support.tunnels import local, target
from support.wait import free_port


def keys_to_paste(out: str) -> list[str]:
    """Return the first key under each `hostKeys:`."""
    return re.findall(r"^ *hostKeys:\n *- (.*)$", out, re.MULTILINE)


def shown_by_ssh_keygen(public_key: Path) -> str:
    import subprocess

    found = subprocess.run(["ssh-keygen", "-lf", public_key], capture_output=True, check=True, text=True)
    return found.stdout.split()[1]


async def test_trust_shows_the_fingerprint_and_the_line_to_paste(sshd: Sshd, tmp_path: Path) -> None:
    file = tmp_path / "tunnels.yaml"
    unknown = target(sshd, user="nobody", knownHosts=tmp_path / "none") + local("x", free_port(), 1)
    file.write_text("targets:\n" + unknown)
    fetched = await ran("trust", file)
    assert fetched.code == 0
    assert keys_to_paste(fetched.out) == [sshd.host_public_key]
    assert shown_by_ssh_keygen(sshd.host_key.public) in fetched.out
    assert "new key: compare it" in fetched.out
    assert "Accepted" not in sshd.log_text(), "no login"

    lines = "".join(line for line in fetched.out.splitlines(keepends=True) if line[:1] not in "#\n")
    pinned = target(sshd, knownHosts=None).replace("    tunnels:\n", f"{lines}    tunnels:\n")
    file.write_text("targets:\n" + pinned + local("x", free_port(), 1))
    assert (await ran("check", "--connect", file)).code == 0, "the pinned key is trusted"
    assert "already known" in (await ran("trust", file)).out


async def test_trust_warns_of_a_changed_key(sshd: Sshd, tmp_path: Path) -> None:
    file = tmp_path / "tunnels.yaml"
    file.write_text("targets:\n" + target(sshd) + local("x", free_port(), 1))
    sshd.change_host_key()
    await sshd.restart()
    fetched = await ran("trust", file)
    assert fetched.code == 0
    assert "CHANGED KEY: the known key is ssh-ed25519 SHA256:" in fetched.out


async def test_trust_reports_keys_that_cannot_be_fetched_and_shows_the_others(sshd: Sshd, tmp_path: Path) -> None:
    file = tmp_path / "tunnels.yaml"
    dead = f"  dead:\n    host: 127.0.0.1\n    port: {free_port()}\n    user: u\n    agent: true\n    tunnels: []\n"
    file.write_text("targets:\n" + target(sshd) + local("x", free_port(), 1) + dead)
    fetched = await ran("trust", file)
    assert fetched.code == 1
    assert "error: dead: 127.0.0.1:" in fetched.err
    assert keys_to_paste(fetched.out) == [sshd.host_public_key]
    assert (await ran("trust", file, "ser*")).code == 0
    (tmp_path / "server").mkdir()
    beside = await ran("trust", file, "server", cwd=tmp_path)
    assert (beside.code, keys_to_paste(beside.out)) == (0, [sshd.host_public_key]), (
        "the name is a target, not the directory"
    )
    broken = tmp_path / "broken.yaml"
    broken.write_text("[")
    half = await ran("trust", file, broken, "server")
    assert (half.code, keys_to_paste(half.out)) == (1, [sshd.host_public_key])
    assert "broken.yaml:" in half.err
    missing = await ran("trust", file, "nobody")
    assert missing.code == 1
    assert 'no target matches "nobody": the targets are server, dead' in missing.err


async def test_trust_fetches_keys_behind_a_jump_host(sshd: Sshd, tmp_path: Path) -> None:
    file = tmp_path / "tunnels.yaml"
    async with Sshd(tmp_path / "inner", client=sshd.client) as inner:
        behind = target(inner, "inner", knownHosts=tmp_path / "none", jumpHost="server") + local("x", free_port(), 1)
        file.write_text("targets:\n" + target(sshd) + local("x", free_port(), 1) + behind)
        fetched = await ran("trust", file, "inner")
        assert fetched.code == 0
        assert re.findall(r"^# (\w+): ", fetched.out, re.MULTILINE) == ["server", "inner"]
        assert keys_to_paste(fetched.out) == [sshd.host_public_key, inner.host_public_key]
        file.write_text("targets:\n" + target(sshd, knownHosts=tmp_path / "none") + local("x", free_port(), 1) + behind)
        refused = await ran("trust", file, "inner")
        assert refused.code == 1
        assert "cannot log in to the jump host of " in refused.err


@pytest.mark.parametrize("output", ["text", "json"])
async def test_check_connect_logs_in_to_every_target_and_opens_nothing(
    sshd: Sshd, echo: EchoServer, tmp_path: Path, output: str
) -> None:
    file, port = tmp_path / "tunnels.yaml", free_port()
    wrong = target(sshd, "wrong", privateKey=Keys(tmp_path / "other").make("other").private)
    file.write_text("targets:\n" + target(sshd) + local("echo", port, echo.port) + wrong + local("x", free_port(), 1))
    checked = await ran("check", "--connect", "--output", output, file)
    assert checked.code == 2
    if output == "json":
        logins = {one["target"]: (one["ok"], one["reason"]) for one in checked.json["logins"]}
        assert logins == {"server": (True, None), "wrong": (False, "auth")}
    else:
        assert f"target server: login to {sshd.host}:{sshd.port} as {sshd.user} succeeded" in checked.out
        assert "error: target wrong (auth): " in checked.err
    assert "logins" not in (await ran("check", "--output", "json", file)).json


async def test_an_unknown_key_names_the_command_that_pins_it(sshd: Sshd, tmp_path: Path) -> None:
    file, known = tmp_path / "my tunnels.yaml", tmp_path / "known"
    known.touch()
    file.write_text("targets:\n" + target(sshd, knownHosts=known) + local("x", free_port(), 1))
    refused = await ran("check", "--connect", file)
    [command] = re.findall(r"`tunnels (trust .*)`", refused.err)
    assert shlex.split(command) == ["trust", str(file), "server", "--known-hosts"]
    pinned = await ran(*shlex.split(command))
    assert (pinned.code, pinned.err) == (0, "")
    assert f"is added to {known}" in pinned.out
    assert (await ran("check", "--connect", file)).code == 0
    before = known.read_text()
    assert (await ran(*shlex.split(command))).code == 0
    assert known.read_text() == before, "a known key is not added again"


async def test_trust_adds_no_changed_key(sshd: Sshd, tmp_path: Path) -> None:
    file, before = tmp_path / "tunnels.yaml", sshd.known_hosts.read_text()
    file.write_text("targets:\n" + target(sshd) + local("x", free_port(), 1))
    sshd.change_host_key()
    await sshd.restart()
    refused = await ran("trust", file, "--known-hosts")
    assert refused.code == 1
    assert "has changed" in refused.err
    written = await ran("trust", "--write", file)
    assert written.code == 1
    assert "nothing is added" in written.err
    assert sshd.known_hosts.read_text() == before


BLOCK = """\
# our tunnels
targets:
    server:   # the bastion
        # by address
        host: 127.0.0.1  # not a name
        port: PORT

        user: USER
        privateKey: "KEY"
        tunnels:
            - local: "LOCAL:127.0.0.1:1"   # a tunnel
"""
LAYOUTS = {
    "block": BLOCK,
    "CRLF": BLOCK.replace("\n", "\r\n"),
    "braces": """\
targets:
  server: {host: 127.0.0.1, port: PORT, user: USER, privateKey: "KEY", tunnels: [{local: "LOCAL:127.0.0.1:1"}]}  # one
""",
    "JSON": """\
{"targets": {"server": {
  "host": "127.0.0.1", "port": PORT, "user": "USER", "privateKey": "KEY",
  "tunnels": [{"local": "LOCAL:127.0.0.1:1"}]}}}
""",
    "a value on the next line": """\
targets:
  server:
    host:
      127.0.0.1
    port: PORT
    user: USER
    privateKey: "KEY"
    tunnels: [{local: "LOCAL:127.0.0.1:1"}]""",
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=list(LAYOUTS))
async def test_trust_writes_keys_and_keeps_the_layout(sshd: Sshd, tmp_path: Path, layout: str) -> None:
    file, home = tmp_path / "tunnels.yaml", {"HOME": str(tmp_path)}
    values = {"PORT": sshd.port, "USER": sshd.user, "KEY": sshd.client_key, "LOCAL": free_port()}
    before = layout
    for word, value in values.items():
        before = before.replace(word, str(value))
    file.write_bytes(before.encode())
    file.chmod(0o640)
    written = await ran("trust", "server", "--write", file, env=home)
    assert (written.code, written.err) == (0, "")
    after = file.read_bytes().decode()
    start = next((n for n, (old, new) in enumerate(zip(before, after, strict=False)) if old != new), len(before))
    assert after.endswith(before[start:]), "one insertion"
    assert after.count("\r\n") in (0, after.count("\n"))
    assert file.stat().st_mode & 0o777 == 0o640
    assert (await ran("check", "--connect", file, env=home)).code == 0
    if before.startswith("{"):
        assert json.loads(after)["targets"]["server"]["hostKeys"] == [sshd.host_public_key]
    again = await ran("trust", "--write", file, env=home)
    assert (again.code, file.read_bytes().decode()) == (0, after), "a known key is not added again"


async def test_trust_writes_the_keys_of_jump_hosts_and_of_targets_with_one_server(sshd: Sshd, tmp_path: Path) -> None:
    file, home = tmp_path / "tunnels.yaml", {"HOME": str(tmp_path)}
    async with Sshd(tmp_path / "inner", client=sshd.client) as inner:
        hop = f"    jumpHosts:\n      - host: {sshd.host}\n        port: {sshd.port}\n        user: {sshd.user}\n"
        hop += f"        privateKey: {sshd.client_key}\n"
        behind = target(inner, "inner", knownHosts=None).replace("    tunnels:\n", f"{hop}    tunnels:\n")
        both = target(sshd, "one", knownHosts=None), target(sshd, "two", knownHosts=None)
        file.write_text("targets:\n" + "".join(one + local("x", free_port(), 1) for one in (*both, behind)))
        first = await ran("trust", "--write", file, env=home)
        assert first.code == 1, "the jump host is not trusted until its key is in the file"
        second = await ran("trust", "--write", file, env=home)
        assert (second.code, second.err) == (0, "")
        assert file.read_text().count(sshd.host_public_key) == 3
        assert file.read_text().count(inner.host_public_key) == 1
        assert (await ran("check", "--connect", file, env=home)).code == 0


async def test_trust_says_why_it_cannot_add_a_key(sshd: Sshd, tmp_path: Path) -> None:
    file, other = tmp_path / "tunnels.yaml", tmp_path / "other.yaml"
    file.write_text("targets:\n" + target(sshd, knownHosts=tmp_path / "none") + local("x", free_port(), 1))
    other.write_text("targets: {server: {tunnels: []}}\n")
    elsewhere = await ran("trust", file, other, "--write", other)
    assert elsewhere.code == 1
    assert "`targets.server` has no `host` in this file: name the file that has it" in elsewhere.err
    missing = await ran("trust", file, "--write", tmp_path / "none.yaml")
    assert missing.code == 1
    assert "none.yaml: no such file" in missing.err
    absent = await ran("trust", file, "--known-hosts")
    assert absent.code == 1
    assert "there is no such file" in absent.err
    assert (await ran("trust", file, "--write", file, "--known-hosts")).code == 2
