"""Specs as values: what is equal, what overlaps, and what an edit leaves identical."""

import itertools

import pytest

from reconciler.core.addresses import Addresses, is_choice, is_remote, overlaps
from reconciler.core.spec import (
    NOTHING,
    Endpoint,
    FarUnix,
    Listen,
    LocalTcp,
    LocalUnix,
    NearTcp,
    NearUnix,
    RemoteTcp,
    RemoteUnix,
)
from unit.build import desired, local, remote, socks, target, tunnel


def tcp(host: str, port: int = 80) -> LocalTcp:
    return LocalTcp(host, port, port)


MEET = [
    (tcp("127.0.0.1"), tcp("127.0.0.1")),
    (tcp("0.0.0.0"), tcp("127.0.0.1")),
    (tcp("::"), tcp("::1")),
    (tcp("*"), tcp("127.0.0.1")),
    (tcp("*"), tcp("::1")),
    (tcp(""), tcp("10.0.0.1")),
    (tcp("0.0.0.0"), tcp("localhost")),
    (RemoteTcp("a", "0.0.0.0", 80), RemoteTcp("a", "127.0.0.1", 80)),
    (LocalUnix("/x", 0o600, ""), LocalUnix("/x", 0o660, "app")),
    (RemoteUnix("a", "/x"), RemoteUnix("a", "/x")),
]
DO_NOT_MEET = [
    (tcp("127.0.0.1"), tcp("127.0.0.2")),
    (tcp("127.0.0.1", 80), tcp("127.0.0.1", 81)),
    (tcp("0.0.0.0"), tcp("::1")),
    (tcp("::"), tcp("127.0.0.1")),
    (tcp("127.0.0.1"), RemoteTcp("a", "127.0.0.1", 80)),
    (RemoteTcp("a", "127.0.0.1", 80), RemoteTcp("b", "127.0.0.1", 80)),
    (RemoteTcp("a", "127.0.0.1", 80), RemoteTcp("a", "127.0.0.1", 81)),
    (LocalUnix("/x", 0o600, ""), LocalUnix("/y", 0o600, "")),
    (LocalUnix("/x", 0o600, ""), RemoteUnix("a", "/x")),
    (RemoteUnix("a", "/x"), RemoteUnix("b", "/x")),
]


@pytest.mark.parametrize(("one", "other"), MEET, ids=str)
def test_these_addresses_cannot_be_bound_together(one: Listen, other: Listen) -> None:
    assert overlaps(one, other)
    assert overlaps(other, one)
    assert Addresses([one]).meets(other)
    assert Addresses([other]).meets(one)


@pytest.mark.parametrize(("one", "other"), DO_NOT_MEET, ids=str)
def test_these_addresses_can_be_bound_together(one: Listen, other: Listen) -> None:
    assert not overlaps(one, other)
    assert not overlaps(other, one)
    assert not Addresses([one]).meets(other)


def test_a_chosen_port_overlaps_with_nothing() -> None:
    for choice in (tcp("127.0.0.1", 0), LocalTcp("127.0.0.1", 80, 90), RemoteTcp("a", "127.0.0.1", 0)):
        assert is_choice(choice)
        addresses = Addresses([choice])
        assert not addresses.meets(choice)
        addresses.remove(choice)
    for fixed in (tcp("127.0.0.1"), RemoteTcp("a", "", 80), LocalUnix("/x", 0, ""), RemoteUnix("a", "/x")):
        assert not is_choice(fixed)


def test_an_address_that_was_removed_is_free() -> None:
    addresses = Addresses([tcp("127.0.0.1")])
    addresses.remove(tcp("127.0.0.1"))
    assert not addresses.meets(tcp("0.0.0.0"))


def test_a_remote_listener_is_one_on_the_server() -> None:
    assert is_remote(RemoteTcp("a", "", 80))
    assert is_remote(RemoteUnix("a", "/x"))
    assert not is_remote(tcp(""))
    assert not is_remote(LocalUnix("/x", 0, ""))


def test_the_kind_follows_from_the_route() -> None:
    listen = tcp("127.0.0.1")
    kinds = [
        local(),
        remote(),
        socks(),
        tunnel("a/u", listen, FarUnix("a", "/x")),
        tunnel("a/v", listen, NearUnix("/x")),
    ]
    assert [one.kind for one in kinds] == ["local", "remote", "socks", "local", "remote"]


def test_addresses_are_shown_in_the_usual_form() -> None:
    shown = [
        Endpoint("::1", 22),
        tcp("127.0.0.1"),
        tcp("::1", 0),
        LocalTcp("127.0.0.1", 15000, 15100),
        RemoteTcp("prod", "::", 80),
        RemoteUnix("prod", "/x"),
        NearTcp("localhost", 3000),
    ]
    assert [str(one) for one in shown] == [
        "[::1]:22",
        "127.0.0.1:80",
        "[::1]:(any port)",
        "127.0.0.1:15000-15100",
        "[::]:80 on prod",
        "/x on prod",
        "localhost:3000",
    ]


def test_unchanged_specs_stay_identical_objects() -> None:
    before = desired(target("a"), target("b"), local("a/x", 1), local("b/y", 2))
    after = desired(target("a"), target("b", user="other"), local("a/x", 1), local("b/y", 3), local("b/z", 4))
    shared = after.sharing(before)
    assert shared == after
    assert shared.targets["a"] is before.targets["a"]
    assert shared.tunnels["a/x"] is before.tunnels["a/x"]
    assert shared.targets["b"] is after.targets["b"]
    assert shared.tunnels["b/y"] is after.tunnels["b/y"]
    assert after.sharing(NOTHING) == after


def test_a_restart_changes_the_access_of_its_target_only() -> None:
    before = desired(target("a"), target("b"), local("a/x"))
    after = before.restarted({"a": 2, "gone": 1})
    assert after.targets["a"].access.generation == 2
    assert after.targets["a"].access != before.targets["a"].access
    assert after.targets["b"] is before.targets["b"]
    assert after.tunnels == before.tunnels


def test_listens_of_different_kinds_do_not_overlap() -> None:
    kinds: list[Listen] = [tcp("", 80), LocalUnix("/x", 0, ""), RemoteTcp("a", "", 80), RemoteUnix("a", "/x")]
    assert not any(overlaps(one, other) for one, other in itertools.permutations(kinds, 2))
