"""Reads the credentials of a hop: from its configured logins to keys in order, and passwords.

Each dial reads everything again, so that a rotated file takes effect at once. It reads off the event loop, and before
the connection is made, so that an unreadable key causes no connection. Only configured sources are read.
"""

from __future__ import annotations

import asyncio
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import asyncssh

from reconciler.core.observed import Failure, Reason
from reconciler.core.secret import FromFile
from reconciler.core.spec import AgentLogin, Hop, KeyLogin, Login, PasswordLogin
from reconciler.ssh.connect.keys import agent_keys, private_keys, user_certificates
from reconciler.ssh.connect.keys.agent_keys import agent_socket
from reconciler.ssh.connect.keys.offer import Offer
from reconciler.ssh.connect.keys.private_keys import invalid
from reconciler.ssh.connect.keys.user_certificates import UnusableError
from reconciler.ssh.connect.secret_source import read_bytes, read_text
from reconciler.ssh.errors.failure import DialFailed, UnreadableSecretError
from reconciler.system.daemon_threads import DaemonThreads
from reconciler.system.file_calls import FILES

__all__ = ["Credentials", "Offer", "agent_socket", "collect", "unusable_credentials"]

_OTHERS_MAY_READ = stat.S_IRWXG | stat.S_IRWXO
# Decoding an encrypted key is slow: it must not delay plain keys or the default executor.
_PLAIN, _ENCRYPTED = DaemonThreads(4), DaemonThreads(32)
_BY_KEY = ("publickey",)
_BY_PASSWORD = ("password", "keyboard-interactive")


@dataclass(slots=True)
class Credentials:
    """The credentials of one hop. `unusable`: the failure of one that cannot be used now. Close after use."""

    methods: tuple[str, ...]
    keys: list[Offer] = field(default_factory=list)
    passwords: list[str] = field(default_factory=list, repr=False)
    warnings: list[str] = field(default_factory=list)
    unusable: Failure | None = None
    agents: list[asyncssh.SSHAgentClient] = field(default_factory=list)

    def close(self) -> None:
        for agent in self.agents:
            agent.close()


async def collect(hop: Hop, environ: Mapping[str, str], seconds: float) -> Credentials:
    """Read the hop's credentials. Raises DialFailed if one cannot be read, or none can be used."""
    credentials = Credentials(_methods(hop))
    try:
        async with asyncio.timeout(seconds):
            for login in hop.logins:
                try:
                    await _add(login, hop, environ, credentials)
                except UnusableError as unusable:
                    credentials.unusable = credentials.unusable or unusable.failure
    except TimeoutError:
        credentials.close()
        what = f"reading the keys for {hop.hosts[0]} took over {seconds:g} s"
        raise invalid(what, "check whether the agent or a file system hangs") from None
    except BaseException:
        credentials.close()
        raise
    if credentials.unusable and not credentials.keys and not credentials.passwords:
        credentials.close()
        raise DialFailed(credentials.unusable)
    return credentials


async def _add(login: Login, hop: Hop, environ: Mapping[str, str], credentials: Credentials) -> None:
    match login:
        case KeyLogin():
            read = await _read_key(login, environ, hop.strict_key_permissions)
            credentials.keys += read.offers
            credentials.warnings += read.warnings
            credentials.unusable = credentials.unusable or read.unusable
        case AgentLogin():
            agent = await agent_keys.ask(login, environ, credentials.agents)
            credentials.keys += agent.offers
            credentials.unusable = credentials.unusable or agent.unusable
        case PasswordLogin():
            credentials.passwords.append(await read_text(login.password, environ, "the password"))


def _methods(hop: Hop) -> tuple[str, ...]:
    """SSH's authentication methods in the order in which the logins first need them.

    Methods that no login needs come last. If the server accepts one of them, asyncssh asks this program for a
    credential. None is sent, and the failure can name the method.
    """
    methods: dict[str, None] = {}
    for login in hop.logins:
        methods |= dict.fromkeys(_BY_PASSWORD if isinstance(login, PasswordLogin) else _BY_KEY)
    return tuple(methods | dict.fromkeys((*_BY_KEY, *_BY_PASSWORD)))


async def unusable_credentials(hop: Hop, environ: Mapping[str, str]) -> list[Failure]:
    """The failures of keys and certificates that can be read on this machine; those that cannot be read are skipped."""
    found: list[Failure] = []
    for login in hop.logins:
        try:
            if isinstance(login, KeyLogin):
                read = await _read_key(login, environ, hop.strict_key_permissions)
                found += [read.unusable] if read.unusable is not None else []
            elif isinstance(login, AgentLogin) and login.only and not agent_socket(login, environ):
                found.append(Failure(Reason.SECRET_UNREADABLE, *agent_keys.no_agent(login)))
        except UnusableError as unusable:
            found.append(unusable.failure)
        except UnreadableSecretError:
            continue  # the file may exist only where `run` runs
        except DialFailed as failed:
            found.append(failed.failure)
    return found


# --- keys -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _KeyRead:
    """`unusable`: the failure of the certificate, if the plain key alone is offered."""

    offers: list[Offer]
    warnings: list[str]
    unusable: Failure | None


async def _read_key(login: KeyLogin, environ: Mapping[str, str], strict_permissions: bool) -> _KeyRead:
    content = await read_bytes(login.key, environ, "the private key")
    warnings = []
    if isinstance(login.key, FromFile) and (warning := await _permissions_of(login.key.path)):
        if strict_permissions:
            raise invalid(warning, "run chmod 600 on it, or set `strictKeyPermissions: false`")
        warnings.append(warning)
    passphrase = await read_text(login.passphrase, environ, "the passphrase") if login.passphrase else None
    signed = await read_bytes(login.certificate, environ, "the certificate") if login.certificate else b""
    threads = _PLAIN if passphrase is None else _ENCRYPTED
    loop = asyncio.get_running_loop()
    offers, unusable = await loop.run_in_executor(threads, _offers, login, content, passphrase, signed)
    return _KeyRead(offers, warnings, unusable)


def _offers(
    login: KeyLogin, content: bytes, passphrase: str | None, signed: bytes
) -> tuple[list[Offer], Failure | None]:
    """The key with its certificate and then the plain key, as ssh offers them."""
    key = private_keys.decoded(content, passphrase, str(login.key))
    offers, unusable = [], None
    # A key object, not its path: for a path asyncssh looks for a certificate beside it.
    (plain,) = asyncssh.load_keypairs([key])
    if login.certificate:
        try:
            certificate, found = user_certificates.read(signed, str(login.certificate), key)
            certified = asyncssh.load_keypairs([(key, certificate)])[0]
            offers.append(Offer(certified, f"the certificate {login.certificate}", found))
        except UnusableError as error:
            unusable = error.failure
    return [*offers, Offer(plain, f"key {login.key}")], unusable


async def _permissions_of(path: str) -> str:
    try:
        mode = (await FILES.ask(path, Path(path).stat)).st_mode
    except OSError:  # removed meanwhile: its content is read already
        return ""
    readable = f"other users can read the private key {path} (mode {stat.S_IMODE(mode):04o})"
    return readable if mode & _OTHERS_MAY_READ else ""
