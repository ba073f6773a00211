"""What is said when a server does not forward: the cause if it is known, else every setting that can be the cause.

OpenSSH gives one answer for many settings. The options of a key or certificate are known: it sends them at login.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from integration.dialling import (
    Server,
    access,
    certified_login,
    dialled,
    failure_of,
    hop,
    key_login,
    settings,
    sshd_with_authority,
)
from reconciler.core.observed import Failure, Phase, Reason
from reconciler.core.spec import FarTcp, FarUnix, RemoteTcp, RemoteUnix
from reconciler.ssh.errors.channel_errors import from_channel_open
from reconciler.ssh.errors.listen_errors import from_remote_listen
from reconciler.ssh.link.link import Link, LinkClient
from reconciler.ssh.link.remote_listeners import ListenRefusedError
from support.container import user_name
from support.dropbear import Dropbear, DropbearUnavailableError
from support.endpoints import whole
from support.keys import Keys
from support.other_user import needs_root, shared_directory
from support.services import EchoServer, connected
from support.sshd import Sshd
from support.tunnels import file, local, remote
from support.wait import eventually, free_port

KNOWN_BAD = "remove no-port-forwarding there, or add port-forwarding after restrict"
CONNECT_SETTINGS = "AllowTcpForwarding, PermitOpen and DisableForwarding in its sshd_config"
LISTEN_SETTINGS = "AllowTcpForwarding and DisableForwarding in its sshd_config"
UNIX_SETTINGS = "AllowStreamLocalForwarding, AllowTcpForwarding, PermitOpen and DisableForwarding in its sshd_config"
LISTEN_UNIX_SETTINGS = "AllowStreamLocalForwarding and DisableForwarding in its sshd_config"


@contextlib.asynccontextmanager
async def linked(server: Server, **fields: Any) -> AsyncIterator[Link]:
    """A link to the server."""
    client = LinkClient()
    async with dialled(access(hop(server, **fields)), client=lambda: client) as result:
        yield Link(0, "prod", result, client, settings(), lost=lambda _: None, recovered=lambda: None)


async def refused(server: Server, path: Path, **fields: Any) -> dict[str, Failure]:
    """Return the failures of a TCP destination, a unix destination, a port and a unix listener. Omit what succeeds."""
    found = {}
    async with linked(server, **fields) as link:
        for name, to in (("connect", FarTcp("prod", "127.0.0.1", server.port)), ("unix", FarUnix("prod", str(path)))):
            try:
                (await link.open_stream(to)).close()
            except asyncssh.ChannelOpenError as error:
                found[name] = from_channel_open(error, str(to), link.dialled.server)
        for name, listen in (
            ("listen", RemoteTcp("prod", "127.0.0.1", free_port())),
            ("listen unix", RemoteUnix("prod", f"{path}.{secrets.token_hex(4)}")),
        ):
            try:
                await link.forwards.listen(listen, _unused)
            except ListenRefusedError as error:
                found[name] = from_remote_listen(error, listen, error.server, said=error.debug_text)
    return found


def _unused(*_: object) -> Any:
    raise AssertionError("no client connects")


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Path]:
    """A unix socket on which a service listens."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "service"))
        listening.listen()
        yield tmp_path / "service"


SSHD: dict[str, dict[str, str]] = {
    "AllowTcpForwarding no": {
        "connect": f"see {CONNECT_SETTINGS}",
        "unix": f"then see {UNIX_SETTINGS}",
        "listen": f"see {LISTEN_SETTINGS}",
        "listen unix": "see AllowTcpForwarding in its sshd_config",
    },
    "PermitOpen none": {"connect": f"see {CONNECT_SETTINGS}", "unix": f"then see {UNIX_SETTINGS}"},
    "PermitListen none": {"listen": "see PermitListen in its sshd_config"},
    "AllowStreamLocalForwarding no": {
        "unix": f"then see {UNIX_SETTINGS}",
        "listen unix": f"see {LISTEN_UNIX_SETTINGS}",
    },
    "DisableForwarding yes": {
        "connect": f"see {CONNECT_SETTINGS}",
        "unix": f"then see {UNIX_SETTINGS}",
        "listen": f"see {LISTEN_SETTINGS}",
        "listen unix": f"see {LISTEN_UNIX_SETTINGS}",
    },
}


@pytest.mark.parametrize("setting", SSHD)
async def test_settings_that_the_answer_of_sshd_allows_are_listed(setting: str, tmp_path: Path, service: Path) -> None:
    keyword, value = setting.split()
    async with Sshd(tmp_path / "sshd", options={keyword: value}) as sshd:
        found = await refused(sshd, service)
    assert found.keys() == SSHD[setting].keys()
    for name, failure in found.items():
        assert failure.advice.endswith(SSHD[setting][name])
        assert "authorized_keys" not in failure.advice, "the key is known to allow it"


async def test_a_key_that_forbids_forwarding_is_the_cause(sshd: Sshd, keys: Keys, service: Path) -> None:
    for number, restriction in enumerate(("restrict", "no-port-forwarding"), start=2):
        sshd.authorize(keys.make(restriction), restrictions=restriction)
        found = await refused(sshd, service, logins=(key_login(keys.directory / restriction),))
        assert found.keys() == {"connect", "unix", "listen", "listen unix"}
        for failure in found.values():
            assert failure.reason is Reason.FORBIDDEN_BY_SERVER
            assert f"({sshd.authorized_keys}:{number} has restrict or no-port-forwarding for the key)" in failure.what
            assert failure.advice == KNOWN_BAD


async def test_a_certificate_without_port_forwarding_is_the_cause(tmp_path: Path, keys: Keys, service: Path) -> None:
    authority, key = keys.make("authority"), keys.make("certified")
    path = keys.sign(key, authority, "-n", user_name(), "-O", "no-port-forwarding")
    async with sshd_with_authority(tmp_path, authority) as sshd:
        found = await refused(sshd, service, logins=(certified_login(key, path),))
    assert found.keys() == {"connect", "unix", "listen", "listen unix"}
    for failure in found.values():
        assert failure.what.endswith(f" (the certificate {path} lacks permit-port-forwarding)")
        assert failure.advice == "have a certificate issued with that extension"


async def test_the_destinations_of_a_key_are_looked_at_first(sshd: Sshd, keys: Keys, service: Path) -> None:
    sshd.authorize(keys.make("opens"), restrictions='permitopen="127.0.0.1:1"')
    sshd.authorize(keys.make("listens"), restrictions='permitlisten="127.0.0.1:1"')
    opens = await refused(sshd, service, logins=(key_login(keys.directory / "opens"),))
    assert opens.keys() == {"connect", "unix"}
    assert opens["connect"].advice == f"see permitopen= in {sshd.authorized_keys}:2, then {CONNECT_SETTINGS}"
    assert opens["unix"].advice.endswith(f"then see permitopen= in {sshd.authorized_keys}:2, then {UNIX_SETTINGS}")
    listens = await refused(sshd, service, logins=(key_login(keys.directory / "listens"),))
    assert listens.keys() == {"listen"}
    assert listens["listen"].advice == (
        f"see permitlisten= in {sshd.authorized_keys}:3, then PermitListen in its sshd_config"
    )


async def test_a_unix_destination_that_sshd_does_not_reach_has_several_causes(sshd: Sshd, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name in ("missing", "file"):
        [failure] = (await refused(sshd, tmp_path / name)).values()
        assert failure.what == f"the SSH server does not connect to {tmp_path / name} and does not say why"
        assert failure.reason is Reason.DESTINATION
        assert failure.advice == (
            f"check that it is a socket, that a service listens on it and that {sshd.user} may write to it; "
            f"then see {UNIX_SETTINGS}"
        )


async def refusal_to_listen(server: Server, *listens: RemoteTcp | RemoteUnix, **fields: Any) -> list[Failure]:
    """The failures of these listeners, all of which the server refuses."""
    found = []
    async with linked(server, **fields) as link:
        for listen in listens:
            with pytest.raises(ListenRefusedError) as raised:
                await link.forwards.listen(listen, _unused)
            error = raised.value
            found.append(from_remote_listen(error, listen, error.server, said=error.debug_text))
    return found


async def test_port_0_is_never_said_to_be_in_use(tmp_path: Path, echo: EchoServer) -> None:
    async with Sshd(tmp_path / "sshd", options={"GatewayPorts": "clientspecified"}) as sshd:
        chosen, fixed, taken = await refusal_to_listen(
            sshd,
            RemoteTcp("prod", "192.0.2.7", 0),
            RemoteTcp("prod", "192.0.2.7", free_port()),
            RemoteTcp("prod", "127.0.0.1", echo.port),
        )
    assert (chosen.reason, chosen.advice) == (Reason.BIND, "correct `remoteHost`")
    assert chosen.what.endswith(" (the server has no address 192.0.2.7)")
    assert fixed.reason is Reason.REMOTE_PORT_IN_USE
    assert fixed.what.endswith(" (the port is in use there, or the server has no address 192.0.2.7)")
    assert taken.what.endswith(" (the port is in use there)")
    assert taken.advice == "free the port on the server, or choose another"


async def test_a_unix_listener_that_cannot_be_made_has_several_causes(sshd: Sshd, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    paths = [str(tmp_path / "file"), str(tmp_path / "nowhere" / "s"), "/tmp/" + "x" * 200]
    exists, nowhere, long = await refusal_to_listen(sshd, *(RemoteUnix("prod", path) for path in paths))
    for failure in (exists, nowhere):
        cause = f"the file exists, its directory is missing, or {sshd.user} may not write there"
        assert failure.what.endswith(f" ({cause})")
        assert "StreamLocalBindUnlink" in failure.advice
    assert long.what.endswith(" (the path has 205 bytes, and most systems allow 107)")


@needs_root
async def test_a_low_port_needs_a_login_as_root() -> None:
    with shared_directory(0o755) as directory:
        async with Sshd(directory / "sshd") as sshd:
            sshd.authorized_keys.chmod(0o644)
            low = RemoteTcp("prod", "127.0.0.1", 81)
            [as_nobody] = await refusal_to_listen(sshd, low, user="nobody")
            assert as_nobody.what.endswith(" (ports below 1024 need a login as root, or the port is in use there)")
            assert as_nobody.advice == "choose a port from 1024"
            sshd.options["AllowTcpForwarding"] = "no"
            await sshd.restart()
            [as_nobody], [as_root] = (
                await refusal_to_listen(sshd, low, user="nobody"),
                await refusal_to_listen(sshd, low),
            )
            low_port = "choose a port from 1024, as lower ones need a login as root"
            assert as_nobody.advice == f"{low_port}; else see {LISTEN_SETTINGS}"
            assert as_root.advice == f"see {LISTEN_SETTINGS}"


async def test_a_jump_host_that_forbids_forwarding_names_the_line_of_the_key(sshd: Sshd, keys: Keys) -> None:
    sshd.authorize(keys.make("restricted"), restrictions="restrict")
    jump = hop(sshd, logins=(key_login(keys.directory / "restricted"),))
    failure = await failure_of(access(hop(sshd), jump))
    assert failure.reason is Reason.FORBIDDEN_BY_SERVER
    assert f"({sshd.authorized_keys}:2 has restrict or no-port-forwarding for the key)" in failure.what
    assert failure.advice == KNOWN_BAD


@pytest.mark.parametrize(
    ("option", "name", "word"), [("-j", "connect", "permitopen"), ("-k", "listen", "permitlisten")]
)
async def test_the_settings_of_dropbear_are_listed(
    option: str, name: str, word: str, tmp_path: Path, service: Path
) -> None:
    try:
        async with Dropbear(tmp_path / "dropbear", options=[option]) as server:
            found = await refused(server, service)
    except DropbearUnavailableError as missing:
        pytest.skip(str(missing))
    assert not any("sshd_config" in failure.message for failure in found.values())
    keys = f"see {word}=, restrict and no-port-forwarding in its authorized_keys"
    assert f"{keys}, and {option} in the arguments of Dropbear" in found[name].advice


async def test_the_cause_reaches_the_status_and_diagnose(sshd: Sshd, keys: Keys, tmp_path: Path) -> None:
    sshd.authorize(keys.make("restricted"), restrictions="restrict")
    port = free_port()
    text = file(
        sshd, local("out", port, sshd.port), remote("back", free_port(), 1), privateKey=keys.directory / "restricted"
    )
    cause = f"{sshd.authorized_keys}:2 has restrict or no-port-forwarding for the key"
    async with whole(tmp_path, text) as it:
        verdict = await it.tunnels.until("server/back", Phase.DOWN)
        assert cause in verdict.message
        failed = (await it.control.get("/api/v1/diagnose", id="server/out"))["steps"][-1]
        assert (failed["step"], failed["fix"]) == ("destination", KNOWN_BAD)
        assert cause in failed["detail"]
        await it.tunnels.until("server/out", Phase.UP)

        async def is_told() -> bool:
            async with connected("127.0.0.1", port) as (reader, _):
                with contextlib.suppress(ConnectionResetError):
                    await reader.read()
            verdict = it.tunnels.verdict("server/out")
            return verdict is not None and verdict.phase is Phase.UNHEALTHY and cause in verdict.message

        await eventually(is_told)
