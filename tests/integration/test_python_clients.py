"""The Python API with the clients that programs use: psycopg and redis-py, blocking and asynchronous, and threads."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
import redis
import redis.asyncio

from reconciler import Notice, NoticeKind, Phase, blocking, open_tunnels
from reconciler.blocking import BlockEndedError, BlockingTunnels
from support.postgres import Postgres
from support.redis import Redis
from support.sshd import Sshd
from support.tunnels import file, local

_IN_TIME = 60  # seconds


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Redis]:
    async with Redis(tmp_path / "redis") as server:
        yield server


@pytest.fixture
def text(sshd: Sshd, postgres: Postgres, store: Redis) -> str:
    """Return a configuration with a tunnel to each server."""
    return file(sshd, local("db", 0, postgres.port), local("cache", 0, store.port))


def database(tunnels: BlockingTunnels) -> psycopg.Connection:
    port = tunnels.port("server/db")
    return psycopg.connect(host="127.0.0.1", port=port, user="postgres", autocommit=True, connect_timeout=_IN_TIME)


def cache(tunnels: BlockingTunnels) -> redis.Redis:
    return redis.Redis(host="127.0.0.1", port=tunnels.port("server/cache"), socket_timeout=_IN_TIME)


async def in_a_thread(program: Callable[[], None]) -> None:
    """Run a blocking program. The servers of the test need the event loop."""
    await asyncio.to_thread(program)


async def test_blocking_clients_stay_connected_over_edits_and_restarts(text: str, postgres: Postgres) -> None:
    def program() -> None:
        with blocking.open_tunnels(text) as tunnels, database(tunnels) as db, cache(tunnels) as store:
            backend = db.execute("select pg_backend_pid()").fetchone()
            client = store.client_id()
            applied = tunnels.apply(f"{text}{local('more', 0, postgres.port)}")
            assert (applied.opened, applied.clients, applied.converged) == (("server/more",), 0, True)
            assert {one.id for one in tunnels.restart("server") if one.is_up} == {
                "server/db",
                "server/cache",
                "server/more",
            }
            assert db.execute("select pg_backend_pid()").fetchone() == backend
            assert store.client_id() == client

    await in_a_thread(program)


async def test_threads_use_and_change_the_tunnels_at_once(text: str) -> None:
    def program() -> None:
        with blocking.open_tunnels(text) as tunnels, ThreadPoolExecutor(8) as threads:
            queries = [threads.submit(query, tunnels, number) for number in range(20)]
            changes = [
                threads.submit(change) for change in (tunnels.until_up, lambda: tunnels.apply(text), tunnels.all)
            ]
            for restarted in [threads.submit(tunnels.restart, "server") for _ in range(2)]:
                assert all(one.is_up for one in restarted.result(_IN_TIME))
            assert [one.result(_IN_TIME) for one in queries] == [(number, b"%d" % number) for number in range(20)]
            for changed in changes:
                changed.result(_IN_TIME)

    def query(tunnels: BlockingTunnels, number: int) -> tuple[object, object]:
        with database(tunnels) as db, cache(tunnels) as store:
            row = db.execute("select %s::int", (number,)).fetchone()
            assert row is not None
            store.set(f"key {number}", number)
            return row[0], store.get(f"key {number}")

    await in_a_thread(program)


async def test_a_paused_tunnel_refuses_clients_until_it_is_resumed(text: str) -> None:
    def program() -> None:
        with blocking.open_tunnels(text) as tunnels:
            events = tunnels.events(_IN_TIME)
            with database(tunnels) as db:
                port = tunnels.port("server/db")
                [paused] = tunnels.pause("server/db")
                assert paused.phase in (Phase.DRAINING, Phase.OFF)
                with pytest.raises(psycopg.OperationalError, match="refused"):
                    psycopg.connect(host="127.0.0.1", port=port, user="postgres", connect_timeout=_IN_TIME)
                assert db.execute("select 1").fetchone() == (1,), "its clients drain"
            assert tunnels.resume("server/db")[0].is_up
            with database(tunnels) as db:
                assert db.execute("select 2").fetchone() == (2,)
            assert next(event.kind for event in events if isinstance(event, Notice)) == NoticeKind.PAUSED

    await in_a_thread(program)


async def test_a_subscriber_gets_messages_over_an_edit(text: str, store: Redis) -> None:
    def program() -> None:
        with blocking.open_tunnels(text) as tunnels, cache(tunnels) as client, client.pubsub() as subscriber:
            subscriber.subscribe("news")
            assert subscriber.get_message(timeout=_IN_TIME)
            with redis.Redis(host="127.0.0.1", port=store.port) as other:
                for number in range(3):
                    tunnels.apply(text.replace("name: db", f"name: db{number}"))
                    other.publish("news", f"number {number}")
                    message = subscriber.get_message(timeout=_IN_TIME)
                    assert message is not None
                    assert message["data"] == b"number %d" % number

    await in_a_thread(program)


async def test_asynchronous_clients_use_the_tunnels_of_their_loop(text: str) -> None:
    async with open_tunnels(text) as tunnels:
        port = tunnels.port("server/db")
        async with (
            await psycopg.AsyncConnection.connect(host="127.0.0.1", port=port, user="postgres", autocommit=True) as db,
            redis.asyncio.Redis(host="127.0.0.1", port=tunnels.port("server/cache")) as store,
        ):
            await tunnels.restart("server")
            row = await (
                await db.execute("select sum(i), repeat('x', 100000) from generate_series(1, 1000) i")
            ).fetchone()
            assert row == (500500, "x" * 100_000)
            await store.set("key", "v" * 10_000)
            assert await store.get("key") == b"v" * 10_000


async def test_the_end_of_the_block_ends_the_calls_of_other_threads(text: str) -> None:
    def program() -> None:
        with ThreadPoolExecutor(12) as threads:
            with blocking.open_tunnels(text) as tunnels:
                events = tunnels.events()
                following = threads.submit(list, events)
                tunnels.pause("server/db")
                calls = [threads.submit(until_the_end, tunnels.until_up) for _ in range(8)]
                calls.append(threads.submit(until_the_end, lambda: tunnels.pause("server/db")))
            for call in calls:
                call.result(_IN_TIME)
            assert following.result(_IN_TIME)
            with pytest.raises(BlockEndedError):
                tunnels.port("server/db")

    def until_the_end(call: Callable[[], object]) -> None:
        with contextlib.suppress(BlockEndedError):
            while True:
                call()

    await in_a_thread(program)
