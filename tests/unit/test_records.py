"""How long the records of targets and tunnels last."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from reconciler.core import backoff
from reconciler.core.spec import NOTHING, Desired
from reconciler.ssh.records import Records, RunningProbe
from unit.build import REFUSED, local, target

PG = local("prod/pg")
DESIRED = Desired.of([target("prod")], [PG])


def named() -> Records:
    """Return records of prod and prod/pg, with a failure each."""
    records = Records()
    records.target("prod").failures[REFUSED.reason] += 1
    records.tunnel("prod/pg").failures[REFUSED.reason] += 1
    return records


def kept(records: Records) -> tuple[list[str], list[str]]:
    return [target.name for target in records.targets()], [tunnel.id for tunnel in records.tunnels()]


def test_a_name_always_gives_the_same_record() -> None:
    records = Records()
    assert records.target("prod") is records.target("prod")
    assert records.tunnel("prod/pg") is records.tunnel("prod/pg")


def test_records_last_while_their_target_and_tunnel_are_desired() -> None:
    records = named()
    records.drop_unused(DESIRED, set())
    assert records.target("prod").failures == records.tunnel("prod/pg").failures == {REFUSED.reason: 1}


def test_records_of_removed_tunnels_last_as_long_as_their_clients() -> None:
    records = named()
    records.tunnel("prod/pg").clients.active = 1
    records.drop_unused(NOTHING, set())
    assert kept(records) == (["prod"], ["prod/pg"])
    records.tunnel("prod/pg").clients.active = 0
    records.drop_unused(NOTHING, set())
    assert kept(records) == ([], [])


def test_the_record_of_a_removed_target_lasts_as_long_as_its_links() -> None:
    records = named()
    records.drop_unused(NOTHING, {"prod"})
    assert kept(records) == (["prod"], [])


def probe(records: Records) -> None:
    records.tunnel("prod/pg").probe = RunningProbe(PG)


def delay_cancel(records: Records) -> None:
    records.tunnel("prod/pg").cancel_tries = backoff.failed(None, REFUSED, 0.0, None, "")


@pytest.mark.parametrize("use", [probe, delay_cancel])
def test_the_record_of_a_removed_tunnel_lasts_while_it_is_used(use: Callable[[Records], None]) -> None:
    records = named()
    use(records)
    records.drop_unused(NOTHING, set())
    assert kept(records) == ([], ["prod/pg"])


async def test_the_record_of_a_removed_target_lasts_while_a_client_waits() -> None:
    records = named()
    records.target("prod").waiting[asyncio.get_running_loop().create_future()] = None
    records.drop_unused(NOTHING, set())
    assert kept(records) == (["prod"], [])


def test_records_are_dropped_when_nothing_is_left() -> None:
    records = named()
    records.drop_unused(NOTHING, set())
    assert kept(records) == ([], [])
    assert not records.target("prod").failures, "a target of the same name starts with new counters"
