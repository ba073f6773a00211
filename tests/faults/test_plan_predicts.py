"""`plan` predicts the steps of random edits of a running process with clients on each tunnel."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from reconciler.core.actions import Action, Assign, Cut, Drain, Retire, subject_of
from reconciler.core.observed import Observed
from reconciler.runtime.commands import Commands
from support.clients import FULL, LONG
from support.keys import Keys
from support.services import EchoServer, Streams
from support.sshd import Sshd
from support.tunnels import Running, file, local, running, target
from support.wait import eventually, free_port

EDITS = 200 if FULL else 60

SOURCES = ("127.0.0.1", "127.0.0.2")
USERS = ("ann", "bob")
PASSWORD = "secret"


class Edits:
    """A file with random edits of one or two things at a time."""

    def __init__(self, sshd: Sshd, places: tuple[int, int], seed: int) -> None:
        self._random = random.Random(seed)
        self._sshd = sshd
        self._places = places
        self._cipher = "aes128-gcm@openssh.com"
        self._made = 0
        self.tunnels: dict[str, dict[str, Any]] = {}
        for kind in ("local", "local", "local", "socks", "socks"):
            self._add(kind)

    def text(self) -> str:
        algorithms = f'{{cipher: ["{self._cipher}"]}}'
        lines = [f"      - {{name: {name}, {_flow(fields)}}}\n" for name, fields in self.tunnels.items()]
        return "targets:\n" + target(self._sshd, algorithms=algorithms) + "".join(lines)

    def edit(self) -> str:
        """Make a random edit and return its name."""
        return ", ".join(self._change() for _ in range(self._random.choice((1, 1, 2))))

    def _change(self) -> str:
        kinds = ("add", "remove", "rename", "retarget", "move", "policy", "swap", "access", "nothing")
        kind = self._random.choice((*kinds, "policy", "policy", "policy"))
        if kind == "remove" and len(self.tunnels) < 4:
            kind = "add"
        name = self._random.choice(sorted(self.tunnels))
        fields = self.tunnels[name]
        match kind:
            case "add":
                self._add(self._random.choice(("local", "local", "socks")))
            case "remove":
                del self.tunnels[name]
            case "rename":
                self.tunnels[self._name()] = self.tunnels.pop(name)
            case "retarget" if fields["type"] == "local":
                fields["remotePort"] = self._places[fields["remotePort"] == self._places[0]]
            case "move":
                fields["localPort"] = free_port()
            case "policy":
                self._policy(fields)
            case "swap":
                one, other = self._random.sample(sorted(self.tunnels), 2)
                ports = [self.tunnels[each]["localPort"] for each in (other, one)]
                self.tunnels[one]["localPort"], self.tunnels[other]["localPort"] = ports
            case "access":
                ciphers = ["aes128-gcm@openssh.com", "aes256-gcm@openssh.com"]
                self._cipher = ciphers[self._cipher == ciphers[0]]
            case _:
                pass  # a save without a change
        return f"{kind} {name}"

    def _policy(self, fields: dict[str, Any]) -> None:
        """Change the description or the rules; of a SOCKS tunnel also the users or destinations."""
        kinds = ("description", "sources", *(("users", "destinations") if fields["type"] == "socks" else ()))
        places = [_at(place) for place in self._places]
        match self._random.choice(kinds):
            case "sources":
                fields |= {"allow": self._some(SOURCES), "deny": self._some(SOURCES)}
            case "users":
                fields["auth"] = self._some(USERS)
            case "destinations":
                fields |= {"allowDestinations": self._some(places), "denyDestinations": self._some(places)}
            case _:
                fields["description"] = f"edit {self._random.random()}"

    def _name(self) -> str:
        self._made += 1
        return f"t{self._made}"

    def _add(self, kind: str) -> None:
        fields: dict[str, Any] = {"type": kind, "localPort": free_port()}
        if kind == "local":
            fields |= {"remoteHost": "127.0.0.1", "remotePort": self._places[0]}
        self.tunnels[self._name()] = fields

    def _some(self, among: Sequence[str]) -> list[str]:
        """Return all, some or none of the items."""
        return self._random.sample(among, self._random.randint(0, len(among)))

    def clients(self) -> Iterator[AbstractAsyncContextManager[Streams]]:
        """Connect one client of each kind that the rules of each tunnel allow."""
        for fields in self.tunnels.values():
            sources = [one for one in SOURCES if _lets_in(fields, "allow", "deny", one)]
            if fields["type"] == "local":
                for source in sources:
                    yield client(fields["localPort"], source)
                continue
            places = [to for to in self._places if _lets_in(fields, "allowDestinations", "denyDestinations", _at(to))]
            for source, user, place in itertools.product(sources, fields.get("auth") or [""], places):
                yield client(fields["localPort"], source, user=user, to=place)


def _at(place: int) -> str:
    return f"127.0.0.1:{place}"


def _lets_in(fields: dict[str, Any], allow: str, deny: str, who: str) -> bool:
    return who not in fields.get(deny, []) and (not fields.get(allow) or who in fields[allow])


def _flow(fields: dict[str, Any]) -> str:
    users = [f"{{username: {user}, password: {PASSWORD}}}" for user in fields.get("auth", [])]
    told = fields | ({"auth": f"[{', '.join(users)}]"} if users else {})
    return ", ".join(f"{key}: {value}" for key, value in told.items() if value)


async def test_the_steps_that_plan_prints_are_the_steps_taken(
    sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("support.wait._given_out", set())  # hundreds of ports are opened and closed
    async with EchoServer() as one, EchoServer() as other, asyncio.timeout(LONG):
        edits = Edits(sshd, (one.port, other.port), seed=20261122)
        async with running(tmp_path, edits.text()) as tunnels:
            await tunnels.all_up()
            taken = recorded(tunnels, monkeypatch)
            cut = 0
            for _ in range(EDITS):
                async with contextlib.AsyncExitStack() as there:
                    clients = [await there.enter_async_context(one) for one in edits.clients()]
                    what = edits.edit()
                    answer = await planned(tunnels, edits.text())
                    simulated = told(answer)
                    taken.clear()
                    number, _ = tunnels.app.events.since(0)
                    await apply(tunnels, edits.text())
                    assert sorted(taken) == sorted(simulated), what
                    dead = [await is_alive(*one) for one in clients].count(False)
                    assert dead == sum(count for action, _, count in simulated if action == "assign"), what
                    draining = sum(flow.count for flow in tunnels.engine.actuator.observe().flows if flow.draining)
                    assert answer["clients"] == dead + draining, what
                    events = [one for one in tunnels.app.events.since(number)[1] if one.phase == "cut"]
                    assert sum(int(one.message.split()[0]) for one in events) == dead, what
                    cut += dead
                await eventually(quiet_again(tunnels), message="the clients have left")
    assert cut


async def test_plan_predicts_the_retry_of_an_edit_that_failed_and_was_reverted(
    sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = local("web", free_port(), 9)
    wrong_key = Keys(tmp_path).make("wrong").private
    right, wrong = file(sshd, forward), file(sshd, forward, privateKey=wrong_key)
    async with running(tmp_path, right) as tunnels, asyncio.timeout(LONG):
        await tunnels.all_up()
        taken = recorded(tunnels, monkeypatch)
        await apply(tunnels, wrong)
        await eventually(lambda: tunnels.engine.actuator.observe().link_tries, message="it is refused")
        assert await plan(tunnels, wrong) == [], "the file asks for nothing new"
        await apply(tunnels, right)
        assert await plan(tunnels, right) == []
        simulated = await plan(tunnels, wrong)
        assert simulated == [("dial", "target server", 0), ("retire", "target server", 0)]
        taken.clear()
        await apply(tunnels, wrong)
        assert taken == simulated[:1], "at once; it is refused, and the old one goes on"


Step = tuple[str, str, int]


def recorded(tunnels: Running, monkeypatch: pytest.MonkeyPatch) -> list[Step]:
    """Record the steps of the running program."""
    taken: list[Step] = []
    actuator = tunnels.engine.actuator
    apply_it = actuator.apply

    def noted(action: Action) -> None:
        observed = actuator.observe()
        apply_it(action)
        taken.append(
            (type(action).__name__.lower(), str(subject_of(action)), touched_by(action, observed, actuator.observe()))
        )

    monkeypatch.setattr(actuator, "apply", noted)
    return taken


def touched_by(action: Action, before: Observed, after: Observed) -> int:
    """Return how many clients the steps affect, counted from outside."""
    match action:
        case Retire(link=link):
            return sum(flow.count for flow in before.flows if flow.key.link == link)
        case Drain(flow=key, draining=draining):
            return sum(flow.count for flow in before.flows if flow.key == key and draining is not None)
        case Assign() | Cut():
            return sum(flow.count for flow in before.flows) - sum(flow.count for flow in after.flows)
        case _:
            return 0


async def planned(tunnels: Running, text: str) -> Any:
    """Return the output of `tunnels plan` for this file content."""
    answer: Any = await Commands(tunnels.app).plan([("tunnels.yaml", str(tunnels.file.parent), text)], strict=False)
    assert answer["errors"] == []
    return answer


def told(answer: Any) -> list[Step]:
    return [(step["action"], step["subject"], step["clients"]) for step in answer["actions"]]


async def plan(tunnels: Running, text: str) -> list[Step]:
    return told(await planned(tunnels, text))


async def apply(tunnels: Running, text: str) -> None:
    """Save the file, and wait until it is applied."""
    tunnels.edit(text)
    await tunnels.app.load(requested=True)
    loaded = tunnels.app.loaded
    assert loaded is not None
    await Commands(tunnels.app).wait(loaded.revision, (), 20)


def quiet_again(tunnels: Running) -> Any:
    def quiet() -> bool:
        world = tunnels.engine.actuator.observe()
        return not world.flows and len(world.links) == 1

    return quiet


@contextlib.asynccontextmanager
async def client(port: int, source: str, *, user: str = "", to: int = 0) -> AsyncIterator[Streams]:
    """Connect a client. `to`: through a SOCKS tunnel to that port."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0))
    try:
        if to:
            await go(reader, writer, user, to)
        assert await is_alive(reader, writer)
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def go(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, user: str, to: int) -> None:
    """The handshake of a SOCKS client (RFC 1928, RFC 1929). `user` "": without a login."""
    method = b"\x02" if user else b"\x00"
    writer.write(b"\x05\x01" + method)
    assert await reader.readexactly(2) == b"\x05" + method
    if user:
        writer.write(b"\x01" + b"".join(bytes((len(word),)) + word.encode() for word in (user, PASSWORD)))
        assert await reader.readexactly(2) == b"\x01\x00"
    writer.write(b"\x05\x01\x00\x01\x7f\x00\x00\x01" + to.to_bytes(2))
    assert (await reader.readexactly(10))[1] == 0


async def is_alive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    try:
        writer.write(b"x")
        return await reader.readexactly(1) == b"x"
    except (ConnectionError, asyncio.IncompleteReadError):
        return False
