"""`check --output json` prints a file with the same meaning as its input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.cli.main import main
from reconciler.config.effective_json import to_json
from reconciler.config.load import load_text
from reconciler.config.options import Options
from reconciler.config.schema.values import SHORTEST, shown_rate
from reconciler.core.spec import Desired

ROOT = Path(__file__).parents[2]
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ2Fj3bqbdZDP0Xy3VSlBcgwSt2SKFA8qSiOoDqnaWhs"
ENVIRON = {
    "HOME": "/home/me",
    "SSH_AUTH_SOCK": "/run/agent",
    "PW": "hunter2",
    "PORT": "5432",
    "WORD": "k$y",
    "CREDENTIALS_DIRECTORY": "/c",
}
OPTIONS = Options(user="me", now=1_780_000_000.0, allow_commands=True)
FILES = sorted([ROOT / "examples" / "tunnels.yaml", ROOT / "examples" / "ci" / "tunnels.yaml"])
FILES += sorted((ROOT / "examples" / "systemd").glob("*.yaml"))
FILES += sorted((ROOT / "examples" / "compose" / "tunnels").glob("*.yaml"))
FILES += sorted((ROOT / "tests" / "configs" / "seed").glob("*.yaml"))


def load(text: str) -> Desired:
    loaded = load_text(text, environ=ENVIRON, options=OPTIONS, directory="/etc/tunnels")
    assert [str(problem) for problem in loaded.errors] == []
    return loaded.desired


@pytest.mark.parametrize(
    ("bytes_a_second", "expected"),
    [
        (0, "none"),
        (1, "1B/s"),
        (500, "500B/s"),
        (1000, "1kB/s"),
        (1024, "1KiB/s"),
        (1_500_000, "1.5MB/s"),
        (2 << 20, "2MiB/s"),
        (3 << 19, "1.5MiB/s"),
        (512 << 10, "512KiB/s"),
        (10**10, "10GB/s"),
        (1_234_567, "1234567B/s"),
    ],
)
def test_a_rate_is_shown_in_its_shortest_form(bytes_a_second: int, expected: str) -> None:
    assert shown_rate(bytes_a_second) == expected


def assert_round_trip(text: str) -> None:
    desired = load(text)
    assert load(json.dumps(to_json(desired), ensure_ascii=False)) == desired


CHAIN = f"""
defaults:
  target: {{user: d, hostKeys: ['{KEY}']}}
targets:
  outer: {{host: outer, agent: true, proxyCommand: [nc, "%h", "$$x"], connectTimeout: 3s}}
  other: {{host: outer, agent: true, proxyCommand: [nc, "%h", "$$x"], connectTimeout: 4s}}
  middle: {{host: middle, agent: true, jumpHost: outer, connectTimeout: 5s}}
  inner: {{hosts: [a, "[::1]:23", "fe80::1%eth0"], agent: /sock, jumpHost: middle}}
  deep:
    host: deep
    password: {{env: PW}}
    jumpHosts: [inner, {{host: inline, port: 2, user: i, privateKey: [/k, /x.pub]}}]
  bound: {{host: b, agent: true, addressFamily: inet6, bindAddress: "[fd00::0:1]"}}
  through-bound: {{host: t, agent: true, jumpHost: bound}}
  inline-bound: {{host: t, agent: true, jumpHosts: [{{host: j, agent: true, bindAddress: 127.0.0.2}}, plain]}}
  plain: {{host: plain, privateKey: x, jumpHosts: [{{hosts: ["a:1", "b:2"], agent: true, user: u}}]}}
"""


def test_chained_jump_hosts_keep_their_meaning_when_printed() -> None:
    assert_round_trip(CHAIN)
    desired = load(CHAIN)
    assert [len(target.access.via) for target in desired.targets.values()] == [0, 0, 1, 2, 4, 0, 1, 3, 1]
    assert load(json.dumps(to_json(desired))).targets["deep"].access.proxy_command == ("nc", "%h", "$x")


@pytest.mark.parametrize("file", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_an_example_keeps_its_meaning_when_printed(file: Path) -> None:
    assert_round_trip(file.read_text("utf-8"))


@pytest.mark.parametrize(
    "fields",
    [
        "knownHosts: []",
        f"knownHosts: [], strictHostKeyChecking: accept-new, hostKeys: ['{KEY}']",
        f"knownHosts: [/a, b], hostKeys: ['{KEY}']",
        "strictHostKeyChecking: false",
        "user: '$${X} $$y $'",
        "privateKey: '${WORD}'",
        "dialTimeout: 0.7s, keepaliveInterval: 333ms, handoverTimeout: 999999999.5s",
        "dialTimeout: 0.333333h, connectTimeout: 50.000001ms, handoverTimeout: 0.000001m",
        "jumpHosts: []",
        "reconnect: {factor: 1.1, initial: 0.05s, max: 0.1m}",
        "connect: onDemand, idleTimeout: 0.3s",
        "enabled: false, logLevel: debug, sshConnections: 16",
        "x-note: '${NO} $'",
    ],
)
def test_a_target_field_keeps_its_meaning_when_printed(fields: str) -> None:
    assert_round_trip(f"targets: {{p: {{host: h, agent: true, {fields}}}}}")


@pytest.mark.parametrize(
    "fields",
    [
        "local: '1:h:2', description: '$${HOME} $$$$ ${WORD} \U0001f600 \"quoted\" \\back'",
        "local: '1:h:2', labels: {a: 'true', b: '1', c: '', d: '~', e: '$${X}'}",
        "local: '1:h:2', bandwidthLimit: 0.5kB/s",
        "local: '1:h:2', bandwidthLimit: 999999999999GiB/s",
        "local: '1:h:2', expiresAt: '2027-01-31T00:00:00.25+05:30'",
        "local: '1:h:2', health: {type: http, path: '/$$x?a=b', interval: 0.7s}",
        "local: '/s:h:2', mode: '0007', group: g",
        "remote: '/r:/s', onConflict: standby",
        "socks: 1080, auth: [{username: 'a$$', password: {env: PW}}, {username: b, password: {file: /p}}]",
        "socks: 1080, allowDestinations: ['*.x:1-2', '10.0.0.0/8:*'], denyDestinations: ['[::1]:*']",
        "local: '10-20:h:2', portFile: ./p$$, idleTimeout: 0s, holdTimeout: 0.001s",
    ],
)
def test_a_tunnel_field_keeps_its_meaning_when_printed(fields: str) -> None:
    assert_round_trip(f"targets: {{p: {{host: h, agent: true, tunnels: [{{{fields}}}]}}}}")


_DURATIONS = st.builds(
    "{}{}{}".format,
    st.integers(1, 999_999_999),
    st.sampled_from(["", ".5", ".123456", ".000001"]),
    st.sampled_from(["s", "m", "h"]),
) | st.integers(int(SHORTEST * 1000), 99_999).map("{}ms".format)
_TEXTS = st.text(st.characters(exclude_categories=("Cc", "Cs", "Cn", "Co")), max_size=20).map(
    lambda text: text.replace("$", "$$").replace("\ufeff", "")
)
_SOURCES = st.sampled_from([{"env": "PW"}, {"file": "/p"}, {"file": "p"}])
_LOGINS = st.sampled_from(["privateKey", "password", "agent"]).flatmap(
    lambda name: st.tuples(
        st.just(name),
        {
            "privateKey": st.lists(st.sampled_from(["/k", "k2", "/x.pub", "${WORD}"]), min_size=1, max_size=3),
            "password": _SOURCES,
            "agent": st.sampled_from([True, "/sock"]),
        }[name],
    )
)


@st.composite
def _hops(draw: st.DrawFn) -> dict[str, Any]:
    made: dict[str, Any] = {
        "user": draw(st.sampled_from(["u", "$$u", "123"])),
        "connectTimeout": draw(_DURATIONS),
        "compress": draw(st.booleans()),
        **dict(draw(st.lists(_LOGINS, min_size=1, max_size=3))),
    }
    if draw(st.booleans()):
        made["hosts"] = draw(
            st.lists(st.sampled_from(["a", "b:22", "[::1]:23", "::2", "10.0.0.1"]), min_size=1, max_size=3)
        )
    else:
        made["host"] = draw(st.sampled_from(["a", "::1", "fe80::1%eth0", "10.0.0.1"]))
    made |= draw(
        st.sampled_from(
            [
                {},
                {"hostKeys": [KEY]},
                {"knownHosts": []},
                {"knownHosts": ["/a"]},
                {"strictHostKeyChecking": "accept-new"},
            ]
        )
    )
    return made


@st.composite
def _files(draw: st.DrawFn) -> dict[str, Any]:
    """Files with targets that use earlier targets as jump hosts, by name and inline."""
    targets: dict[str, Any] = {}
    for number in range(draw(st.integers(1, 5))):
        target = draw(_hops()) | {
            "dialTimeout": draw(_DURATIONS),
            "keepaliveInterval": draw(_DURATIONS),
            "tunnels": [{"local": f"{number + 1}:h:2", "description": draw(_TEXTS), "labels": {"a": draw(_TEXTS)}}],
        }
        way = draw(st.sampled_from(["direct", "command", "jumps"]))
        if way == "command":
            target["proxyCommand"] = ["nc", draw(_TEXTS)]
        elif way == "jumps" and targets:
            first = draw(st.sampled_from(sorted(targets)))
            target["jumpHosts"] = [first, *draw(st.lists(_hops(), max_size=2))]
        targets[f"t{number}"] = target
    return {"targets": targets}


@settings(max_examples=20)  # each reads two files
@given(_files())
def test_any_file_keeps_its_meaning_when_printed(document: dict[str, Any]) -> None:
    assert_round_trip(json.dumps(document, ensure_ascii=False))


def test_check_reads_what_check_prints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first = Path("a.yaml")
    text = "      - {local: '1:h:2', description: \"\U0001f600 \\u202e \\u2028 é\"}\n"
    first.write_text(
        f"targets:\n  p:\n    host: h\n    user: u\n    knownHosts: /k\n    agent: true\n    tunnels:\n{text}", "utf-8"
    )
    printed = CliRunner().invoke(main, ["check", "--output", "json", str(first)], env={"SSH_AUTH_SOCK": "/s"})
    assert "\u202e" not in printed.stdout
    config = printed.stdout[printed.stdout.index('"config": ') + 10 :].rstrip().removesuffix("}")
    again = Path("b.json")
    again.write_text(config, "utf-8")
    assert load(again.read_text("utf-8")) == load(first.read_text("utf-8"))
    assert CliRunner().invoke(main, ["check", str(again)]).exit_code == 0
