"""Renewed and expired certificates and new known_hosts lines do not affect live connections."""

from __future__ import annotations

import asyncio
import hashlib
import time
from functools import partial
from pathlib import Path

from support.clients import moving
from support.keys import KeyPair, Keys
from support.postgres import Postgres, pg_dump, psql
from support.services import EchoServer
from support.sshd import Sshd
from support.tunnels import Running, file, local, running, target
from support.wait import eventually, free_port

# A dump of about 12 MB.
BIG = "create table big as select n, md5(n::text) as word from generate_series(1, 300000) n"


async def test_a_dump_continues_after_its_certificate_expires(keys: Keys, postgres: Postgres, tmp_path: Path) -> None:
    port = free_port()
    authority, key = keys.make("ca"), keys.make("id")
    stranger = keys.make("stranger")
    options = {"TrustedUserCAKeys": str(authority.public)}
    await psql("127.0.0.1", postgres.port, BIG)
    direct = await pg_dump("127.0.0.1", postgres.port)
    async with Sshd(tmp_path / "sshd", options=options, client=stranger) as sshd:
        sshd.authorized_keys.write_text("")  # the certificate is the only way in
        expires = int(time.time()) + 8  # after the login and before the end of the dump
        certificate = renew(keys, key, authority, sshd, expires)

        def text(**fields: str) -> str:
            tunnel = local("database", port, postgres.port, **fields)
            return file(sshd, tunnel, privateKey=key.private, certificate=certificate)

        async with running(tmp_path, text(bandwidthLimit="1MiB/s")) as tunnels:
            await tunnels.all_up()
            (link,) = tunnels.links
            assert link.dialled.certificate_expires == expires
            dump = asyncio.create_task(pg_dump("127.0.0.1", port))
            newest = expires
            for number in (1, 2, 3):
                newest += 3600
                renew(keys, key, authority, sshd, newest)
                await eventually(partial(has_moved, tunnels, number * 500_000))
            await eventually(lambda: time.time() > expires)
            assert not dump.done(), "the certificate expires during the dump"
            tunnels.edit(text())  # without the bandwidth limit, so that the test does not wait for the rest
            through = await dump
            assert hashlib.sha256(through).hexdigest() == hashlib.sha256(direct).hexdigest()
            assert tunnels.links == [link], "a live connection is not replaced for a newer certificate"
            tunnels.engine.restart(["server"], "requested by the test")
            await eventually(lambda: tunnels.links[-1] is not link)
            assert tunnels.links[-1].dialled.certificate_expires == newest
            assert await psql("127.0.0.1", port, "select 1") == "1"
    await psql("127.0.0.1", postgres.port, "drop table big")


async def test_a_host_key_added_by_accept_new_affects_no_other_target(
    sshd: Sshd, echo: EchoServer, tmp_path: Path
) -> None:
    """All targets share one known_hosts file, which each new host changes."""
    ports = [free_port() for _ in range(4)]
    known = tmp_path / "known_hosts"
    known.write_text(sshd.known_hosts.read_text())
    first = "targets:\n" + target(sshd, "first", knownHosts=known) + local("echo", ports[0], echo.port)
    others = "".join(
        target(sshd, f"new{number}", host=f"127.0.0.{number + 2}", knownHosts=known, strictHostKeyChecking="accept-new")
        + local("echo", port, echo.port)
        for number, port in enumerate(ports[1:])
    )
    sshd.options["ListenAddress"] = f"0.0.0.0:{sshd.port}"
    await sshd.restart()
    async with running(tmp_path, first) as tunnels:
        await tunnels.all_up()
        async with moving([ports[0]] * 5):
            tunnels.edit(first + others)
            await tunnels.all_up("first/echo", *(f"new{number}/echo" for number in range(3)))
            pool = tunnels.engine.actuator._links
            await eventually(lambda: len({record.fingerprint for record in pool._links.values()}) <= 2)
            assert len(tunnels.links) == len(ports)
            assert max(link.number for link in tunnels.links) == len(ports), "each link is made once"
    assert len(known.read_text().splitlines()) == len(ports)


def renew(keys: Keys, key: KeyPair, authority: KeyPair, sshd: Sshd, expires: int) -> Path:
    return keys.certify(key, authority, principals=[sshd.user], valid_before=expires)


def has_moved(tunnels: Running, count: int) -> bool:
    return tunnels.meter("server/database").received >= count
