"""The Python API: another configuration, restarts, pauses and events while a block runs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import reconciler
from reconciler import (
    Applied,
    BlockEndedError,
    ChangedFields,
    ConfigLoaded,
    NoPortError,
    NoSuchTunnelError,
    Notice,
    NoticeKind,
    Phase,
    PhaseChanged,
    Reason,
    Source,
    TunnelEvent,
    Tunnels,
    TunnelsNotUpError,
    WrongContextError,
    open_tunnels,
)
from support.asyncssh_server import AsyncsshServer
from support.services import EchoServer, exchange
from support.sshd import Sshd
from support.tunnels import file, local, target, tunnel
from support.wait import WITHIN, eventually, free_port


class Client:
    """A client that stays connected."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def is_served(self) -> bool:
        self._writer.write(b"x")
        return await self._reader.read(1) == b"x"


@contextlib.asynccontextmanager
async def connected(port: int) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield Client(reader, writer)
    finally:
        writer.close()


# --- apply ----------------------------------------------------------------------------------------------------------


async def test_apply_changes_only_what_differs(sshd: Sshd, echo: EchoServer) -> None:
    kept, renamed = local("kept", 0, echo.port), free_port()
    first = file(sshd, kept, local("gone", 0, echo.port), local("same", 0, 1), local("old", renamed, echo.port))
    async with open_tunnels(first) as tunnels:
        gone = tunnels.port("server/gone")
        async with connected(tunnels.port("server/kept")) as client, connected(renamed) as moved:
            assert await client.is_served()
            assert await moved.is_served()
            applied = await tunnels.apply(
                file(
                    sshd,
                    kept,
                    local("same", 0, 1, holdTimeout="3s"),
                    local("name", renamed, echo.port),
                    local("a", 0, 1),
                )
            )
            assert applied.opened == ("server/a",)
            assert applied.closed == ("server/gone",)
            assert applied.changed == (
                ChangedFields("server/same", ("holdTimeout 10s -> 3s",)),
                ChangedFields("server/name", (), renamed_from="server/old"),
            )
            assert (applied.rejected, applied.clients, applied.converged) == ((), 0, True)
            assert applied.revision.startswith("sha256:")
            assert [one.id for one in tunnels.all() if one.is_up] == [
                "server/kept",
                "server/same",
                "server/name",
                "server/a",
            ]
            assert await client.is_served()
            assert await moved.is_served()
        with pytest.raises(ConnectionRefusedError):
            await exchange("127.0.0.1", gone)


async def test_apply_of_the_same_configuration_does_nothing(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    text = file(sshd, local("echo", 0, echo.port))
    path = tmp_path / "tunnels.yaml"
    path.write_text(text)
    async with open_tunnels(text) as tunnels:
        port = tunnels.port("server/echo")
        for source in (text, path, str(path)):
            applied = await tunnels.apply(source)
            assert applied == Applied(revision=applied.revision, converged=True)
        assert tunnels.port("server/echo") == port


async def test_apply_of_a_changed_target_names_the_fields_of_the_target(sshd: Sshd, echo: EchoServer) -> None:
    text = file(sshd, local("echo", 0, echo.port))
    async with open_tunnels(text) as tunnels:
        async with connected(tunnels.port("server/echo")) as client:
            assert await client.is_served()
            applied = await tunnels.apply(file(sshd, local("echo", 0, echo.port), compress="true"))
            assert applied.changed == (ChangedFields("server", ("compress false -> true",)),)
            assert applied.clients == 1
            assert await client.is_served(), "it stays on the old connection"


LOOP: dict[str, object] = {}
LOOP["targets"] = LOOP

BAD = {
    "an unknown key": ("targets: {}\ntagets: {}\n", "did you mean"),
    "text that is not YAML": ("targets: {\n", "YAML"),
    "an empty text": ("\n", "<text>"),
    "a file that is missing": ("no-such-file.yaml", "cannot be read: no such file"),
    "an empty path": ("", "cannot be read"),
    "a mapping with an object": ({"targets": object()}, "a value has the type object"),
    "a mapping that contains itself": (LOOP, "contains itself"),
    "a mapping with a key that is no text": ({("a", "b"): 1}, "keys must be str"),
    "an empty mapping": ({}, "targets"),
}


@pytest.mark.parametrize("kind", BAD)
async def test_apply_of_a_bad_configuration_changes_nothing(
    asyncssh_server: AsyncsshServer, echo: EchoServer, kind: str
) -> None:
    source: Source
    source, message = BAD[kind]  # type: ignore[assignment]  # the values are of several types
    async with open_tunnels(file(asyncssh_server, local("echo", 0, echo.port))) as tunnels:
        before, events = tunnels.all(), tunnels.events(within=0.0)
        applied = await tunnels.apply(source)
        assert message in str(applied.rejected[0])
        assert applied == Applied(rejected=applied.rejected)
        assert tunnels.all() == before
        assert await exchange("127.0.0.1", tunnels.port("server/echo")) == b"ping"
        [event] = [event async for event in events]
        assert isinstance(event, ConfigLoaded)
        assert event.rejected == applied.rejected
        with pytest.raises(reconciler.ConfigError) as raised:
            applied.raise_if_rejected()
        assert raised.value.problems == applied.rejected


async def test_a_source_of_another_type_is_a_type_error() -> None:
    async with open_tunnels("targets: {}") as tunnels:
        with pytest.raises(TypeError, match="expected a path, the text of a file or a mapping, got int"):
            await tunnels.apply(7)  # type: ignore[arg-type]


async def test_a_mapping_may_contain_paths_and_tuples(sshd: Sshd, echo: EchoServer) -> None:
    fields = {"host": sshd.host, "port": sshd.port, "user": sshd.user, "privateKey": sshd.client_key}
    tunnels_of_it = ({"name": "echo", "local": f"0:127.0.0.1:{echo.port}"},)
    server = {**fields, "knownHosts": sshd.known_hosts, "tunnels": tunnels_of_it}
    async with open_tunnels({"targets": {"server": server}}) as tunnels:
        assert await exchange("127.0.0.1", tunnels.port("server/echo")) == b"ping"


async def test_apply_works_during_an_outage(asyncssh_server: AsyncsshServer, echo: EchoServer) -> None:
    one, other = local("one", 0, echo.port), local("other", 0, echo.port)
    async with open_tunnels(file(asyncssh_server, one)) as tunnels:
        await asyncssh_server.stop()
        await eventually(lambda: tunnels["server/one"].phase is Phase.DOWN)
        applied = await tunnels.apply(file(asyncssh_server, one, other))
        assert (applied.opened, applied.converged) == (("server/other",), True)
        assert tunnels["server/other"].reason in (Reason.REFUSED, Reason.CLOSED_BY_SERVER)
        held = asyncio.create_task(exchange("127.0.0.1", tunnels.port("server/other")))
        with pytest.raises(TunnelsNotUpError, match=r"not up after 0\.1 s") as raised:
            await tunnels.until_up(0.1)
        assert [one.id for one in raised.value.tunnels] == ["server/one", "server/other"]
        await asyncssh_server.start()
        await tunnels.until_up()
        assert await held == b"ping"


async def test_apply_with_an_address_that_works_ends_an_outage(
    asyncssh_server: AsyncsshServer, sshd: Sshd, echo: EchoServer
) -> None:
    line = local("echo", 0, echo.port)
    async with open_tunnels(file(asyncssh_server, line)) as tunnels:
        await asyncssh_server.stop()
        await eventually(lambda: tunnels["server/echo"].phase is Phase.DOWN)
        applied = await tunnels.apply(file(sshd, line))
        assert [one.id for one in applied.changed] == ["server"]
        assert tunnels["server/echo"].is_up
        assert await exchange("127.0.0.1", tunnels.port("server/echo")) == b"ping"


async def test_apply_with_an_address_that_is_dead_keeps_the_old_connection(
    asyncssh_server: AsyncsshServer, echo: EchoServer
) -> None:
    line = local("echo", 0, echo.port)
    async with open_tunnels(file(asyncssh_server, line)) as tunnels:
        async with connected(tunnels.port("server/echo")) as client:
            assert await client.is_served()
            applied = await tunnels.apply(file(asyncssh_server, line, port=free_port()))
            assert applied.converged
            assert "still using the old connection" in tunnels["server/echo"].message
            assert await client.is_served()


async def test_a_bad_file_of_a_directory_rejects_the_whole(
    asyncssh_server: AsyncsshServer, echo: EchoServer, tmp_path: Path
) -> None:
    directory = tmp_path / "files"
    directory.mkdir()
    (directory / "a.yaml").write_text(file(asyncssh_server, local("echo", 0, echo.port)))
    async with open_tunnels(directory) as tunnels:
        (directory / "a.yaml").write_text(file(asyncssh_server, local("other", 0, echo.port)))
        (directory / "b.yaml").write_text("tagets: {}\n")
        applied = await tunnels.apply(directory)
        assert [Path(problem.file).name for problem in applied.rejected] == ["b.yaml"]
        (directory / "b.yaml").unlink()
        assert [one.renamed_from for one in (await tunnels.apply(directory)).changed] == ["server/echo"]


async def test_apply_ends_in_time_though_a_new_server_is_silent(sshd: Sshd, echo: EchoServer) -> None:
    good = file(sshd, local("echo", 0, echo.port))
    async with await asyncio.start_server(_never_answer, "127.0.0.1", 0) as silent, open_tunnels(good) as tunnels:
        port = silent.sockets[0].getsockname()[1]
        slow = f"  slow:\n    host: 127.0.0.1\n    port: {port}\n    user: u\n    password: {{file: /etc/hostname}}\n"
        applied = await tunnels.apply(f"{good}{slow}    tunnels:\n{local('x', 0, 1)}", within=0.5)
        assert (applied.opened, applied.converged) == (("slow/x",), False)
        assert await exchange("127.0.0.1", tunnels.port("server/echo")) == b"ping"
        [paused] = await tunnels.pause("server/echo")
        assert paused.phase is Phase.OFF, "a silent server does not delay other targets"
        assert (await tunnels.apply(good)).closed == ("slow/x",)


async def _never_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()


async def test_two_applies_at_once_take_effect_in_turn(asyncssh_server: AsyncsshServer, echo: EchoServer) -> None:
    one, two = (file(asyncssh_server, local(name, free_port(), echo.port)) for name in ("one", "two"))
    async with open_tunnels("targets: {}") as tunnels:
        first, second = await asyncio.gather(tunnels.apply(one), tunnels.apply(two))
        assert (first.opened, second.opened) == (("server/one",), ("server/two",))
        assert [state.id for state in tunnels.all()] == ["server/two"]


# --- restart, pause, resume -----------------------------------------------------------------------------------------


async def test_restart_replaces_the_connection_and_keeps_clients(
    asyncssh_server: AsyncsshServer, echo: EchoServer
) -> None:
    async with open_tunnels(file(asyncssh_server, local("echo", 0, echo.port), local("other", 0, 1))) as tunnels:
        async with connected(tunnels.port("server/echo")) as client:
            assert await client.is_served()
            logins, events = asyncssh_server.logins, tunnels.events(within=0.0)
            restarted = await tunnels.restart("server/echo")
            assert [(one.id, one.phase) for one in restarted] == [("server/echo", "up"), ("server/other", "up")]
            assert asyncssh_server.logins == logins + 1
            assert await client.is_served()
            event = await anext(events)
            assert isinstance(event, Notice)
            assert event == Notice(event.at, "server", NoticeKind.RESTARTED, "requested by the program")
            await tunnels.restart("server", now=True)
            with pytest.raises((ConnectionError, AssertionError)):
                assert await client.is_served()


async def test_restart_of_a_target_that_cannot_connect_says_so(
    asyncssh_server: AsyncsshServer, echo: EchoServer, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    key.write_bytes(asyncssh_server.client_key.read_bytes())
    key.chmod(0o600)
    async with open_tunnels(file(asyncssh_server, local("echo", 0, echo.port), privateKey=key)) as tunnels:
        key.unlink()
        [state] = await tunnels.restart("server")
        assert state.is_up
        assert "still using the old connection" in state.message
        assert await exchange("127.0.0.1", tunnels.port("server/echo")) == b"ping"


async def test_pause_closes_the_port_until_resume(asyncssh_server: AsyncsshServer, echo: EchoServer) -> None:
    port = free_port()
    text = file(asyncssh_server, local("echo", port, echo.port), local("other", 0, echo.port))
    async with open_tunnels(text) as tunnels:
        [paused] = await tunnels.pause("server/echo")
        assert (paused.id, paused.phase, paused.message) == ("server/echo", Phase.OFF, "paused")
        with pytest.raises(ConnectionRefusedError):
            await exchange("127.0.0.1", port)
        assert (await tunnels.apply(text)).opened == (), "a pause survives another configuration"
        assert tunnels["server/echo"].phase is Phase.OFF
        [resumed] = await tunnels.resume("server/e*")
        assert resumed.is_up
        assert await exchange("127.0.0.1", port) == b"ping"
        assert len(await tunnels.pause("server", 0.2)) == 2
        await eventually(lambda: all(one.is_up for one in tunnels.all()))


async def test_a_name_that_matches_nothing_is_an_error(asyncssh_server: AsyncsshServer) -> None:
    async with open_tunnels(file(asyncssh_server, local("echo", 0, 1))) as tunnels:
        message = 'no tunnel matches "prod": known tunnels are server/echo'
        for call in (tunnels.restart, tunnels.pause, tunnels.resume):
            with pytest.raises(NoSuchTunnelError) as raised:
                await call("prod")
            assert str(raised.value) == message
        with pytest.raises(KeyError, match="no tunnel matches"):
            tunnels["prod"]


@pytest.mark.parametrize("wrong", [-1.0, float("nan")])
async def test_a_wrong_time_is_a_value_error(wrong: float) -> None:
    async with open_tunnels("targets: {}") as tunnels:
        for call in (tunnels.until_up(wrong), tunnels.apply("targets: {}", within=wrong), tunnels.pause("*", wrong)):
            with pytest.raises(ValueError, match="out of range: expected 0"):
                await call
        with pytest.raises(ValueError, match="out of range: expected 0"):
            tunnels.events(wrong)


# --- ports and states -----------------------------------------------------------------------------------------------


async def test_a_state_has_address_port_and_destination(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    unix = tunnel("unix", "local", localSocket=tmp_path / "s", remoteHost="db", remotePort=5432)
    there = tunnel("there", "remote", remotePort=0, localHost="127.0.0.1", localPort=echo.port)
    async with open_tunnels(file(sshd, unix, there, local("late", 0, 1, enabled="false"))) as tunnels:
        assert str(tunnels["server/unix"]) == "server/unix: up"
        assert tunnels["server/unix"].destination == "db:5432"
        assert await exchange("127.0.0.1", tunnels.port("server/there")) == b"ping"
        with pytest.raises(NoPortError, match="it listens on the unix socket"):
            tunnels.port("server/unix")
        with pytest.raises(ValueError, match="server/late has no port yet, and is off"):
            tunnels.port("server/late")


async def test_values_of_variables_are_not_shown() -> None:
    values = {"SECRET_HOST": "hidden.example.invalid"}
    login = "user: u, password: {file: /etc/hostname}, tunnels: [{name: x, local: '0:db:1'}]"
    text = f"targets:\n  a: {{host: '${{SECRET_HOST}}', {login}}}\n"
    async with open_tunnels("targets: {}", environ=values) as tunnels:
        events = tunnels.events(within=0.0)
        await tunnels.apply(text)
        assert tunnels["a/x"].reason is Reason.DNS
        assert "${SECRET_HOST}" in tunnels["a/x"].message
        assert "hidden" not in f"{tunnels.all()} {[event async for event in events]}"


# --- events ---------------------------------------------------------------------------------------------------------


async def test_events_tell_an_outage_and_the_return(asyncssh_server: AsyncsshServer, echo: EchoServer) -> None:
    async with open_tunnels(file(asyncssh_server, local("echo", 0, echo.port))) as tunnels:
        events = tunnels.events(WITHIN)
        await asyncssh_server.stop()
        down = await _phase(events, "server/echo", Phase.DOWN)
        assert down.before is Phase.UP
        assert down.reason is not None
        assert down.message
        await asyncssh_server.start()
        assert (await _phase(events, "server/echo", Phase.UP)).reason is None
        await tunnels.apply("targets: {}")
        assert (await _phase(events, "server/echo", None)).before is Phase.UP


async def _phase(events: reconciler.EventStream, tunnel: str, phase: Phase | None) -> PhaseChanged:
    async for event in events:
        if isinstance(event, PhaseChanged) and event.id == tunnel and event.phase is phase:
            return event
    raise AssertionError(f"{tunnel} did not become {phase}")


async def test_a_wait_for_an_event_may_be_given_up(asyncssh_server: AsyncsshServer) -> None:
    async with open_tunnels(file(asyncssh_server, local("echo", 0, 1))) as tunnels:
        events = tunnels.events()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(events), 0.01)
        await tunnels.pause("server/echo")
        assert isinstance(await anext(events), Notice)


async def test_events_end_with_the_block(asyncssh_server: AsyncsshServer) -> None:
    async def collect(events: reconciler.EventStream) -> list[TunnelEvent]:
        return [event async for event in events]

    async with open_tunnels(file(asyncssh_server, local("echo", 0, 1))) as tunnels:
        reading = asyncio.create_task(collect(tunnels.events()))
        late = tunnels.events()
        await tunnels.pause("server/echo")
    expected = await reading
    assert NoticeKind.PAUSED in [event.kind for event in expected if isinstance(event, Notice)]
    assert await collect(late) == expected, "events of the block can be read after it"


# --- the end of a block ---------------------------------------------------------------------------------------------


async def test_calls_after_the_block_are_errors(asyncssh_server: AsyncsshServer) -> None:
    async with open_tunnels(file(asyncssh_server, local("echo", 0, 1))) as tunnels:
        pass
    for call in (
        tunnels.until_up(),
        tunnels.apply("targets: {}"),
        tunnels.restart("*"),
        tunnels.pause("*"),
        tunnels.resume("*"),
    ):
        with pytest.raises(BlockEndedError):
            await call
    with pytest.raises(BlockEndedError):
        tunnels.all()
    with pytest.raises(BlockEndedError):
        tunnels["server/echo"]
    with pytest.raises(RuntimeError, match="block has ended"):
        tunnels.events()


async def test_the_end_of_the_block_ends_an_apply(asyncssh_server: AsyncsshServer) -> None:
    async with await asyncio.start_server(_never_answer, "127.0.0.1", 0) as silent:
        port = silent.sockets[0].getsockname()[1]
        async with open_tunnels("targets: {}") as tunnels:
            text = f"targets:\n{target(asyncssh_server, port=port)}{local('x', 0, 1)}"
            applying = asyncio.create_task(tunnels.apply(text, within=3600.0))
            await eventually(lambda: [one.phase for one in tunnels.all()] == [Phase.CONNECTING])
        with pytest.raises(BlockEndedError):
            await applying


async def test_an_exception_in_the_block_closes_the_tunnels(asyncssh_server: AsyncsshServer, echo: EchoServer) -> None:
    port = free_port()
    with pytest.raises(ArithmeticError):
        async with open_tunnels(file(asyncssh_server, local("echo", port, echo.port))):
            raise ArithmeticError
    with pytest.raises(ConnectionRefusedError):
        await exchange("127.0.0.1", port)


async def test_cancellation_in_the_block_closes_the_tunnels(asyncssh_server: AsyncsshServer, echo: EchoServer) -> None:
    port = free_port()

    async def program() -> None:
        async with open_tunnels(file(asyncssh_server, local("echo", port, echo.port))) as tunnels:
            async for _ in tunnels.events():
                pass

    running = asyncio.create_task(program())
    await eventually(lambda: _is_open(port))
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not await _is_open(port)


async def _is_open(port: int) -> bool:
    try:
        return await exchange("127.0.0.1", port) == b"ping"
    except OSError:
        return False


async def test_blocks_may_be_nested(asyncssh_server: AsyncsshServer, echo: EchoServer) -> None:
    text = file(asyncssh_server, local("echo", 0, echo.port))
    async with open_tunnels(text) as outer, open_tunnels(text) as inner:
        assert outer.port("server/echo") != inner.port("server/echo")
        await inner.apply("targets: {}")
        assert await exchange("127.0.0.1", outer.port("server/echo")) == b"ping"


async def test_a_program_may_run_two_event_loops_in_turn(sshd: Sshd, echo: EchoServer) -> None:
    async def main() -> Tunnels:
        async with open_tunnels(file(sshd, local("echo", 0, echo.port))) as tunnels:
            assert await exchange("127.0.0.1", tunnels.port("server/echo")) == b"ping"
            return tunnels

    def program() -> None:
        first, _ = asyncio.run(main()), asyncio.run(main())
        with pytest.raises(BlockEndedError):
            asyncio.run(first.until_up())

    await asyncio.to_thread(program)


async def test_a_call_from_another_event_loop_is_an_error() -> None:
    async with open_tunnels("targets: {}") as tunnels:

        def other() -> None:
            with pytest.raises(WrongContextError, match=r"use `reconciler\.blocking`"):
                asyncio.run(tunnels.until_up())
            with pytest.raises(WrongContextError):
                tunnels.events()

        await asyncio.to_thread(other)
