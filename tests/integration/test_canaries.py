"""What comes from variables, and what may be a secret, is in no output: 80 canaries, every command, endpoint, failure.

Each place of a file gets a text of its own that occurs nowhere else. Whatever is printed, logged or answered is
searched for all of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import sys
from collections.abc import AsyncIterator, Mapping
from functools import partial
from pathlib import Path

import aiohttp
import pytest

from integration.commands import process, ran
from support.sshd import Sshd
from support.wait import eventually, free_port, has_listener

BEGINNING = ("pending", "connecting")
CANARY = re.compile(r"cnr[0-9]{2}q[a-z]*", re.IGNORECASE)
VARIABLE = re.compile(r"\$\{(C[0-9]{2})[:}]")

TARGETS = """\
defaults:
  target: {{user: "u-${{C01}}", reconnect: {{initial: 100ms, max: 1s}}, logLevel: debug}}
  tunnel: {{description: "for ${{C02}}", labels: {{team: "${{C03}}", site: "a-${{C04}}-b"}}}}
targets:
  dns:
    host: ${{C05}}.invalid
    privateKey: {key}
    hostKeyAlias: ${{C06}}
    knownHosts: ["/nowhere/${{C07}}", "${{C08}}"]
    tunnels:
      - {{name: a, local: "{p1}:${{C09}}.internal:5432", portFile: "{dir}/${{C10}}/port"}}
      - {{name: b, type: local, localSocket: "{dir}/${{C11}}.sock", remoteSocket: "/run/${{C12}}.sock"}}
      - {{type: local, localSocket: "{dir}/${{C13}}", remotePort: 1}}
  refused:
    hosts: ["127.0.0.1:{closed}", "${{C14}}.invalid:2222", "${{C15}}"]
    agent: /nowhere/${{C16}}
    tunnels:
      - {{name: a, type: local, localPort: {p2}, remoteHost: "${{C17}}", remotePort: 1}}
  auth:
    host: {host}
    port: {port}
    user: ${{C18}}
    password: ${{C19}}
    knownHosts: {known_hosts}
    tunnels:
      - {{name: a, type: remote, remoteSocket: "/tmp/${{C20}}.sock", localPort: 1}}
      - {{name: b, type: remote, remotePort: 0, localHost: "${{C21}}.invalid", localPort: 1}}
  hostkey:
    host: {host}
    port: {port}
    user: ${{C22}}
    privateKey: {key}
    knownHosts: "{dir}/${{C23}}"
    tunnels: [{{name: a, local: "{p3}:x:1"}}]
  unreadable:
    host: {host}
    port: {port}
    privateKey: [{{file: "/nowhere/${{C24}}"}}, "/nowhere/${{C25}}"]
    passphrase: ${{C26}}
    certificate: /nowhere/${{C27}}
    tunnels: [{{name: a, local: "{p4}:x:1"}}]
  environment:
    host: {host}
    port: {port}
    password: {{env: C28}}
    knownHosts: {known_hosts}
    tunnels: [{{name: a, local: "{p5}:x:1"}}]
  proxied:
    host: ${{C29}}.example
    user: ${{C30}}
    password: {{env: C28}}
    strictHostKeyChecking: false
    proxyCommand: [sh, -c, 'echo "%h %r $0 $C31" >&2; env | grep C32= >&2; exit 3', "${{C33}}"]
    tunnels: [{{name: a, local: "{p6}:x:1"}}]
  program:
    host: h
    password: {{env: C28}}
    strictHostKeyChecking: false
    proxyCommand: ["/nowhere/${{C34}}", "${{C31}}", "${{C32}}"]
    tunnels: [{{name: a, local: "{p7}:x:1"}}]
  jumped:
    host: ${{C35}}
    privateKey: {key}
    jumpHost: {{host: "${{C36}}.invalid", user: "${{C37}}", privateKey: {key}, knownHosts: {known_hosts}}}
    algorithms: {{cipher: ["${{C38}}"], kex: ["${{C39}}"], mac: ["${{C40}}"], hostKey: ["${{C41}}"]}}
    tunnels: [{{name: a, local: "{p8}:${{C42}}:1"}}]
  chained:
    host: ${{C43}}
    privateKey: {key}
    jumpHosts: [auth, {{host: "${{C44}}", privateKey: {key}}}]
    tunnels: [{{name: a, local: "{p9}:x:1"}}]
  up:
    host: {host}
    port: {port}
    user: {user}
    privateKey: {key}
    knownHosts: {known_hosts}
    tunnels:
      - name: probed
        local: "{p10}:127.0.0.1:{closed}"
        description: ${{C45:-nothing}}
        health: {{type: http, path: "/health?token=${{C46}}", interval: 200ms, timeout: 1s, failureThreshold: 1}}
      - name: unknown
        local: "{p11}:${{C47}}.invalid:80"
        health: {{type: tcp, interval: 200ms, timeout: 1s, failureThreshold: 1}}
      - name: socks
        socks: {p12}
        auth: [{{username: "${{C48}}", password: "${{C49}}"}}, {{username: u, password: {{env: C50}}}}]
        allowDestinations: ["${{C51}}.internal:443", "*.${{C52}}.internal:*"]
        denyDestinations: ["${{C53}}:*"]
"""

# Mistakes. Each contains a literal canary, or one from a variable where variables are not allowed.
MISTAKES = """\
targets: {a: {host: h, user: u, password: !cnr54q}}
targets: {a: {host: h, user: u, password: *cnr54q}}
targets: {a: {host: h, user: u, password: &cnr55q x}}
targets: {a: {host: h, user: u, password: [cnr56q]}}
targets: {a: {host: h, user: u, password: {cnr57q: x}}}
targets: {a: {host: h, user: u, password: {cnr57q}}}
targets: {a: {host: h, user: u, passphrase: {file: {cnr58q: x}}}}
targets: {a: {host: h, user: u, pasword: cnr59q}}
targets: {a: {host: h, user: u, secret: cnr59q}}
targets: {a: {host: h, user: u, password:cnr60q}}
targets: {a: {host: h, user: u, password: {env: cnr-60q}}}
targets: {a: {host: "u:cnr61q@h", user: u, password: x}}
targets: {a: {host: "ssh://u:cnr61q@h:22", user: u, password: x}}
targets: {a: {hosts: ["u:cnr62q@h"], user: u, password: x}}
targets: {a: {host: h, jumpHost: "u:cnr63q@h", user: u, password: x}}
targets: {a: {host: h, jumpHosts: ["ssh://u:cnr63q@h"], user: u, password: x}}
targets: {"u:cnr64q@h": {host: h, agent: yes}}
targets: {a: {host: h, agent: true, tunnels: [{socks: 1080, auth: "u:cnr65q"}]}}
targets: {a: {host: h, agent: true, tunnels: [{socks: 1080, auth: {u:cnr66q}}]}}
targets: {a: {host: h, agent: true, tunnels: [{socks: 1080, auth: [{username: u, pass: cnr66q}]}]}}
targets: {a: {host: h, agent: true, tunnels: [{socks: 1080, auth: {u: cnr66q, cnr67q: u}}]}}
targets: {a: {host: h, agent: true, tunnels: [{local: "1:u:cnr68q@h:2"}]}}
targets: {a: {host: h, agent: true, tunnels: [{local: "1:h:2", health: {type: http, path: "x?token=cnr69q"}}]}}
targets: {a: {host: h, agent: true, proxyCommand: "curl --password cnr70q"}}
targets: {a: {host: h, agent: true, proxyCommand: [curl, [cnr71q]]}}
targets: {a: {host: h, agent: true, password: x, "cnr72q": , "cnr72q": }}
targets: {a: {host: h, agent: true, password: "cnr73q
password: cnr73q: x
targets: {a: {host: h, password: 'cnr74q' cnr74q}}
targets: {a: {host: h, password: cnr74q}
%TAG !cnr75q! x
--- !cnr75q!y x
targets: {a: {host: h, password: @cnr75q}}
targets: {a: {host: h, password: "\\cnr75q"}}
targets: [cnr76q]
- cnr76q
cnr76q
targets: {a: {host: h, user: u, agent: true, privateKey: {pth: cnr77q, env: E}}}
targets: {a: {host: h, agent: true, tunnels: [{local: "1:h:2", allow: ["u:cnr68q@h"]}]}}
targets: {a: {host: h, agent: true, tunnels: [{socks: 1, allowDestinations: ["http://u:cnr68q@h:443/"]}]}}
targets: {a: {host: h, agent: true, tunnels: [{socks: 1, auth: [cnr65q]}]}}
targets: {a: {host: h, agent: true, tunnels: [{socks: 1, auth: {[cnr65q]: x}}]}}
targets: {ssh://u:cnr64q@h: {agent: true}}
targets: {a: {host: h, agent: true, algorithms: {cipher: ["u:cnr68q@x"]}, hostKeyAlias: "u:cnr68q@x"}}
targets: {a: {host: h, agent: true, tunnels: [{name: "${C78}", local: "1:h:2"}]}}
targets: {a: {host: h, agent: true, jumpHost: "${C79}", port: "${C79}", compress: "${C80}", logLevel: "${C80}"}}
targets: {a: {host: "u:${C79}@h", agent: true, tunnels: [{local: "${C80}", allow: ["${C80}"], expiresAt: "${C80}"}]}}
"""


def canaries() -> dict[str, str]:
    return {f"C{number:02}": f"cnr{number:02}q{'abcdefgh'[number % 8]}" for number in range(1, 81)}


def assert_clean(where: str, text: str) -> None:
    found = sorted(set(CANARY.findall(text)))
    lines = [line for line in text.splitlines() if CANARY.search(line)]
    assert not found, f"{where} shows {found}: {lines[:3]}"


@pytest.fixture
def text(sshd: Sshd, tmp_path: Path) -> str:
    (tmp_path / "cnr23qh").write_text(f"[{sshd.host}]:{sshd.port} ssh-ed25519 {'A' * 68}\n")
    ports = {f"p{number}": free_port() for number in range(1, 13)}
    return TARGETS.format(
        dir=tmp_path,
        key=sshd.client_key,
        host=sshd.host,
        port=sshd.port,
        user=sshd.user,
        known_hosts=sshd.known_hosts,
        closed=free_port(),
        **ports,
    )


def test_the_canaries_are_many(text: str) -> None:
    """The file contains all its canaries, and together with the mistakes there are 80."""
    placed = {f"C{found[3:5]}" for found in CANARY.findall(MISTAKES)} | set(VARIABLE.findall(text + MISTAKES))
    placed |= {"C28", "C50"}  # as {env: ...}
    assert placed == set(canaries())


async def test_no_command_about_files_shows_a_variable(text: str, tmp_path: Path) -> None:
    file, other = tmp_path / "tunnels.yaml", tmp_path / "old.yaml"
    file.write_text(text)
    other.write_text(text.replace("C05", "C14").replace("C17", "C42").replace("?token=", "?key=").replace("for ", ""))
    env = canaries() | {"TUNNELS_CONTROL": str(tmp_path / "none.sock")}
    for expected, *words in (
        (0, "check", file),
        (0, "check", "--output", "json", file),
        (2, "check", "--strict", file),
        (0, "plan", file),
        (0, "plan", "--output", "json", "--from", other, file),
        (0, "plan", "--from", other, file),
        (1, "trust", file),
    ):
        result = await ran(*words, "--allow-commands", env=env)
        assert result.code == expected, result.err
        assert_clean(" ".join(map(str, words)), result.out + result.err)


async def test_no_message_about_a_mistake_shows_what_may_be_a_secret(tmp_path: Path) -> None:
    files = []
    for number, mistake in enumerate(MISTAKES.splitlines()):
        file = tmp_path / f"{number:02}.yaml"
        file.write_text(mistake)
        files.append(file)
    for output in ("text", "json"):
        result = await ran("check", "--each", "--allow-commands", "--output", output, *files, env=canaries())
        assert result.code == 2
        assert all(file.name in result.out + result.err for file in files)
        assert_clean(f"check --output {output}", result.out + result.err)


async def test_import_shows_no_password_of_a_line_that_it_leaves_out() -> None:
    lines = """\
sshpass -p cnr01q ssh -L 1:h:2 a
ssh -L 1:h:2 ssh://u:cnr01q@h
ssh -L 1:h:2 u:cnr01q@h
ssh -L 1:h:2 a mysql -pcnr01q
ssh -L 1:h:2 a && mysql -pcnr01q
ssh -o "ProxyCommand=nc --proxy-auth u:cnr01q %h %p" -L 1:h:2 a
ssh -o "RemoteCommand=mysql -pcnr01q" -L 1:h:2 a
ssh -J u:cnr01q@j -L 1:h:2 a
ssh -o "cnr01q" -L 1:h:2 a
--password=cnr01q ssh -L 1:h:2 a
PGPASSWORD=cnr01q ssh -L 1:h:2 a PGPASSWORD=cnr01q psql
ssh -L 1:h:2 a && PGPASSWORD=cnr01q psql
ssh -L u:cnr01q@h:1:2 a
ssh -R password=cnr01q:1:2:3:4 a
ssh -m u:cnr01q@x -L 1:h:2 a
ssh -Q token=cnr01q -L 1:h:2 a
ssh -L 1:$C01:2 a
ssh -i $C02 -l "$C01" -p $C02 -L 1:h:2 a
"""
    result = await ran("import", stdin=lines, env={"C01": "cnr01qb not a host", "C02": "cnr02qc"})
    assert result.code == 1
    assert_clean("import", result.out + result.err)


@pytest.mark.parametrize("form", ["text", "json"])
async def test_no_log_answer_or_failure_of_a_running_process_shows_a_variable(
    form: str, text: str, tmp_path: Path
) -> None:
    file, control, port = tmp_path / "tunnels.yaml", tmp_path / "control.sock", free_port()
    file.write_text(text)
    options = ("--log-level", "debug", "--log-format", form, "--metric-labels", "team,site", "--allow-commands")
    places = ("--control", control, "--listen", f"127.0.0.1:{port}")
    log = bytearray()
    async with (
        process("run", *options, *places, file, env=canaries()) as run,
        _reading(run, log) as reading,
    ):
        await eventually(partial(has_listener, control), within=30.0)
        async with _client(None, port) as http, _client(control, 0) as orders:
            status = await eventually(partial(_told, orders), within=40.0)
            for path in ("/metrics", "/readyz", "/readyz/up/probed", "/", "/api/v1/status"):
                assert_clean(path, await _get(http, path))
            assert_clean("status", status)
            ids = [tunnel["id"] for tunnel in json.loads(status)["tunnels"]]
            for one in ids:
                assert_clean(f"diagnose {one}", await _get(orders, f"/api/v1/diagnose?id={one}"))
            for path in ("/api/v1/events", "/api/v1/connections", "/api/v1/wait?timeout=0"):
                assert_clean(path, await _get(orders, path))
            plan = {"files": [{"name": "f", "directory": "/", "text": text.replace("C05", "C14")}]}
            assert_clean("plan", await _post(orders, "/api/v1/plan", plan))
            file.write_text(f"{text}  bad: {{host: '${{C79}}', port: '${{C79}}', pasword: cnr59q}}\n")
            assert_clean("reload", await _post(orders, "/api/v1/reload", {}))
            for path in ("/api/v1/status", "/api/v1/events"):
                assert_clean(f"{path} after a bad file", await _get(orders, path))
            env = {"TUNNELS_CONTROL": str(control)}
            for words in (("status",), ("diagnose", "proxied/a"), ("events",)):
                result = await ran(*words, env=env)
                assert_clean(" ".join(words), result.out + result.err)
        run.terminate()
        run.terminate()
        await asyncio.wait_for(reading, 30.0)
    assert len(log) > 10_000
    assert_clean(f"the log as {form}", log.decode())


async def _told(orders: aiohttp.ClientSession) -> str:
    """Return the status when each target is up or has failed and each probe has a result, else ""."""
    text = await _get(orders, "/api/v1/status")
    told, probed = json.loads(text), ("up/probed", "up/unknown")
    begun = all(one["phase"] not in BEGINNING or one["message"] for one in told["targets"])
    return text if begun and all(one["reason"] for one in told["tunnels"] if one["id"] in probed) else ""


@contextlib.asynccontextmanager
async def _reading(run: asyncio.subprocess.Process, log: bytearray) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(_read(run, log))
    try:
        yield task
    finally:
        sys.stderr.write(log[-3000:].decode("utf-8", "replace"))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _read(run: asyncio.subprocess.Process, log: bytearray) -> None:
    assert run.stderr is not None
    while data := await run.stderr.read(65536):
        log += data


def _client(control: Path | None, port: int) -> aiohttp.ClientSession:
    connector = aiohttp.UnixConnector(str(control)) if control else None
    return aiohttp.ClientSession(f"http://127.0.0.1:{port or 80}", connector=connector)


async def _get(client: aiohttp.ClientSession, path: str) -> str:
    async with client.get(path) as answer:
        return await answer.text()


async def _post(client: aiohttp.ClientSession, path: str, body: Mapping[str, object]) -> str:
    async with client.post(path, json=body) as answer:
        return await answer.text()
