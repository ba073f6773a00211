"""The plan report: what changes, why, and how many clients it affects."""

from __future__ import annotations

import pytest

from reconciler.config.load import load_text
from reconciler.core.observed import ClientInfo
from reconciler.core.off import DISABLED
from reconciler.core.secret import FromFile
from reconciler.core.spec import Desired, FarTcp, SocksUser, TargetSpec, TunnelSpec
from reconciler.runtime.plan_report import between, report_plan
from unit.build import AUTH, REFUSED, START, World, local, origin, remote, socks, target
from unit.build import desired as desired_of

LONG = "a sentence that is much longer than what is shown of a value"
BEFORE = {
    "privateKey": "/a",
    "jumpHosts": "[{host: j1, user: u, privateKey: /j}, {host: j2, user: u, privateKey: /j}]",
    "algorithms": "{}",
    "description": f"{LONG} 1",
    "labels": "{}",
    "allow": "[127.0.0.0/8]",
    "health": "{type: tcp}",
}
OF_TARGET = ("privateKey", "jumpHosts", "algorithms")


def desired(fields: dict[str, str]) -> Desired:
    target = "".join(f"    {name}: {fields[name]}\n" for name in OF_TARGET)
    tunnel = "".join(f"        {name}: {value}\n" for name, value in fields.items() if name not in OF_TARGET)
    text = f"targets:\n  prod:\n    host: b\n    user: u\n{target}    tunnels:\n      - local: 5432:db:5432\n{tunnel}"
    loaded = load_text(text)
    assert loaded.valid, loaded.errors
    return loaded.desired


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("privateKey", "/b", "privateKey {file: /a} -> {file: /b}"),
        ("privateKey", "[/a, /b]", "privateKey {file: /a} -> [{file: /a}, {file: /b}]"),
        ("algorithms", "{cipher: [aes128-ctr]}", "algorithms (none) -> {cipher: [aes128-ctr]}"),
        ("labels", "{team: data, tier: '1'}", "labels (none) -> {team: data, tier: '1'}"),
        ("allow", "[]", "allow 127.0.0.0/8 -> (none)"),
        ("health", "{type: tcp, interval: 1m}", "health.interval 30s -> 1m"),
        (
            "health",
            "false",
            "health {type: tcp, interval: 30s, timeout: 5s, failureThreshold: 3, onFailure: report} -> false",
        ),
        ("description", "short", "description a sentence that is much longer than what... -> short"),
        ("description", f"{LONG} 2", "description ...is shown of a value 1 -> ...is shown of a value 2"),
        (
            "jumpHosts",
            "[{host: j1, user: u, privateKey: /j}, {host: j3, user: u, privateKey: /k}]",
            "jumpHosts[1].host j2 -> j3, jumpHosts[1].privateKey {file: /j} -> {file: /k}",
        ),
    ],
)
def test_a_change_is_described_with_the_field_names_of_the_file(field: str, value: str, expected: str) -> None:
    plan = between(desired(BEFORE), desired(BEFORE | {field: value}))
    why = "its connection settings changed" if field in OF_TARGET else "its settings changed"
    assert plan.steps[0].why == f"{why}: {expected}"


def test_a_client_of_two_steps_is_counted_once() -> None:
    """The link is replaced: the client stays on the old link, and gets a deadline."""
    world = World()
    world.settled(target(), local(), local("prod/other", 5433))
    for name in ("prod/db", "prod/db", "prod/other"):
        world.arrive(name)
    old, observed = world.asked, world.observe()
    world.edit(target(user="another"), local(), local("prod/other", 5433))
    plan = report_plan(old, world.asked, observed, START)
    assert [(step.action, step.clients) for step in plan.steps] == [
        ("dial", 0),
        ("retire", 3),
        ("drain", 2),
        ("drain", 1),
    ]
    assert plan.clients == 3


def test_a_client_that_a_new_rule_forbids_is_counted() -> None:
    world = World()
    users = tuple(SocksUser(name, FromFile(f"/run/{name}")) for name in ("ann", "bob"))
    to = FarTcp("prod", "db.internal", 443)
    world.settled(target(), local(), socks(users=users))
    for address in ("127.0.0.1", "10.0.0.7", "10.0.0.8"):
        world.arrive("prod/db", ClientInfo(origin(address)))
    for user in users:
        world.arrive("prod/socks", ClientInfo(origin("127.0.0.1"), to, user))
    assert touched(world, local(allow=("10.0.0.0/8",)), socks(users=users)) == (["assign prod/db 1"], 1)
    assert touched(world, local(deny=("10.0.0.0/8",)), socks(users=users[:1])) == (
        ["assign prod/db 2", "assign prod/socks 1"],
        3,
    )
    assert touched(world, local(), socks(users=users, deny_destinations=("*.internal:*",))) == (
        ["assign prod/socks 2"],
        2,
    )
    assert touched(world, local(max_connections=1), socks(users=users)) == (["assign prod/db 0"], 0)


def test_a_client_cut_by_a_rule_is_not_drained_too() -> None:
    world = World()
    world.settled(target(), local())
    for address in ("127.0.0.1", "10.0.0.7"):
        world.arrive("prod/db", ClientInfo(origin(address)))
    elsewhere = local(to="db2", deny=("10.0.0.0/8",))
    assert touched(world, elsewhere) == (["assign prod/db 1", "drain prod/db 1"], 2)
    nobody = local(to="db2", allow=("192.0.2.0/24",))
    assert touched(world, nobody) == (["assign prod/db 2"], 2)


def test_a_renamed_tunnel_applies_its_rules_to_the_clients_it_takes_over() -> None:
    world = World()
    world.settled(target(), local("prod/old"))
    for address in ("127.0.0.1", "10.0.0.7"):
        world.arrive("prod/old", ClientInfo(origin(address)))
    assert touched(world, local("prod/new", deny=("10.0.0.0/8",))) == (["assign prod/new 1"], 1)


def test_a_tunnel_that_is_not_open_yet_is_closed_where_nothing_wants_it() -> None:
    world = World()
    old, other = remote("prod/old"), remote("prod/other", 8081)
    world.edit(target(), old, other)
    assert world.sockets() == [], "no link yet"
    assert touched(world, other)[0] == ["close prod/old 0"]
    assert touched(world, remote("prod/old", 9), other)[0] == ["close prod/old 0", "open prod/old 0"]
    world.edit(target(), remote("prod/old", off=DISABLED), other)
    assert touched(world, other)[0] == [], "a disabled tunnel is not closed"


def test_a_tunnel_that_is_down_shows_its_old_name_and_its_changes() -> None:
    world = World()
    world.edit(target(), local(), remote())
    world.finish(1, AUTH)
    world.finish(world.socket().key, REFUSED)
    new = desired_of(target(), local("prod/new", to="other"), remote(to=9))
    plan = report_plan(world.asked, new, world.observe(), START)
    assert {step.subject.name: (step.action, step.why) for step in plan.steps} == {
        "prod/new": ("assign", "it takes over the listener of prod/db: remoteHost db -> other"),
        "prod/web": ("assign", "its settings changed: localPort 3000 -> 9"),
    }


def test_held_clients_and_links_of_the_simulator_are_not_affected() -> None:
    world = World()
    world.edit(target(), local())
    world.finish(1, AUTH)
    world.finish(world.socket().key)
    assert world.arrive("prod/db") is None
    plan = report_plan(world.asked, desired_of(target(user="other"), local(to="other")), world.observe(), START)
    assert ([step.action for step in plan.steps], plan.clients) == (["assign", "dial"], 0)


# --- renamed and moved tunnels, changes without an action --------------------------------------------------------


def changed(old: Desired, new: Desired) -> list[str]:
    return [f"{step.action} {step.subject.name}: {step.why}" for step in between(old, new).steps]


def test_a_renamed_tunnel_shows_its_old_name_and_every_changed_field() -> None:
    old = desired_of(target(), local("prod/old"), remote("prod/rem"), socks("prod/socks"))
    new = desired_of(
        target(),
        local("prod/new", to="elsewhere", deny=("10.0.0.0/8",), bandwidth_limit=2 << 20, hold_timeout=30.0),
        remote("prod/mer", to=4000),
        local("prod/plain", 1080),
    )
    takes_over = "it takes over the listener of"
    fields = (
        "remoteHost db -> elsewhere, deny (none) -> 10.0.0.0/8, holdTimeout 10s -> 30s, bandwidthLimit none -> 2MiB/s"
    )
    other = "type socks -> local, remoteHost (none) -> db, remotePort (none) -> 5432"
    assert changed(old, new) == [
        f"assign prod/mer: {takes_over} prod/rem: localPort 3000 -> 4000",
        f"assign prod/new: {takes_over} prod/old: {fields}",
        f"assign prod/plain: {takes_over} prod/socks: {other}",
    ]


def test_a_rename_alone_shows_the_old_name_alone() -> None:
    assert changed(desired_of(target(), local("prod/old")), desired_of(target(), local("prod/new"))) == [
        "assign prod/new: it takes over the listener of prod/old"
    ]


def test_a_tunnel_that_moves_to_another_target_shows_both() -> None:
    old = desired_of(target(), target("stage"), local("prod/db"), local("stage/other", 1))
    new = desired_of(target(), target("stage"), local("stage/db"), local("stage/other", 1))
    assert "assign stage/db: it takes over the listener of prod/db: target prod -> stage" in changed(old, new)


def test_a_tunnel_that_was_disabled_is_compared_with_the_one_it_replaces() -> None:
    old = desired_of(target(), local("prod/a"), local("prod/b", to="evil", off=DISABLED))
    new = desired_of(target(), local("prod/a", off=DISABLED), local("prod/b", to="evil"))
    assert changed(old, new) == ["assign prod/b: it takes over the listener of prod/a: remoteHost db -> evil"]


def test_two_tunnels_that_swap_their_names_show_their_destinations() -> None:
    old = desired_of(target(), local("prod/a", 1, to="db1"), local("prod/b", 2, to="db2"))
    new = desired_of(target(), local("prod/b", 1, to="db1"), local("prod/a", 2, to="db2"))
    assert changed(old, new) == [
        "assign prod/a: it takes over the listener of prod/b: localPort 1 -> 2, remoteHost db1 -> db2",
        "assign prod/b: it takes over the listener of prod/a: localPort 2 -> 1, remoteHost db2 -> db1",
    ]


def test_a_tunnel_that_opens_elsewhere_lists_its_changes() -> None:
    old = desired_of(target(), local(allow=("10.0.0.0/8",)), remote(off=DISABLED))
    new = desired_of(target(), local(port=5433, to="db2"), remote(to=9))
    steps = {step.subject.name: step.changes for step in between(old, new).steps if step.action == "open"}
    assert steps == {
        "prod/db": ("localPort 5432 -> 5433", "remoteHost db -> db2", "allow 10.0.0.0/8 -> (none)"),
        "prod/web": ("localPort 3000 -> 9", "enabled false -> true"),
    }


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (target(on_demand=60.0), target(on_demand=60.0, hosts=("b",)), "host prod.example.com -> b"),
        (target(on_demand=60.0), target(on_demand=60.0, keepalive_interval=60.0), "keepaliveInterval 10s -> 1m"),
        (target(on_demand=60.0), target(on_demand=120.0), "idleTimeout 1m -> 2m"),
        (target(connections=1), target(connections=2), "sshConnections 1 -> 2"),
        (target(connections=2), target(connections=1), "sshConnections 2 -> 1"),
    ],
)
def test_a_change_of_a_target_that_needs_no_action_is_a_step(old: TargetSpec, new: TargetSpec, expected: str) -> None:
    assert f"tune prod: its settings changed: {expected}" in changed(desired_of(old, local()), desired_of(new, local()))


def test_a_change_of_a_target_without_tunnels_is_no_step() -> None:
    assert changed(desired_of(target()), desired_of(target(connections=2))) == []


def touched(world: World, *tunnels: TunnelSpec) -> tuple[list[str], int]:
    """Return the plan for a file with these tunnels, without carrying it out."""
    observed, new = world.observe(), desired_of(target(), *tunnels)
    plan = report_plan(world.asked, new, observed, START)
    steps = [f"{step.action} {step.subject.name} {step.clients}" for step in plan.steps]
    return sorted(steps), plan.clients


# --- in whole words ----------------------------------------------------------------------------------------------


def file(target: str, tunnel: str = "local: '5432:db:5432'") -> Desired:
    loaded = load_text(f"targets: {{prod: {{user: u, agent: true, {target}, tunnels: [{{name: t, {tunnel}}}]}}}}")
    assert loaded.valid, loaded.errors
    return loaded.desired


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "host: bastion.example.com",
            "hosts: [bastion-a.example.com, bastion-b.example.com]",
            "hosts bastion.example.com:22 -> [bastion-a.example.com:22, bastion-b.example.com:22]",
        ),
        (
            "hosts: [bastion-a.example.com, bastion-b.example.com]",
            "hosts: [bastion-c.example.com, bastion-b.example.com, bastion-d.example.com]",
            "hosts added [bastion-c.example.com:22, bastion-d.example.com:22], hosts removed bastion-a.example.com:22",
        ),
        (
            "hosts: [bastion-a.example.com, bastion-b.example.com]",
            "hosts: [bastion-b.example.com, bastion-a.example.com]",
            "hosts reordered, bastion-b.example.com:22 first",
        ),
        (
            "host: b, knownHosts: /root/known_hosts",
            "host: b, hostKeys: ['ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFxLrj1Zc4SvyiDNoIzSBUBQgJUUhtvQf9hJbYdN6o1o']",
            "knownHosts /root/known_hosts -> (none), hostKeys (none) -> ssh-ed25519 AAAAC3NzaC1lZ...tvQf9hJbYdN6o1o",
        ),
        ("host: b", "host: b, bindAddress: 127.0.0.2", "bindAddress (none) -> 127.0.0.2"),
        ("host: b, addressFamily: inet6", "host: b", "addressFamily inet6 -> any"),
        ("host: b", "host: b, password: literal", "password (none) -> ***"),
        ("host: b, password: literal", "host: b, password: other", "a secret in the file"),
    ],
)
def test_another_route_to_a_target_is_shown_in_full(old: str, new: str, expected: str) -> None:
    plan = between(file(old), file(new))
    assert [step.why for step in plan.steps if step.action == "dial"] == [
        f"its connection settings changed: {expected}"
    ]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "[{username: alice, password: {file: /run/secrets/alice}}, {username: bob, password: {file: /run/bob}}]",
            "[{username: bob, password: {file: /run/bob}}, {username: carol, password: {env: CAROL}}]",
            "auth.alice {file: /run/secrets/alice} -> (none), auth.carol (none) -> {env: CAROL}",
        ),
        ("{username: alice, password: one}", "{username: alice, password: two}", "a secret in the file"),
        (
            "[{username: u, password: one}]",
            "[{username: u, password: one}, {username: v, password: two}]",
            "auth {u: ***} -> {u: ***, v: ***}",
        ),
    ],
)
def test_users_are_named_and_secrets_are_hidden(old: str, new: str, expected: str) -> None:
    [step] = between(file("host: b", f"socks: 1080, auth: {old}"), file("host: b", f"socks: 1080, auth: {new}")).steps
    assert step.why == f"its settings changed: {expected}"


@pytest.mark.parametrize("field", ["allow", "deny"])
def test_for_a_long_list_additions_and_removals_are_shown(field: str) -> None:
    nets = [f"10.{number}.0.0/16" for number in range(20)]
    before, after = (
        f"local: '5432:db:5432', {field}: [{', '.join(some)}]" for some in (nets, [*nets[1:], "192.0.2.7"])
    )
    [step] = between(file("host: b", before), file("host: b", after)).steps
    assert step.why == f"its settings changed: {field} added 192.0.2.7, {field} removed 10.0.0.0/16"
    [step] = between(file("host: b", "local: '5432:db:5432'"), file("host: b", before)).steps
    assert step.why == (
        f"its settings changed: {field} (none) -> [10.0.0.0/16, 10.1.0.0/16, 10.2.0.0/16, 10.3.0.0/16, "
        "10.4.0.0/16, 10.5.0.0/16, 10.6.0.0/16, 10.7.0.0/16, 10.8.0.0/16, 11 more]"
    )


@pytest.mark.parametrize("jumps", ["", ", jumpHost: {host: j, user: u, agent: true, connectTimeout: 3s}"])
def test_each_difference_of_a_target_is_shown_once(jumps: str) -> None:
    """`dial` shows what needs another link, `tune` what changes on the present one."""
    plan = between(file("host: b"), file(f"host: c, keepaliveInterval: 3s{jumps}"))
    reasons = {step.action: step.why for step in plan.steps}
    hop = " (none) -> {host: j, port: 22, user: u, agent: true, strictHostKeyChecking: true"
    assert reasons["tune"] == "its settings changed: keepaliveInterval 10s -> 3s"
    assert reasons["dial"].startswith("its connection settings changed: host b -> c")
    assert "keepalive" not in reasons["dial"]
    assert (f"jumpHosts{hop}" in reasons["dial"]) is bool(jumps)
