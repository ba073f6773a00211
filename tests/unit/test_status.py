"""The status: phase, reason and message of targets and tunnels, and when everything has settled."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from reconciler.core.observed import Destination, Failure, Observed, Phase, Reason
from reconciler.core.off import DISABLED
from reconciler.core.spec import Health
from reconciler.core.status import Verdict, make_status, unsettled_targets
from unit.build import AUTH, CLOSED, REFUSED, World, local, remote, target

NO_ANSWER = Destination(3, Failure(Reason.DESTINATION, "db refuses"))
PROBE = Health(type="tcp", path="", interval=30.0, timeout=5.0, failure_threshold=3, reconnect=False)


def of(world: World, tunnel: str = "prod/db", observed: Observed | None = None) -> Verdict:
    judgement = make_status(world.asked, observed or world.observe(), world.now())
    return next(one.verdict for one in judgement.tunnels if one.id == tunnel)


def of_target(world: World, name: str = "prod") -> Verdict:
    return next(
        one.verdict for one in make_status(world.asked, world.observe(), world.now()).targets if one.name == name
    )


def test_phases_from_pending_to_connecting_to_up() -> None:
    world = World()
    world.asked = world.asked.of((target(),), (local(),))
    assert (of(world).phase, of_target(world).phase) == (Phase.PENDING, Phase.PENDING)
    world.passes()
    assert of(world).phase is Phase.CONNECTING
    assert unsettled_targets(world.asked, world.observe())
    world.all_well()
    assert of(world) == Verdict(Phase.UP)
    assert not unsettled_targets(world.asked, world.observe())


def test_a_failed_dial_shows_reason_count_and_next_try() -> None:
    world = World()
    world.edit(target(), local())
    world.finish(world.link().id, REFUSED)
    world.all_well()
    verdict = of(world)
    assert (verdict.phase, verdict.reason, verdict.failures) == (Phase.DOWN, Reason.REFUSED, 1)
    assert verdict.next_try is not None
    assert verdict.next_try.at > world.now().mono
    assert not verdict.needs_action
    assert not unsettled_targets(world.asked, world.observe()), "nothing is left but to try again"


def test_a_failure_that_no_retry_resolves_needs_action() -> None:
    world = World()
    world.edit(target(), local())
    world.finish(world.link().id, AUTH)
    assert of(world).needs_action


def test_a_target_that_no_tunnel_needs_is_off_and_has_no_next_try() -> None:
    world = World()
    world.edit(target(), local())
    world.finish(world.link().id, REFUSED)
    world.all_well()
    assert of_target(world).phase is Phase.DOWN
    world.edit(target(), local(off=DISABLED))
    off = Verdict(Phase.OFF, message="none of its tunnels needs a connection")
    assert of_target(world) == off, "it is not dialled again"
    world.edit(target(), local())
    assert of_target(world).phase is not Phase.OFF


def test_while_a_lost_link_is_dialled_again_it_is_down_and_settled() -> None:
    world = World()
    world.settled(target(), local())
    world.lose(world.link().id, CLOSED)
    world.passes()
    assert world.observe().links, "a dial is under way"
    assert of(world).phase is Phase.DOWN
    assert not unsettled_targets(world.asked, world.observe())


def test_a_restart_is_not_settled_before_the_new_link_is_ready() -> None:
    world = World()
    world.settled(target(), local())
    world.edit(target(generation=1), local())
    assert of(world).phase is Phase.UP, "the old one goes on"
    assert unsettled_targets(world.asked, world.observe())
    world.all_well()
    assert not unsettled_targets(world.asked, world.observe())


def test_the_old_socket_of_a_changed_address_does_not_count_as_up() -> None:
    world = World()
    world.settled(target(), local(port=5432))
    world.asked = world.asked.of((target(),), (local(port=5433),))
    judgement = make_status(world.asked, world.observe(), world.now())
    assert [(one.verdict.phase, one.bound) for one in judgement.tunnels] == [(Phase.CONNECTING, "127.0.0.1:5433")]


def test_a_failed_replacement_shows_the_next_try() -> None:
    world = World()
    world.settled(target(), local())
    world.edit(target(generation=1), local())
    world.finish(next(link.id for link in world.links() if link.host < 0), AUTH)
    verdict = of_target(world)
    assert (verdict.phase, verdict.reason, verdict.is_trouble) == (Phase.UP, Reason.AUTH, True)
    assert verdict.needs_action
    assert verdict.next_try is not None
    assert of(world) == Verdict(Phase.UP, message=verdict.message), "it is up, and nothing is wrong with it"


def unreachable(what: str) -> str:
    return Failure(Reason.UNREACHABLE, what).message


def test_a_fallback_host_is_shown_with_the_failure_of_the_first() -> None:
    world = World()
    hosts = target(hosts=("a", "b", "c"))
    first, second, third = hosts.access.hop.hosts
    world.unreachable |= {first}
    world.settled(hosts, local())
    said = f"on {second}, host 2 of 3: retrying {first} every 60 s; last failure: "
    assert of_target(world) == Verdict(Phase.UP, message=f"{said}{unreachable('the host is not reachable')}")
    assert of(world) == Verdict(Phase.UP)
    world.wait(61.0)
    world.all_well()
    assert of_target(world).message == f"{said}{unreachable('no host is reachable')}"
    world.unreachable |= {second}
    world.lose(world.link().id, CLOSED)
    world.all_well()
    failure = unreachable("the host is not reachable")
    again = f"retrying the hosts before it every 60 s; last failure: {failure}"
    assert of_target(world).message == f"on {third}, host 3 of 3: {again}"
    world.unreachable.clear()
    world.wait(61.0)
    world.all_well()
    assert of_target(world) == Verdict(Phase.UP)


def test_a_silent_link_is_down() -> None:
    world = World()
    world.settled(target(), local())
    silent = replace(world.observe(), stalled=frozenset({world.link().id}))
    assert (of(world, observed=silent).phase, of(world, observed=silent).reason) == (Phase.DOWN, Reason.KEEPALIVE)


def test_three_failures_of_the_destination_make_it_unhealthy() -> None:
    world = World()
    world.settled(target(), local())
    for failures, phase in ((2, Phase.UP), (3, Phase.UNHEALTHY)):
        heard = MappingProxyType({"prod/db": replace(NO_ANSWER, failures=failures)})
        assert of(world, observed=replace(world.observe(), destinations=heard)).phase is phase


def test_with_a_probe_only_the_probe_counts() -> None:
    world = World()
    world.settled(target(), local(health=PROBE))
    heard = MappingProxyType({"prod/db": NO_ANSWER})
    assert of(world, observed=replace(world.observe(), destinations=heard)).phase is Phase.UP
    assert of(world, observed=replace(world.observe(), probes=heard)).phase is Phase.UNHEALTHY


def test_an_unhealthy_tunnel_shows_what_retries_it() -> None:
    asks = Failure(Reason.DESTINATION, "db refuses", "does anything listen there?")
    refuses = Failure(Reason.DESTINATION, "db refuses").message
    secret = Failure(Reason.SECRET_UNREADABLE, "the password of alice cannot be read")
    for failure, health, message in (
        (NO_ANSWER.failure, None, f"{refuses} (retried with the next client)"),
        (NO_ANSWER.failure, PROBE, f"{refuses} (probed every 30 s)"),
        (asks, None, f"{asks.message} (retried with the next client)"),
        (secret, None, secret.message),
    ):
        world = World()
        world.settled(target(), local(health=health))
        heard = MappingProxyType({"prod/db": Destination(3, failure)})
        assert of(world, observed=replace(world.observe(), destinations=heard, probes=heard)).message == message


def test_a_remote_port_held_by_another_replica_can_be_standby() -> None:
    for standby, phase in ((True, Phase.STANDBY), (False, Phase.DOWN)):
        world = World()
        tunnel = remote(standby=standby)
        world.busy.add(tunnel.listen)
        world.edit(target(), tunnel)
        world.all_well()
        assert of(world, "prod/web").phase is phase


def test_off_draining_and_broken() -> None:
    world = World()
    world.settled(target(), local())
    world.arrive("prod/db")
    world.edit(target(), local(off=DISABLED))
    assert of(world) == Verdict(
        Phase.DRAINING, message="disabled: waiting for its last clients to finish", off=DISABLED
    )
    world.leave(world.observe().flows[0].key)
    assert of(world) == Verdict(Phase.OFF, message="disabled", off=DISABLED)
    broken = make_status(
        world.asked.of((target(),), (local(),)), world.observe(), world.now(), {"prod": "$KEY is not set"}
    )
    assert broken.tunnels[0].verdict == Verdict(Phase.DOWN, Reason.SECRET_UNREADABLE, "$KEY is not set")


def test_a_removed_tunnel_is_leaving_while_it_has_clients() -> None:
    world = World()
    world.settled(target(), local())
    world.arrive("prod/db")
    world.edit(target())
    judgement = make_status(world.asked, world.observe(), world.now(), removed=[local()])
    assert judgement.tunnels == ()
    [leaving] = judgement.leaving
    assert (leaving.id, leaving.verdict.phase) == ("prod/db", Phase.DRAINING)
    ending = make_status(world.asked, world.observe(), world.now(), removed=[local()], gone="the process is ending")
    assert ending.leaving[0].verdict.message == "the process is ending: waiting for its last clients to finish"
    world.leave(world.observe().flows[0].key)
    assert make_status(world.asked, world.observe(), world.now(), removed=[local()]).leaving == ()
