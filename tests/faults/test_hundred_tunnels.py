"""A hundred tunnels on ten targets under load: an edit changes only the tunnels that it names."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from support.clients import FULL, LONG, Mover, all_move, listening_inodes
from support.services import EchoServer, exchange
from support.sshd import Sshd
from support.tunnels import Running, local, running, target
from support.wait import eventually, free_port

TARGETS, TUNNELS_EACH = 10, 10
ROUNDS = 100 if FULL else 10
CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "aes256-ctr")


class File:
    """The configuration file and its edits."""

    def __init__(self, sshd: Sshd, echo: EchoServer) -> None:
        self._sshd = sshd
        self._echo = echo
        self.ciphers = [CIPHERS[0]] * TARGETS
        self.ports = {f"t{n}/n{m}": free_port() for n in range(TARGETS) for m in range(TUNNELS_EACH)}

    def text(self) -> str:
        lines = ["targets:\n"]
        for number, cipher in enumerate(self.ciphers):
            lines.append(target(self._sshd, f"t{number}", algorithms=f"{{cipher: [{cipher}]}}"))
            mine = (id_ for id_ in self.ports if id_.startswith(f"t{number}/"))
            lines += [local(id_.partition("/")[2], self.ports[id_], self._echo.port) for id_ in mine]
        return "".join(lines)


@pytest.mark.timeout(LONG)
async def test_an_edit_under_load_costs_only_what_it_names(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    """Clients stay connected from edit to edit. Each edit ends only the clients of the tunnels that it removes."""
    file = File(sshd, echo)
    movers = dict[str, Mover]()
    async with running(tmp_path, file.text()) as tunnels:
        await tunnels.all_up()
        try:
            for turn in range(ROUNDS):
                movers |= {id_: Mover(port, pause=0.05) for id_, port in file.ports.items() if id_ not in movers}
                await all_move(movers.values())
                await one_edit_of_each_kind(turn, file, tunnels, movers)
            await asyncio.gather(*(mover.end() for mover in movers.values()))
        finally:
            for mover in movers.values():
                mover.task.cancel()


async def one_edit_of_each_kind(turn: int, file: File, tunnels: Running, movers: dict[str, Mover]) -> None:
    """Make four edits in one save. End the movers of the two tunnels with closed sockets."""
    edited, removed = list(file.ports)[turn % 7 :: 50][:2]
    rekeyed = turn % TARGETS
    inodes, links = listening_inodes(), {link.target: link.number for link in tunnels.links}
    gone = [file.ports[edited], file.ports.pop(removed)]
    others = [port for id_, port in file.ports.items() if id_ != edited]
    file.ports[edited] = free_port()
    added = f"t{(turn + 3) % TARGETS}/added{turn}"
    file.ports[added] = free_port()
    file.ciphers[rekeyed] = CIPHERS[(CIPHERS.index(file.ciphers[rekeyed]) + 1) % len(CIPHERS)]
    tunnels.edit(file.text())
    await tunnels.all_up(*file.ports)
    await eventually(lambda: cipher_in_use(tunnels, f"t{rekeyed}") == file.ciphers[rekeyed])
    for id_ in (edited, added):
        assert await exchange("127.0.0.1", file.ports[id_]) == b"ping"
    for port in gone:
        with pytest.raises(ConnectionRefusedError):
            await exchange("127.0.0.1", port)
    now = listening_inodes()
    assert [now.get(port) for port in others] == [inodes[port] for port in others]
    kept = {name: number for name, number in links.items() if name != f"t{rekeyed}"}
    assert kept.items() <= {link.target: link.number for link in tunnels.links}.items(), "no other link is replaced"
    await all_move(movers.values())  # also the two with closed sockets, and those on the replaced connection
    for id_ in (edited, removed):
        await movers.pop(id_).end()


def cipher_in_use(tunnels: Running, name: str) -> str:
    """Return the cipher of the connection that new clients of the target use."""
    newest = [link for link in tunnels.links if link.target == name][-1]
    return str(newest.connection.get_extra_info("send_cipher"))
