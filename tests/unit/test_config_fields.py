"""The fields of the file: each text gives its spec."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import asyncssh
import pytest
import yaml

from reconciler.config.effective_json import to_json
from reconciler.config.load import Loaded, load_text
from reconciler.config.options import Options
from reconciler.core.observed import EMPTY, Now, Reason
from reconciler.core.off import DISABLED, UNSET_VARIABLE
from reconciler.core.secret import FromEnv, FromFile, Inline, Secret
from reconciler.core.spec import (
    AgentLogin,
    Algorithms,
    Endpoint,
    FarTcp,
    FarUnix,
    Health,
    KeyLogin,
    Listen,
    LocalTcp,
    LocalUnix,
    NearTcp,
    NearUnix,
    PasswordLogin,
    Reconnect,
    RemoteTcp,
    RemoteUnix,
    Route,
    Socks,
    SocksUser,
    TargetSpec,
    TrustMode,
    TunnelSpec,
)
from reconciler.core.status import make_status
from reconciler.ssh.connect.secret_source import read_bytes, read_text
from reconciler.ssh.errors.failure import DialFailed

ENVIRON = {"HOME": "/home/me", "SSH_AUTH_SOCK": "/run/agent", "PW": "hunter2", "PORT": "5432", "ON": "true"}
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ2Fj3bqbdZDP0Xy3VSlBcgwSt2SKFA8qSiOoDqnaWhs"


def load(text: str, **options: Any) -> Loaded:
    loaded = load_text(
        text, environ=ENVIRON, options=Options(user="me", now=1_780_000_000.0, **options), directory="/etc/tunnels"
    )
    assert [str(problem) for problem in loaded.errors] == []
    return loaded


def target(fields: str) -> TargetSpec:
    """Return a target with a host and these fields (flow style)."""
    return load(f"targets: {{prod: {{host: h, {fields}}}}}").desired.targets["prod"]


def tunnel(fields: str) -> TunnelSpec:
    """Return the tunnel with these fields."""
    loaded = load(f"targets: {{prod: {{host: h, agent: true, tunnels: [{{{fields}}}]}}}}")
    (only,) = loaded.desired.tunnels.values()
    return only


def codes(text: str) -> list[str]:
    return [str(problem.code) for problem in load(text).warnings]


# --- targets ---------------------------------------------------------------------------------------------------


def test_hosts_keep_their_order_and_may_have_their_own_ports() -> None:
    spec = load("targets: {p: {hosts: [a, 'b:2222', '[::1]:23', 'fd00::1'], port: 24, agent: true}}").desired.targets[
        "p"
    ]
    assert spec.access.hop.hosts == (
        Endpoint("a", 24),
        Endpoint("b", 2222),
        Endpoint("::1", 23),
        Endpoint("fd00::1", 24),
    )


def test_the_default_user_is_that_of_the_process_if_it_has_a_name() -> None:
    assert target("agent: true").access.hop.user == "me"
    (problem,) = load_text("targets: {p: {host: h, agent: true}}", options=Options(user="")).errors
    assert str(problem) == "tunnels.yaml:1:11: targets.p: no user: add `user` (the user of this process has no name)"


def test_logins_are_tried_in_the_order_of_the_file() -> None:
    spec = target(
        "password: {env: PW}, agent: true, privateKey: [~/.ssh/a, {file: b}, {env: PW}], passphrase: {file: /pp}"
    )
    pp = FromFile("/pp")
    assert spec.access.hop.logins == (
        PasswordLogin(FromEnv("PW")),
        AgentLogin("", ""),
        KeyLogin(FromFile("/home/me/.ssh/a"), pp, None),
        KeyLogin(FromFile("/etc/tunnels/b"), pp, None),
        KeyLogin(FromEnv("PW"), pp, None),
    )


def test_a_pub_file_selects_one_key_of_the_agent() -> None:
    spec = target("privateKey: ~/.ssh/yubi.pub, agent: ~/agent.sock")
    assert spec.access.hop.logins == (AgentLogin("/home/me/agent.sock", "/home/me/.ssh/yubi.pub"),)


def test_a_certificate_belongs_to_the_key_with_its_file_name() -> None:
    spec = target("privateKey: [/a, /b], certificate: /b-cert.pub")
    assert spec.access.hop.logins == (
        KeyLogin(FromFile("/a"), None, None),
        KeyLogin(FromFile("/b"), None, FromFile("/b-cert.pub")),
    )
    spec = target("privateKey: [/a, /b], certificate: /other.pub")
    first, _ = spec.access.hop.logins
    assert first == KeyLogin(FromFile("/a"), None, FromFile("/other.pub"))


def test_a_literal_secret_is_accepted_with_a_warning() -> None:
    loaded = load("targets: {p: {host: h, password: 12345}}")
    assert loaded.desired.targets["p"].access.hop.logins == (PasswordLogin(Inline(Secret("12345"))),)
    assert [problem.code for problem in loaded.warnings] == ["literal-secret"]
    assert "12345" not in repr(loaded)


def test_a_secret_that_is_one_variable_is_read_at_each_use() -> None:
    spec = target("password: '${PW}', privateKey: '${NO_SUCH}'")
    assert spec.access.hop.logins == (PasswordLogin(FromEnv("PW")), KeyLogin(FromEnv("NO_SUCH"), None, None))


def test_the_default_value_of_a_secret_variable_is_a_literal() -> None:
    assert codes("targets: {p: {host: h, password: '${NO:-x}'}}") == ["literal-secret"]


def test_no_message_shows_the_value_of_a_variable() -> None:
    tunnels = "[{socks: 1, allow: ['${PW}'], local: '${PW}'}]"
    text = "targets: {p: {host: h, port: '${PW}', hosts: ['${PW}:x'], tunnels: " + tunnels + "}}"
    loaded = load_text(text, environ=ENVIRON)
    assert len(loaded.errors) >= 4
    assert "hunter2" not in repr(loaded)


def test_a_private_key_variable_may_hold_a_path_or_the_key() -> None:
    environ = ENVIRON | {"A": "~/.ssh/a", "B": "-----BEGIN OPENSSH PRIVATE KEY-----\nx\n"}
    loaded = load_text("targets: {p: {host: h, privateKey: ['${A}', '${B}']}}", environ=environ)
    logins = loaded.desired.targets["p"].access.hop.logins
    assert logins == (KeyLogin(FromFile("/home/me/.ssh/a"), None, None), KeyLogin(FromEnv("B"), None, None))


async def test_a_variable_with_a_base64_key_is_never_shown() -> None:
    key = base64.b64encode(b"-----BEGIN OPENSSH PRIVATE KEY-----\nx\n").decode()
    text = "targets: {p: {host: h, privateKey: '${B}', tunnels: [{local: '1:h:2'}]}}"
    loaded = load_text(text, environ=ENVIRON | {"B": key})
    [warning] = loaded.warnings
    assert "the path in $B: no such file" in str(warning)
    [login] = loaded.desired.targets["p"].access.hop.logins
    assert isinstance(login, KeyLogin)
    with pytest.raises(DialFailed) as failed:
        await read_bytes(login.key, {}, "the private key")
    shown = (failed.value.failure.message, loaded.desired, loaded.warnings, to_json(loaded.desired))
    assert key not in " ".join(map(repr, shown))
    assert "the path in $B" in failed.value.failure.message


@pytest.mark.parametrize("change", ["base64", "one line", "certificate"])
def test_a_variable_that_is_a_key_is_not_taken_for_a_path(change: str) -> None:
    key = asyncssh.generate_private_key("ssh-ed25519")
    text = key.export_private_key().decode()
    certificate = key.generate_user_certificate(key, "id").export_certificate().decode().strip()
    value = {
        "base64": base64.b64encode(text.encode()).decode(),
        "one line": text.replace("\n", " "),
        "certificate": text,
    }
    fields = "privateKey: '${K}', certificate: '${C}'"
    environ = ENVIRON | {"K": value[change], "C": certificate}
    loaded = load_text(f"targets: {{p: {{host: h, {fields}, tunnels: [{{local: '1:h:2'}}]}}}}", environ=environ)
    [login] = loaded.desired.targets["p"].access.hop.logins
    assert login == KeyLogin(FromEnv("K"), None, FromEnv("C"))


def test_a_key_on_a_hardware_token_is_an_error() -> None:
    text = "targets: {p: {host: h, privateKey: 'pkcs11:token=a;object=b', tunnels: [{local: '1:h:2'}]}}"
    [error] = load_text(text, environ=ENVIRON).errors
    assert "keys of hardware tokens (PKCS #11) are not read: add the token to an SSH agent" in str(error)


def test_host_key_fields_set_the_trust() -> None:
    assert target("agent: true").access.hop.trust.known_hosts == ("/home/me/.ssh/known_hosts",)
    pinned = target(f"agent: true, hostKeys: ['{KEY}', '@cert-authority {KEY}'], hostKeyAlias: x").access.hop.trust
    assert (pinned.host_keys, pinned.known_hosts, pinned.alias) == ((KEY, f"@cert-authority {KEY}"), (), "x")
    new = target("agent: true, strictHostKeyChecking: accept-new, knownHosts: [a, b]").access.hop.trust
    assert (new.mode, new.known_hosts) == (TrustMode.ACCEPT_NEW, ("/etc/tunnels/a", "/etc/tunnels/b"))
    assert codes("targets: {p: {host: h, agent: true, strictHostKeyChecking: false}}") == ["host-keys-unchecked"]


@pytest.mark.parametrize(
    "alias",
    [
        *("bastion", "Bastion-1.example_x", "10.0.0.1", "::1", "fe80::1%eth0", "2001:db8:0:1:2:3:4:5"),
        *("[bastion]:2222", "[::1]:22", "a" * 253),
    ],
)
def test_a_host_key_alias_is_a_name_or_an_address_with_or_without_a_port(alias: str) -> None:
    assert target(f"agent: true, hostKeyAlias: '{alias}'").access.hop.trust.alias == alias


@pytest.mark.parametrize(
    "value",
    [
        *(
            "x\ntouch /tmp/pwned #",
            "x\n",
            "@cert-authority *",
            "*",
            "?",
            "a,b",
            "!a",
            "|1|a|b",
            "a b",
            " a",
            "#a",
            "-a",
        ),
        *("a:22", "[a]", "[a]:", "[a]:22\n", "[a,b]:22", "[*]:22", "::1%a\nb", "::1%a,b", "a" * 254, ""),
    ],
)
@pytest.mark.parametrize("written", ["as it is", "by a variable", "beside what looks like one"])
def test_any_other_host_key_alias_is_an_error(value: str, written: str) -> None:
    """accept-new writes the alias into a file. The schema alone would accept any text with `${`."""
    spelt = {"as it is": value, "by a variable": "${ALIAS}", "beside what looks like one": f"{value}$${{"}[written]
    text = "targets:\n  p:\n    host: h\n    agent: true\n    hostKeyAlias: " + json.dumps(spelt)
    (problem,) = load_text(text, environ={"ALIAS": value}, options=Options(user="me")).errors
    assert (problem.line, problem.path) == (5, "targets.p.hostKeyAlias")
    assert "host key alias" in problem.message


@pytest.mark.parametrize(
    "value", ["*", "a?", "!a", "a,b", "|1|a|b", "#a", "a;b", "a$(b)", "a=b", "fe80::1%x\ntouch pwned #", "fe80::1%a,b"]
)
@pytest.mark.parametrize("field", ["host", "hosts", "jumpHost"])
@pytest.mark.parametrize("written", ["as it is", "by a variable", "beside what looks like one"])
def test_a_host_with_an_impossible_character_is_an_error(value: str, field: str, written: str) -> None:
    """Its key would be pinned under a pattern that matches other hosts, or no host."""
    spelt = {"as it is": value, "by a variable": "${A}", "beside what looks like one": f"{value}$${{"}[written]
    given = {"host": spelt, "hosts": [spelt], "jumpHost": {"host": spelt}}[field]
    fields = {"host": "h"} | {field: given} if field == "jumpHost" else {field: given}
    text = json.dumps({"targets": {"p": fields | {"agent": True}}})
    (problem,) = load_text(text, environ={"A": value}, options=Options(user="me")).errors
    assert ": expected a name or an address" in problem.message


@pytest.mark.parametrize("name", ["a_b.example-1", "münchen.example", "10.0.0.1", "fe80::1%eth0.1", "i-0abc"])
def test_usual_host_names_are_accepted(name: str) -> None:
    for field in (f"host: '{name}'", f"hosts: ['{name}']"):
        assert load(f"targets: {{p: {{{field}, agent: true}}}}").desired.targets["p"].access.hop.hosts[0].host == name


def test_target_settings_are_read() -> None:
    spec = target(
        "agent: true, connectTimeout: 5s, dialTimeout: 500ms, keepaliveInterval: 1m, keepaliveCountMax: 0, "
        "compress: true, "
        "algorithms: {cipher: [c1, c2], hostKey: [k]}, connect: onDemand, idleTimeout: 1h, sshConnections: 4, "
        "reconnect: {max: 1m}, handoverTimeout: 0s, strictKeyPermissions: true, logLevel: debug, enabled: false"
    )
    settings, hop = spec.settings, spec.access.hop
    assert settings.connect_timeouts == (5.0,)
    assert (settings.dial_timeout, settings.keepalive_interval, settings.keepalive_count_max) == (0.5, 60.0, 0)
    assert settings.reconnect == Reconnect(0.25, 60.0, 2.0)
    assert (settings.handover_timeout, settings.log_level) == (0.0, "debug")
    assert hop.algorithms == Algorithms(("c1", "c2"), (), (), ("k",))
    assert (hop.compress, hop.strict_key_permissions) == (True, True)
    assert (spec.on_demand, spec.connections, spec.off) == (3600.0, 4, DISABLED)


def test_bare_numbers_are_milliseconds() -> None:
    spec = target("agent: true, connectionTimeout: 60000, keepaliveInterval: 10000")
    assert (spec.settings.connect_timeouts, spec.settings.keepalive_interval) == ((60.0,), 10.0)
    assert codes("targets: {p: {host: h, agent: true, keepaliveInterval: 100}}") == ["milliseconds"]


def test_a_repeated_duration_is_at_least_50_ms() -> None:
    spec = target("agent: true, reconnect: {initial: 50ms, max: 0.05s, factor: 1}, keepaliveInterval: 50ms")
    assert (spec.settings.reconnect.initial, spec.settings.reconnect.max) == (0.05, 0.05)
    assert spec.settings.keepalive_interval == 0.05
    assert target("agent: true, keepaliveInterval: 0s").settings.keepalive_interval == 0, "none"
    for field in ("reconnect: {initial: 49ms}", "reconnect: {max: 1ms}", "keepaliveInterval: 1", "dialTimeout: 0.001s"):
        (problem,) = load_text(f"targets: {{p: {{host: h, user: u, agent: true, {field}}}}}").errors
        assert problem.message == "too short: expected at least 50ms", field


def test_a_proxy_command_needs_permission() -> None:
    loaded = load("targets: {p: {host: h, agent: true, proxyCommand: [nc, '%h', 22]}}", allow_commands=True)
    assert loaded.desired.targets["p"].access.proxy_command == ("nc", "%h", "22")


# --- jump hosts ------------------------------------------------------------------------------------------------

JUMPS = """
defaults:
  target: {user: deploy, agent: true, connectTimeout: 7s}
targets:
  outer: {host: outer, proxyCommand: [nc]}
  middle: {host: middle, jumpHost: outer, user: m, connectTimeout: 8s}
  inner: {host: inner, user: i, password: {env: PW}, jumpHosts: [middle, {host: inline, port: 23}]}
"""


def test_a_named_jump_host_has_its_own_jumps_and_an_inline_one_has_the_defaults() -> None:
    access = load(JUMPS, allow_commands=True).desired.targets["inner"].access
    assert [(str(hop.hosts[0]), hop.user) for hop in access.via] == [
        ("outer:22", "deploy"),
        ("middle:22", "m"),
        ("inline:23", "deploy"),
    ]
    assert access.via[2].logins == (AgentLogin("", ""),)
    assert access.proxy_command == ("nc",)
    assert load(JUMPS, allow_commands=True).desired.targets["inner"].settings.connect_timeouts == (7.0, 8.0, 7.0, 7.0)


def test_a_default_jump_host_does_not_go_through_itself() -> None:
    loaded = load(
        "defaults: {target: {agent: true, jumpHosts: [a, b]}}\ntargets: {a: {host: a}, b: {host: b}, c: {host: c}}"
    )
    via = {name: [hop.hosts[0].host for hop in t.access.via] for name, t in loaded.desired.targets.items()}
    assert via == {"a": [], "b": ["a"], "c": ["a", "b"]}


OUTBOUND = """
defaults:
  target: {agent: true, addressFamily: inet, bindAddress: 127.0.0.9}
targets:
  direct: {host: direct}
  own: {host: own, bindAddress: 127.0.0.2}
  behind: {host: behind, jumpHost: own}
  deep: {host: deep, jumpHosts: [{host: inline, bindAddress: 127.0.0.3}, own, {host: last}]}
  command: {host: command, proxyCommand: [nc]}
  behind-command: {host: h, jumpHost: command}
  six: {host: "fd00::1", jumpHost: own}
"""


def test_the_first_connection_of_a_path_has_the_local_address_of_its_server() -> None:
    targets = load(OUTBOUND, allow_commands=True).desired.targets
    assert {name: (str(t.access.outbound.family), t.access.outbound.bind_address) for name, t in targets.items()} == {
        "direct": ("inet", "127.0.0.9"),
        "own": ("inet", "127.0.0.2"),
        "behind": ("inet", "127.0.0.2"),
        "deep": ("inet", "127.0.0.3"),
        "command": ("any", ""),
        "behind-command": ("any", ""),
        "six": ("inet", "127.0.0.2"),
    }


@pytest.mark.parametrize(
    ("given", "address"),
    [("'::1'", "::1"), ("'[::1]'", "::1"), ("fe80::1%eth0", "fe80::1%eth0"), ("'${ADDRESS:-127.0.0.2}'", "127.0.0.2")],
)
def test_a_local_address_may_have_brackets_or_a_zone(given: str, address: str) -> None:
    assert target(f"bindAddress: {given}").access.outbound.bind_address == address


# --- tunnels ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "listen", "route"),
    [
        ("type: local, localPort: 1, remotePort: 2", LocalTcp("127.0.0.1", 1, 1), FarTcp("prod", "localhost", 2)),
        ("type: remote, remotePort: 1, localPort: 2", RemoteTcp("prod", "127.0.0.1", 1), NearTcp("localhost", 2)),
        ("type: socks, port: 1", LocalTcp("127.0.0.1", 1, 1), Socks("prod")),
        ("type: socks, localPort: 1, localHost: '::1'", LocalTcp("::1", 1, 1), Socks("prod")),
        ("type: socks, port: 1, host: 127.0.0.2", LocalTcp("127.0.0.2", 1, 1), Socks("prod")),
        ("local: '1:h:2'", LocalTcp("127.0.0.1", 1, 1), FarTcp("prod", "h", 2)),
        ("local: '0:h:2'", LocalTcp("127.0.0.1", 0, 0), FarTcp("prod", "h", 2)),
        ("local: '10-20:h:2'", LocalTcp("127.0.0.1", 10, 20), FarTcp("prod", "h", 2)),
        ("local: '127.0.0.9:1:h:2'", LocalTcp("127.0.0.9", 1, 1), FarTcp("prod", "h", 2)),
        ("local: '[::1]:1:[fd00::1]:2'", LocalTcp("::1", 1, 1), FarTcp("prod", "fd00::1", 2)),
        ("local: '*:1:h:2'", LocalTcp("*", 1, 1), FarTcp("prod", "h", 2)),
        ("local: ':1:h:2'", LocalTcp("*", 1, 1), FarTcp("prod", "h", 2)),
        ("local: '1:/run/s'", LocalTcp("127.0.0.1", 1, 1), FarUnix("prod", "/run/s")),
        ("local: 'h:1:/run/s'", LocalTcp("h", 1, 1), FarUnix("prod", "/run/s")),
        ("local: '/run/l:h:2'", LocalUnix("/run/l", 0o600, ""), FarTcp("prod", "h", 2)),
        ("local: '/run/l:/run/s'", LocalUnix("/run/l", 0o600, ""), FarUnix("prod", "/run/s")),
        ("remote: '1:h:2'", RemoteTcp("prod", "127.0.0.1", 1), NearTcp("h", 2)),
        ("remote: '0.0.0.0:1:h:2'", RemoteTcp("prod", "0.0.0.0", 1), NearTcp("h", 2)),
        ("remote: '/run/r:h:2'", RemoteUnix("prod", "/run/r"), NearTcp("h", 2)),
        ("remote: '1:./s'", RemoteTcp("prod", "127.0.0.1", 1), NearUnix("/etc/tunnels/s")),
        ("socks: 1080", LocalTcp("127.0.0.1", 1080, 1080), Socks("prod")),
        ("socks: '[::1]:1080'", LocalTcp("::1", 1080, 1080), Socks("prod")),
        (
            "type: local, localSocket: s, mode: 0660, group: app, remoteSocket: /r",
            LocalUnix("/etc/tunnels/s", 0o660, "app"),
            FarUnix("prod", "/r"),
        ),
        ("type: socks, localSocket: /s", LocalUnix("/s", 0o600, ""), Socks("prod")),
        ("type: remote, remoteSocket: /r, localSocket: ~/s", RemoteUnix("prod", "/r"), NearUnix("/home/me/s")),
        ("type: local, localPort: '${PORT}', remotePort: '${NO:-7}'", LocalTcp("127.0.0.1", 5432, 5432), None),
    ],
)
def test_each_form_of_a_tunnel_has_its_listener_and_route(fields: str, listen: Listen, route: Route | None) -> None:
    spec = tunnel(fields)
    assert (spec.listen, spec.route) == (listen, route or FarTcp("prod", "localhost", 7))


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ("local: '1:h:2'", "local-1"),
        ("local: '10-20:h:2'", "local-10-20"),
        ("remote: '8080:h:2'", "remote-8080"),
        ("socks: 1080", "socks-1080"),
        ("local: '/run/My Socket:h:2'", "local-my-socket"),
        ("local: '1:h:2', name: pg", "pg"),
    ],
)
def test_a_tunnel_is_named_by_name_or_by_type_and_port(fields: str, name: str) -> None:
    assert tunnel(fields).id == f"prod/{name}"


def test_policy_fields_are_read() -> None:
    policy = tunnel(
        "type: socks, port: 1080, description: d, labels: {team: data, n: 1}, allow: [10.0.0.0/8], deny: ['::1'], "
        "maxConnections: 5, holdTimeout: 0s, idleTimeout: 1h, drainTimeout: 1m, bandwidthLimit: 1.5MiB/s, "
        "allowDestinations: ['*.x:443'], denyDestinations: ['bad.x:*'], critical: false, audit: true, "
        "expiresAt: 2027-01-31T00:00:00+01:00, portFile: p, "
        "auth: [{username: u, password: {env: PW}}, {username: v, password: {file: /v}}]"
    ).policy
    assert policy.labels == (("team", "data"), ("n", "1"))
    assert (policy.allow, policy.deny, policy.max_connections) == (("10.0.0.0/8",), ("::1",), 5)
    assert (policy.hold_timeout, policy.idle_timeout, policy.drain_timeout) == (0.0, 3600.0, 60.0)
    assert policy.bandwidth_limit == 1_572_864
    assert (policy.allow_destinations, policy.deny_destinations) == (("*.x:443",), ("bad.x:*",))
    assert (policy.critical, policy.audit, policy.port_file) == (False, True, "/etc/tunnels/p")
    assert policy.expires_at == 1_801_350_000.0
    assert policy.users == (SocksUser("u", FromEnv("PW")), SocksUser("v", FromFile("/v")))


def test_health_fields_are_read() -> None:
    http = tunnel(
        "local: '1:h:2', health: {type: http, path: /health, onFailure: reconnect, timeout: 1s}"
    ).policy.health
    assert http == Health("http", "/health", 30.0, 1.0, 3, reconnect=True)
    assert tunnel("local: '1:h:2', health: {type: tcp}").policy.health == Health(
        "tcp", "", 30.0, 5.0, 3, reconnect=False
    )
    assert tunnel("local: '1:h:2'").policy.health is None


def test_clients_are_audited_by_default_if_other_machines_can_connect() -> None:
    assert tunnel("local: '0.0.0.0:1:h:2'").policy.audit
    assert not tunnel("local: '127.1.2.3:1:h:2'").policy.audit
    assert not tunnel("local: '0.0.0.0:1:h:2', audit: false").policy.audit


# --- defaults and variables ------------------------------------------------------------------------------------


def test_the_nearest_wins_lists_replace_and_deny_lists_add_up() -> None:
    loaded = load("""
defaults:
  target: {user: deploy, agent: true, reconnect: {initial: 1s}, knownHosts: /a, port: 23}
  tunnel: {maxConnections: 5, allow: [10.0.0.0/8], deny: [10.0.0.1], labels: {team: a, env: x}, health: {type: http}}
targets:
  p:
    host: h
    user: other
    reconnect: {max: 9s}
    tunnels:
      - {local: "1:h:2"}
      - {local: "2:h:2", maxConnections: 6, allow: ["::1"], deny: [10.0.0.2], labels: {team: b}, health: false}
      - {socks: 3}
""")
    spec = loaded.desired.targets["p"]
    assert (spec.access.hop.user, spec.access.hop.hosts[0].port) == ("other", 23)
    assert spec.settings.reconnect == Reconnect(1.0, 9.0, 2.0)
    first, second, third = (t.policy for t in loaded.desired.tunnels.values())
    assert (first.max_connections, first.allow, first.deny) == (5, ("10.0.0.0/8",), ("10.0.0.1",))
    assert (second.max_connections, second.allow, second.deny) == (6, ("::1",), ("10.0.0.1", "10.0.0.2"))
    assert dict(second.labels) == {"team": "b", "env": "x"}
    assert (first.health is None, second.health, third.health) == (False, None, None)


def test_an_alternative_spelling_replaces_the_inherited_one() -> None:
    loaded = load(f"""
defaults: {{target: {{agent: true, connectionTimeout: 1000, knownHosts: /a, jumpHost: {{host: j}}}},
            tunnel: {{localSocket: /s, type: socks}}}}
targets: {{p: {{host: h, connectTimeout: 2s, hostKeys: ['{KEY}'], jumpHosts: [],
                tunnels: [{{port: 1}}, {{local: '2:h:3'}}]}}}}
""")
    spec = loaded.desired.targets["p"]
    assert (spec.settings.connect_timeouts, spec.access.via, spec.access.hop.trust.known_hosts) == ((2.0,), (), ())
    assert [str(t.listen) for t in loaded.desired.tunnels.values()] == ["127.0.0.1:1", "127.0.0.1:2"]


def test_variables_expand_in_any_value_with_the_type_of_the_field() -> None:
    spec = target(
        "agent: true, user: '${PORT}', port: '${PORT}', compress: '${ON}', hostKeyAlias: 'a-${PORT}-${NO:-d}', "
        "knownHosts: '/a-$$'"
    )
    assert (spec.access.hop.user, spec.access.hop.hosts[0].port, spec.access.hop.compress) == ("5432", 5432, True)
    assert (spec.access.hop.trust.alias, spec.access.hop.trust.known_hosts) == ("a-5432-d", ("/a-$",))


def test_an_unset_variable_breaks_only_targets_that_depend_on_it() -> None:
    text = """
targets:
  a: {host: "${NO_A}", agent: true, tunnels: [{local: "${NO_B}", name: x}, {local: "1:h:2"}]}
  b: {host: b, agent: true, jumpHost: a, tunnels: [{local: "2:h:2"}]}
  c: {host: c, agent: true, tunnels: [{local: "3:h:2"}]}
"""
    loaded = load(text)
    assert set(loaded.broken) == {"a", "b", "a/x"}
    assert loaded.broken["a"].startswith("tunnels.yaml:3:13: targets.a.host: ${NO_A} is not set")
    assert {t.name: t.off for t in loaded.desired.targets.values()} == {
        "a": UNSET_VARIABLE,
        "b": UNSET_VARIABLE,
        "c": None,
    }
    phases = {one.id: one.verdict for one in make_status(loaded.desired, EMPTY, Now(0.0, 0.0), loaded.broken).tunnels}
    assert {id_: verdict.reason for id_, verdict in phases.items() if verdict.needs_action} == {
        "a/x": Reason.SECRET_UNREADABLE,
        "a/local-1": Reason.SECRET_UNREADABLE,
        "b/local-2": Reason.SECRET_UNREADABLE,
    }
    assert [str(problem.code) for problem in loaded.warnings] == ["unset-variable", "unset-variable"]
    assert not load_text(text, environ={}, options=Options(strict=True)).usable


def test_an_unset_variable_of_a_tunnel_keeps_off_this_tunnel_only() -> None:
    """The other tunnels of the target may belong to other files."""
    loaded = load("""
targets:
  a:
    host: a
    agent: true
    tunnels:
      - {local: "${NO_A}", name: x}
      - {local: "1:h:2"}
      - {type: socks, port: 3, auth: {username: "${NO_B}", password: p}}
      - {local: "4:h:2", description: "${NO_C}", enabled: false}
""")
    assert loaded.errors == ()
    assert loaded.desired.targets["a"].off is None
    assert {t.id: t.off for t in loaded.desired.tunnels.values()} == {
        "a/x": UNSET_VARIABLE,
        "a/local-1": None,
        "a/socks-3": UNSET_VARIABLE,
        "a/local-4": DISABLED,
    }
    verdicts = {one.id: one.verdict for one in make_status(loaded.desired, EMPTY, Now(0.0, 0.0), loaded.broken).tunnels}
    assert {id_ for id_, verdict in verdicts.items() if verdict.needs_action} == {"a/x", "a/socks-3"}
    assert verdicts["a/x"].message.startswith("tunnels.yaml:7:17: targets.a.tunnels[0].local: ${NO_A} is not set")


@pytest.mark.parametrize("home", [{}, {"HOME": ""}, {"HOME": "relative"}])
def test_a_tilde_without_a_home_directory_breaks_only_its_target(
    home: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 12_345)
    text = """
targets:
  tilde: {host: a, privateKey: ~/id, tunnels: [{name: x, local: "1:h:2"}]}
  other-user: {host: b, privateKey: [/id, {file: ~no-such-user/id}], knownHosts: /k}
  absolute: {host: c, privateKey: /id}
"""
    loaded = load_text(text, environ=home, options=Options(user="me"))
    assert loaded.valid
    assert loaded.broken.keys() == {"tilde", "other-user"}
    variable = "HOME is not an absolute path" if home.get("HOME") else "HOME is not set"
    assert loaded.broken["tilde"] == (
        f"tunnels.yaml:3:32: targets.tilde.privateKey: `~` is unknown ({variable}, and uid 12345 has no home directory "
        "in passwd): write an absolute path, or set HOME in the environment of this process"
    )
    assert loaded.broken["other-user"] == (
        "tunnels.yaml:4:50: targets.other-user.privateKey: `~no-such-user` is unknown (there is no such user): "
        "write an absolute path"
    )
    assert loaded.desired.targets["absolute"].access.hop.trust.known_hosts == (), "the default is below `~`"


def test_a_tilde_below_the_root_has_one_slash() -> None:
    found = load_text("targets: {a: {host: a, privateKey: ~/id}}", environ={"HOME": "/"}).desired
    assert found.targets["a"].access.hop.logins == (KeyLogin(FromFile("/id"), None, None),)


def test_an_unset_variable_changes_no_other_field() -> None:
    text = """
targets:
  a:
    host: a
    agent: true
    tunnels:
    - local: "1:${NO_DB}:2"
    - local: "${NO_PORT}:h:2"
    - local: "${NO_OTHER}:h:2"
    - remote: "127.0.0.1:3:${NO_HOST}:${NO_PORT}"
    - socks: "${NO_BIND}:${NO_PORT}"
    - {type: local, localPort: "${NO_RANGE}", remoteSocket: /s}
    - local: "${NO_FORM}"
    - {name: sound, local: "4:h:2"}
"""
    loaded = load(text)
    assert not loaded.errors
    assert [(t.id, str(t.listen), str(t.route)) for t in loaded.desired.tunnels.values()] == [
        ("a/local-1", "127.0.0.1:1", "${NO_DB}:2"),
        ("a/local-unset", "127.0.0.1:(any port)", "h:2"),
        ("a/local-unset-2", "127.0.0.1:(any port)", "h:2"),
        ("a/remote-3", "127.0.0.1:3 on a", "${NO_HOST}:1"),
        ("a/socks-unset", "127.0.0.1:(any port)", "(each client's choice)"),
        ("a/local-unset-3", "127.0.0.1:(any port)", "/s"),
        ("a/local-unset-4", "127.0.0.1:(any port)", "localhost:1"),
        ("a/sound", "127.0.0.1:4", "h:2"),
    ]
    assert [(problem.line, problem.message) for problem in loaded.warnings] == [
        (7, "${NO_DB} is not set"),
        (8, "${NO_PORT} is not set"),
        (9, "${NO_OTHER} is not set"),
        (10, "${NO_HOST} is not set"),
        (10, "${NO_PORT} is not set"),
        (11, "${NO_BIND} is not set"),
        (11, "${NO_PORT} is not set"),
        (12, "${NO_RANGE} is not set"),
        (13, "${NO_FORM} is not set"),
    ]


def test_an_unknown_destination_does_not_hide_a_port_conflict() -> None:
    text = 'targets: {a: {host: a, agent: true, tunnels: [{local: "1:${NO_DB}:2"}, {local: "1:h:2"}]}}'
    loaded = load_text(text, environ={}, options=Options())
    assert [str(problem.code) for problem in loaded.errors] == ["conflict", "duplicate"]


# --- restrictions and warnings ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ("host: h", "no-login"),
        ("host: h, password: x", "literal-secret"),
        ("host: h, privateKey: /no/such", "secret-unreadable"),
        ("host: h, password: {env: NO_SUCH}", "secret-unreadable"),
        ("host: h, agent: true, knownHosts: /no/such", "secret-unreadable"),
        ("host: h, agent: true, tunnels: [{local: '0.0.0.0:1:h:2'}]", "beyond-loopback"),
        ("host: h, agent: true, tunnels: [{remote: '0.0.0.0:1:h:2'}]", "remote-beyond-loopback"),
        ("host: h, agent: true, tunnels: [{local: '1:h:2', expiresAt: 2020-01-01T00:00:00Z}]", "expired"),
        ("host: h, agent: true, tunnels: [{socks: 1, denyDestinations: ['10.0.0.0/8:*']}]", "names-refused"),
    ],
)
def test_a_warning_can_be_waived_beside_its_field(fields: str, code: str) -> None:
    assert codes(f"targets: {{p: {{{fields}}}}}") == [code]
    beside = f"x-allow: [{code}]"
    waived = fields.replace("}]", f", {beside}}}]") if "tunnels" in fields else f"{fields}, {beside}"
    assert codes(f"targets: {{p: {{{waived}}}}}") == []
    strict = load_text(f"targets: {{p: {{{fields}}}}}", environ=ENVIRON, options=Options(strict=True))
    assert [str(problem.code) for problem in strict.errors] == [code]


def refused(tunnel: str) -> list[str]:
    """Return the error codes of a file with this tunnel."""
    text = f"targets: {{p: {{host: h, agent: true, tunnels: [{{{tunnel}}}]}}}}"
    return [str(problem.code) for problem in load_text(text, environ=ENVIRON, options=Options(user="me")).errors]


@pytest.mark.parametrize("listen", ["socks: '*:1'", "socks: '0.0.0.0:1'", "type: socks, host: '::', port: 1"])
def test_an_open_socks_tunnel_beyond_loopback_is_an_error(listen: str) -> None:
    auth = "auth: {username: u, password: {env: PW}}"
    assert refused(listen) == ["open-proxy"]
    assert refused(f"{listen}, allow: []") == ["open-proxy"]
    assert refused(f"{listen}, deny: [10.0.0.0/8]") == ["open-proxy"]
    assert refused(f"{listen}, allowDestinations: ['*.internal:443']") == ["open-proxy"]
    assert refused(f"{listen}, x-allow: [beyond-loopback]") == ["open-proxy"]
    assert refused(f"{listen}, x-allow: [open-proxy]") == []
    assert refused(f"{listen}, allow: [10.0.0.0/8]") == []
    assert refused(f"{listen}, {auth}") == []
    assert refused("socks: 1") == []
    assert refused("type: socks, localSocket: /s") == []


@pytest.mark.parametrize(
    "host",
    [
        *("169.254.169.254", "169.254.0.1", "'[fe80::1]'", "'fd00:ec2::254'", "100.100.100.200", "168.63.129.16"),
        *("'2852039166'", "0xa9fea9fe", "169.254.43518", "169.254.169.254.", "'::ffff:169.254.169.254'"),
        *("metadata.google.internal", "METADATA", "'${METADATA}'"),
    ],
)
def test_a_metadata_destination_is_an_error_unless_x_allow_names_it(host: str) -> None:
    environ = ENVIRON | {"METADATA": "169.254.169.254"}
    for tunnel in (
        f"type: local, localPort: 1, remoteHost: {host}, remotePort: 80",
        f"type: remote, remotePort: 1, localHost: {host}, localPort: 80",
    ):
        for beside, wanted in (
            ("", ["metadata-destination"]),
            (", x-allow: [beyond-loopback]", ["metadata-destination"]),
            (", x-allow: [metadata-destination]", []),
        ):
            text = f"targets: {{p: {{host: h, agent: true, tunnels: [{{{tunnel}{beside}}}]}}}}"
            loaded = load_text(text, environ=environ, options=Options(user="me"))
            assert [str(problem.code) for problem in loaded.errors] == wanted
            assert not any("254" in problem.message for problem in loaded.errors), "it may be a variable's value"


@pytest.mark.parametrize("form", ["local: '1:169.254.169.254:80'", "remote: '1:169.254.169.254:80'"])
def test_a_short_form_to_a_link_local_address_is_an_error(form: str) -> None:
    assert refused(form) == ["metadata-destination"]
    assert refused(f"{form}, x-allow: [metadata-destination]") == []


def test_a_default_destination_may_be_allowed_beside_it() -> None:
    text = (
        "defaults: {{tunnel: {{remoteHost: 169.254.169.254{}}}}}\n"
        "targets: {{p: {{host: h, agent: true, tunnels: [{{type: local, localPort: 1, remotePort: 80}}]}}}}"
    )
    for beside, errors in (("", 1), (", x-allow: [metadata-destination]", 0)):
        loaded = load_text(text.format(beside), environ=ENVIRON, options=Options(user="me"))
        assert len(loaded.errors) == errors


def test_listening_on_a_link_local_address_is_no_error() -> None:
    assert refused("local: '169.254.1.1:1:db:80'") == []
    assert refused("remote: '169.254.1.1:1:db:80'") == []


def test_the_effective_file_keeps_the_waivers() -> None:
    text = """
targets:
  p:
    host: h
    agent: true
    tunnels:
    - {socks: '*:1', x-allow: [open-proxy]}
    - {local: '2:169.254.169.254:80', x-allow: [metadata-destination]}
    - {remote: '3:169.254.169.254:80', x-allow: [metadata-destination]}
"""
    desired = load(text).desired
    assert load(json.dumps(to_json(desired))).desired == desired


def test_secrets_can_be_limited_to_a_directory_and_variables_to_prefixes(tmp_path: Path) -> None:
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "in").write_text("x")
    (tmp_path / "out").write_text("x")
    (secrets / "link").symlink_to(tmp_path / "out")

    def errors(fields: str) -> list[str]:
        options = Options(secrets_dir=str(secrets), allow_env=("APP_",))
        text = f"targets: {{p: {{host: h, {fields}}}}}"
        return [
            p.message for p in load_text(text, environ={"HOME": "/", "APP_X": "1", "PW": "2"}, options=options).errors
        ]

    assert errors(f"privateKey: {secrets}/in, password: {{env: APP_X}}, hostKeyAlias: '${{APP_X}}'") == []
    for path in (tmp_path / "out", secrets / "link", secrets / ".." / "out"):
        (message,) = errors(f"privateKey: {path}")
        assert "--secrets-dir" in message
    for fields in ("password: {env: PW}", "agent: true, user: '${PW}'"):
        assert errors(fields) == ["PW may not be read: --allow-env allows APP_*"]


@pytest.mark.parametrize(
    ("fields", "refused"),
    [
        ("privateKey: {dir}/in, passphrase: {{file: {dir}/in}}, certificate: {dir}/in, agent: {dir}/agent", ""),
        ("privateKey: {dir}/in.pub, agent: {dir}/agent", ""),
        ("password: {{env: PW}}", "$PW is not permitted"),
        ("password: '${{PW}}'", "$PW is not permitted"),
        ("password: 'x${{PW}}'", "a literal in the file is not permitted"),
        ("password: x", "a literal in the file is not permitted"),
        ("privateKey: {{env: PW}}", "$PW is not permitted"),
        ("privateKey: {dir}/in, passphrase: x", "a literal in the file is not permitted"),
        ("privateKey: {dir}/in.pub", "the agent of $SSH_AUTH_SOCK is not permitted"),
        ("agent: true", "the agent of $SSH_AUTH_SOCK is not permitted"),
        ("agent: /run/agent", "the agent at /run/agent is not permitted"),
        ("agent: {dir}/link", "the agent at {dir}/link is not permitted"),
        ("jumpHost: {{host: j, password: x}}, privateKey: {dir}/in", "a literal in the file is not permitted"),
        (
            "privateKey: {dir}/in, tunnels: [{{socks: 1, auth: {{username: u, password: x}}}}]",
            "a literal in the file is not permitted",
        ),
    ],
)
def test_the_secrets_directory_can_be_the_only_source_of_secrets(fields: str, refused: str, tmp_path: Path) -> None:
    for name in ("in", "in.pub"):
        (tmp_path / name).write_text("x")
    (tmp_path / "link").symlink_to("/run/agent")
    options = Options(secrets_dir=str(tmp_path), secrets_dir_only=True)
    text = f"targets: {{p: {{host: h, user: u, {fields.format(dir=tmp_path)}}}}}"
    loaded = load_text(text, environ={"PW": "2", "SSH_AUTH_SOCK": "/run/agent"}, options=options)
    said = [problem.message.partition(":")[0] for problem in loaded.errors]
    assert said == ([refused.format(dir=tmp_path)] if refused else [])


async def test_a_secret_file_that_later_links_outside_its_directory_is_not_read(tmp_path: Path) -> None:
    secrets, outside = tmp_path / "secrets", tmp_path / "outside"
    secrets.mkdir()
    outside.write_text("x")
    (secrets / "password").write_text("inside")
    text = f"targets: {{p: {{host: h, user: u, password: {{file: {secrets}/password}}}}}}"
    loaded = load_text(text, environ={}, options=Options(secrets_dir=str(secrets)))
    [login] = loaded.desired.targets["p"].access.hop.logins
    assert isinstance(login, PasswordLogin)
    assert await read_text(login.password, {}, "the password") == "inside"
    (secrets / "password").unlink()
    (secrets / "password").symlink_to(outside)
    with pytest.raises(DialFailed, match=f"it is outside {secrets}"):
        await read_text(login.password, {}, "the password")


# --- the file with nothing left out ----------------------------------------------------------------------------

FULL = f"""
targets:
  j: {{host: j, agent: /sock, connectTimeout: 3s, hostKeys: ['{KEY}']}}
  p:
    hosts: [a, "[::1]:23"]
    user: u
    password: {{env: PW}}
    privateKey: [/k, x.pub]
    passphrase: {{file: /pp}}
    certificate: /k-cert.pub
    jumpHosts: [j]
    connect: onDemand
    algorithms: {{cipher: [c]}}
    tunnels:
      - {{local: "[::1]:1:db:2", health: {{type: http}}, bandwidthLimit: 1kB/s, expiresAt: 2030-01-01T00:00:00Z}}
      - {{local: "10-20:/s", portFile: /p, labels: {{a: b}}, deny: [10.0.0.0/8]}}
      - {{type: local, localSocket: /l, group: g, mode: "0640", remotePort: 3}}
      - {{socks: 1080, auth: {{username: u, password: {{file: /s}}}}, allowDestinations: ["a:1"], enabled: false}}
  r:
    host: r
    agent: true
    strictHostKeyChecking: accept-new
    hostKeyAlias: x
    tunnels:
      - {{remote: "0:h:2", onConflict: standby, critical: false}}
      - {{remote: "/r:./s"}}
"""


def test_output_with_all_defaults_keeps_its_meaning() -> None:
    first = load(FULL).desired
    printed = json.dumps(to_json(first))
    assert load(printed).desired == first
    assert load(yaml.safe_dump(to_json(first))).desired == first


def test_printed_configuration_shows_no_secret() -> None:
    printed = json.dumps(to_json(load("targets: {p: {host: h, password: hunter3}}").desired))
    assert "hunter3" not in printed
    assert '"password": "***"' in printed
