"""What `plan` says is what happens: random edits of a running configuration, with a client on every tunnel."""

from __future__ import annotations

import asyncio
import contextlib
import random
from pathlib import Path
from typing import Any

import pytest

from reconciler.core.actions import Action
from reconciler.orders import Orders
from reconciler.planned import clients_of, subject_of
from support.clients import FULL, LONG
from support.keys import Keys
from support.services import EchoServer
from support.sshd import Sshd
from support.tunnels import Running, file, local, running, target
from support.wait import eventually, free_port

EDITS = 200 if FULL else 60


class Edits:
    """A file that changes at random, one thing at a time."""

    def __init__(self, sshd: Sshd, places: tuple[int, int], seed: int) -> None:
        self._random = random.Random(seed)
        self._sshd = sshd
        self._places = places
        self._cipher = "aes128-gcm@openssh.com"
        self._made = 0
        self.tunnels: dict[str, dict[str, Any]] = {}
        for _ in range(5):
            self._add()

    def text(self) -> str:
        algorithms = f'{{cipher: ["{self._cipher}"]}}'
        lines = [f"      - {{name: {name}, type: local, {_flow(fields)}}}\n" for name, fields in self.tunnels.items()]
        return "targets:\n" + target(self._sshd, algorithms=algorithms) + "".join(lines)

    def edit(self) -> str:
        """Change something; what it was."""
        kinds = ("add", "remove", "rename", "retarget", "move", "policy", "swap", "access", "nothing")
        kind = self._random.choice(kinds)
        if kind == "remove" and len(self.tunnels) < 3:
            kind = "add"
        name = self._random.choice(sorted(self.tunnels))
        match kind:
            case "add":
                self._add()
            case "remove":
                del self.tunnels[name]
            case "rename":
                self.tunnels[self._name()] = self.tunnels.pop(name)
            case "retarget":
                to = self.tunnels[name]["remotePort"]
                self.tunnels[name]["remotePort"] = self._places[to == self._places[0]]
            case "move":
                self.tunnels[name]["localPort"] = free_port()
            case "policy":
                self.tunnels[name]["description"] = f"edit {self._random.random()}"
            case "swap":
                one, other = self._random.sample(sorted(self.tunnels), 2)
                ports = [self.tunnels[each]["localPort"] for each in (other, one)]
                self.tunnels[one]["localPort"], self.tunnels[other]["localPort"] = ports
            case "access":
                ciphers = ["aes128-gcm@openssh.com", "aes256-gcm@openssh.com"]
                self._cipher = ciphers[self._cipher == ciphers[0]]
            case _:
                pass  # a save that changes nothing
        return f"{kind} {name}"

    def _name(self) -> str:
        self._made += 1
        return f"t{self._made}"

    def _add(self) -> None:
        fields = {"localPort": free_port(), "remoteHost": "127.0.0.1", "remotePort": self._places[0]}
        self.tunnels[self._name()] = fields


def _flow(fields: dict[str, Any]) -> str:
    return ", ".join(f"{key}: {value}" for key, value in fields.items())


async def test_the_steps_that_plan_prints_are_the_steps_taken(
    sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("support.wait._given_out", set())  # hundreds of ports come and go
    async with EchoServer() as one, EchoServer() as other, asyncio.timeout(LONG):
        edits = Edits(sshd, (one.port, other.port), seed=20261122)
        async with running(tmp_path, edits.text()) as tunnels:
            await tunnels.all_up()
            taken = recorded(tunnels, monkeypatch)
            steps = touched = 0
            for _ in range(EDITS):
                async with contextlib.AsyncExitStack() as clients:
                    for fields in edits.tunnels.values():
                        await clients.enter_async_context(client(fields["localPort"]))
                    what = edits.edit()
                    foreseen = await plan(tunnels, edits.text())
                    taken.clear()
                    await apply(tunnels, edits.text())
                    assert sorted(taken) == sorted(foreseen), what
                    steps += len(taken)
                    touched += sum(step[2] for step in taken)
                await eventually(quiet_again(tunnels), message="the clients have left")
    with capsys.disabled():
        print(f"\n  {EDITS} random edits: {steps} steps foreseen and taken, {touched} clients touched as foreseen")


async def test_an_edit_that_was_refused_and_taken_back_is_foreseen_and_tried_again(
    sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = local("web", free_port(), 9)
    wrong_key = Keys(tmp_path).make("wrong").private
    right, wrong = file(sshd, forward), file(sshd, forward, privateKey=wrong_key)
    async with running(tmp_path, right) as tunnels, asyncio.timeout(LONG):
        await tunnels.all_up()
        taken = recorded(tunnels, monkeypatch)
        await apply(tunnels, wrong)
        await eventually(lambda: tunnels.app.fleet.observe().link_tries, message="it is refused")
        assert await plan(tunnels, wrong) == [], "the file asks for nothing new"
        await apply(tunnels, right)
        assert await plan(tunnels, right) == []
        foreseen = await plan(tunnels, wrong)
        assert foreseen == [("dial", "target server", 0), ("retire", "target server", 0)]
        taken.clear()
        await apply(tunnels, wrong)
        assert taken == foreseen[:1], "at once; it is refused, and the old one goes on"


Step = tuple[str, str, int]


def recorded(tunnels: Running, monkeypatch: pytest.MonkeyPatch) -> list[Step]:
    """The steps that the running program takes from now on."""
    taken: list[Step] = []
    fleet = tunnels.app.fleet
    apply_it = fleet.apply

    def noted(action: Action) -> None:
        observed = fleet.observe()
        subject = subject_of(action, {key: socket.owner.id for key, socket in observed.sockets.items()})
        taken.append((type(action).__name__.lower(), subject, clients_of(action, observed)))
        apply_it(action)

    monkeypatch.setattr(fleet, "apply", noted)
    return taken


async def plan(tunnels: Running, text: str) -> list[Step]:
    """What `tunnels plan` says about this text."""
    answer: Any = await Orders(tunnels.app).plan([("tunnels.yaml", str(tunnels.file.parent), text)], strict=False)
    assert answer["errors"] == []
    return [(step["action"], step["subject"], step["clients"]) for step in answer["actions"]]


async def apply(tunnels: Running, text: str) -> None:
    """Save it, and wait until all has been done."""
    tunnels.edit(text)
    await tunnels.app.load(asked=True)
    loaded = tunnels.app.loaded
    assert loaded is not None
    await Orders(tunnels.app).wait(loaded.revision, (), 20)


def quiet_again(tunnels: Running) -> Any:
    def quiet() -> bool:
        world = tunnels.app.fleet.observe()
        return not world.flows and len(world.links) == 1

    return quiet


@contextlib.asynccontextmanager
async def client(port: int) -> Any:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(b"x")
        assert await reader.readexactly(1) == b"x"
        yield
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
