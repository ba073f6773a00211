"""Reads the credentials of a hop: from its configured logins to keys in order, and passwords.

Each dial reads everything again, so that a rotated file takes effect at once. It reads off the event loop, and before
the connection is made, so that an unreadable key causes no connection. Only configured sources are read.
"""

from __future__ import annotations

import asyncio
import errno
import stat
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import asyncssh

from reconciler.core.observed import Failure, Reason
from reconciler.core.secret import FromFile, Source
from reconciler.core.spec import AgentLogin, Hop, KeyLogin, Login, PasswordLogin
from reconciler.ssh.connect.secret_source import read_bytes, read_text
from reconciler.ssh.errors.failure import DialFailed, UnreadableSecretError
from reconciler.ssh.errors.patterns import printable
from reconciler.ssh.internals.keys import certificates, public_keys
from reconciler.ssh.internals.keys.key_cost import CostlyKeyError, check_before_decoding, check_decoded
from reconciler.system.daemon_threads import DaemonThreads
from reconciler.system.file_calls import FILES

_OTHERS_MAY_READ = stat.S_IRWXG | stat.S_IRWXO
# Decoding an encrypted key is slow: it must not delay plain keys or the default executor.
_PLAIN, _ENCRYPTED = DaemonThreads(4), DaemonThreads(32)
_BY_KEY = ("publickey",)
_BY_PASSWORD = ("password", "keyboard-interactive")


@dataclass(frozen=True, slots=True)
class Offer:
    """One key to offer. `expires` is the end of its certificate (wall)."""

    pair: asyncssh.SSHKeyPair
    label: str
    expires: float | None

    def __post_init__(self) -> None:
        public_keys.prefer_sha512(self.pair)


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


class _UnusableError(Exception):
    """A login that cannot be used now; another login of the hop may succeed."""

    def __init__(self, reason: Reason, what: str, fix: str) -> None:
        super().__init__(what)
        self.failure = Failure(reason, what, fix)


def _invalid(what: str, fix: str) -> DialFailed:
    """The error for a credential that can be read and is not what it should be."""
    return DialFailed(Failure(Reason.SECRET_UNREADABLE, what, fix))


async def collect(hop: Hop, environ: Mapping[str, str], seconds: float) -> Credentials:
    """Read the hop's credentials. Raises DialFailed if one cannot be read, or none can be used."""
    credentials = Credentials(_methods(hop))
    try:
        async with asyncio.timeout(seconds):
            for login in hop.logins:
                try:
                    await _add(login, hop, environ, credentials)
                except _UnusableError as unusable:
                    credentials.unusable = credentials.unusable or unusable.failure
    except TimeoutError:
        credentials.close()
        what = f"reading the keys for {hop.hosts[0]} took over {seconds:g} s"
        raise _invalid(what, "check whether the agent or a file system hangs") from None
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
        case AgentLogin():
            await _ask_agent(login, environ, credentials)
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
                await _read_key(login, environ, hop.strict_key_permissions)
            elif isinstance(login, AgentLogin) and login.only and not agent_socket(login, environ):
                found.append(Failure(Reason.SECRET_UNREADABLE, *_no_agent(login)))
        except _UnusableError as unusable:
            found.append(unusable.failure)
        except UnreadableSecretError:
            continue  # the file may exist only where `run` runs
        except DialFailed as failed:
            found.append(failed.failure)
    return found


# --- keys -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _KeyRead:
    offers: list[Offer]
    warnings: list[str]


async def _read_key(login: KeyLogin, environ: Mapping[str, str], strict_permissions: bool) -> _KeyRead:
    content = await read_bytes(login.key, environ, "the private key")
    warnings = []
    if isinstance(login.key, FromFile) and (warning := await _permissions_of(login.key.path)):
        if strict_permissions:
            raise _invalid(warning, "run chmod 600 on it, or set `strictKeyPermissions: false`")
        warnings.append(warning)
    passphrase = await read_text(login.passphrase, environ, "the passphrase") if login.passphrase else None
    signed = await read_bytes(login.certificate, environ, "the certificate") if login.certificate else b""
    threads = _PLAIN if passphrase is None else _ENCRYPTED
    loop = asyncio.get_running_loop()
    offers = await loop.run_in_executor(threads, _offers, login, content, passphrase, signed)
    return _KeyRead(offers, warnings)


def _offers(login: KeyLogin, content: bytes, passphrase: str | None, signed: bytes) -> list[Offer]:
    key = _decoded_key(content, passphrase, str(login.key))
    certificate = _certificate(login.certificate, signed, key) if login.certificate else None
    # A key object, not its path: for a path asyncssh looks for a certificate beside it.
    pairs = asyncssh.load_keypairs([(key, certificate)] if certificate else [key])
    expires = _expiry(certificate)
    label = f"key {login.key}"
    return [Offer(pair, label, expires if certificates.is_certified(pair) else None) for pair in pairs]


async def _permissions_of(path: str) -> str:
    try:
        mode = (await FILES.ask(path, Path(path).stat)).st_mode
    except OSError:  # removed meanwhile: its content is read already
        return ""
    readable = f"other users can read the private key {path} (mode {stat.S_IMODE(mode):04o})"
    return readable if mode & _OTHERS_MAY_READ else ""


def _decoded_key(content: bytes, passphrase: str | None, place: str) -> asyncssh.SSHKey:
    if b"\n" not in content.strip() and b"\\n" in content:
        content = content.replace(b"\\n", b"\n")  # a key from an environment file
    if content.startswith(b"PuTTY-User-Key-File"):
        raise _invalid(f"{place} is a PuTTY key", "convert it (puttygen KEY -O private-openssh)")
    try:
        check_before_decoding(content)
        # OpenSSL's check of the primes is skipped, as in ssh: it blocks every thread, for seconds with 4096 bits. A
        # wrong key fails to sign.
        key = asyncssh.import_private_key(content, passphrase, unsafe_skip_rsa_key_validation=True)
        check_decoded(key)
    except CostlyKeyError as error:
        raise _invalid(
            f"the private key {place} takes too long to decode ({error})", "generate another one with ssh-keygen"
        ) from None
    except (ArithmeticError, LookupError, RecursionError, TypeError):  # from asyncssh's decoders, for malformed input
        what = f"{place} is not a valid private key (its numbers are inconsistent)"
        raise _invalid(what, "check that it is the file as ssh-keygen wrote it, or name another") from None
    except asyncssh.KeyEncryptionError:
        if passphrase:
            raise _invalid(f"the passphrase does not decrypt the private key {place}", "correct `passphrase`") from None
        raise _invalid(*_encrypted(place)) from None
    except ValueError as error:
        if "assphrase" in str(error):
            raise _invalid(*_encrypted(place)) from None
        if content.lstrip().startswith((b"ssh-", b"ecdsa-", b"sk-")):
            raise _invalid(f"{place} is a public key", "name the private key") from None
        what = f"{place} is not a valid private key ({_safe(error)})"
        raise _invalid(what, "check that it is the file as ssh-keygen wrote it, or name another") from None
    return key


def _encrypted(place: str) -> tuple[str, str]:
    return f"the private key {place} is encrypted", "give its `passphrase`"


def _safe(error: ValueError) -> str:
    """The text of asyncssh's error, cut and escaped. It does not contain parts of the key."""
    return printable(str(error))


# --- certificates -----------------------------------------------------------------------------------------------


def _certificate(source: Source, content: bytes, key: asyncssh.SSHKey) -> asyncssh.SSHCertificate:
    try:
        certificate = asyncssh.import_certificate(content)
    except ValueError as error:
        what = f"{source} is not a valid certificate ({_safe(error)})"
        raise _invalid(what, "name the -cert.pub that ssh-keygen -s wrote") from None
    if public_keys.encoded(certificates.certified_key(certificate)) != public_keys.encoded(key):
        what = f"the certificate {source} is for another key than the configured one"
        raise _invalid(what, "name the certificate of this key, or the key of this certificate")
    _check_validity(certificate, str(source))
    return certificate


def _check_validity(certificate: asyncssh.SSHCertificate, place: str) -> None:
    validity = certificates.validity(certificate)
    if validity is None:
        raise _invalid(f"{place} is not an OpenSSH certificate", "name the -cert.pub that ssh-keygen -s wrote")
    if not validity.for_users:
        raise _invalid(f"{place} is a host certificate", "name one for users (ssh-keygen -s without -h)")
    now = time.time()
    if now < validity.after:
        what = f"the certificate {place} is not valid before {_date(validity.after)}"
        raise _UnusableError(Reason.CERTIFICATE_EXPIRED, what, "check the clock of this machine")
    if validity.before is not None and now >= validity.before:
        what = f"the certificate {place} expired on {_date(validity.before)}"
        raise _UnusableError(Reason.CERTIFICATE_EXPIRED, what, "have a new one signed")


def _expiry(certificate: asyncssh.SSHCertificate | None) -> float | None:
    validity = certificates.validity(certificate) if certificate is not None else None
    return float(validity.before) if validity is not None and validity.before is not None else None


def _date(wall: float) -> str:
    try:
        return datetime.fromtimestamp(wall, UTC).strftime("%Y-%m-%d %H:%M UTC")
    except (OverflowError, ValueError, OSError):
        return "a date out of range"


# --- agents -----------------------------------------------------------------------------------------------------


async def _ask_agent(login: AgentLogin, environ: Mapping[str, str], credentials: Credentials) -> None:
    path = agent_socket(login, environ)
    if not path:
        raise _UnusableError(Reason.SECRET_UNREADABLE, *_no_agent(login))
    only = await _public_key(login.only) if login.only else None
    try:
        await _check_socket(path)
        agent = await asyncssh.connect_agent(path)
        credentials.agents.append(agent)
        pairs = await agent.get_keys()
    except (OSError, ValueError) as error:
        why = printable(getattr(error, "strerror", None) or str(error))
        what = f"the SSH agent at {path} does not answer ({why})"
        raise _UnusableError(Reason.SECRET_UNREADABLE, what, "start it, or correct its path") from error
    offers = [offer for pair in pairs if (offer := _agent_offer(pair, only, path)) is not None]
    if not offers:
        lacks = f"the key {login.only}" if login.only else "any key"
        raise _UnusableError(
            Reason.SECRET_UNREADABLE, f"the SSH agent at {path} does not hold {lacks}", "add it with ssh-add"
        )
    credentials.keys += offers


async def _check_socket(path: str) -> None:
    """Raise OSError if the path is not a socket, or hangs: connecting looks it up on the event loop."""
    if not stat.S_ISSOCK((await FILES.ask(path, Path(path).stat)).st_mode):
        raise OSError(errno.ENOTSOCK, "it is not a socket", path)


def _no_agent(login: AgentLogin) -> tuple[str, str]:
    none = "there is none ($SSH_AUTH_SOCK is not set)"
    if not login.only:
        return f"`agent: true` needs an agent, and {none}", "start `tunnels run` where ssh-agent is available"
    what = f"{login.only} selects a key of the agent, and {none}"
    return what, f"name {login.only.removesuffix('.pub')} if the private key itself is meant"


def agent_socket(login: AgentLogin, environ: Mapping[str, str]) -> str:
    return login.socket or environ.get("SSH_AUTH_SOCK", "")


async def _public_key(path: str) -> asyncssh.SSHKey:
    content = await read_bytes(FromFile(path), {}, "the public key")
    try:
        return asyncssh.import_public_key(content)
    except ValueError as error:
        what = f"{path} is not a valid public key ({_safe(error)})"
        raise _invalid(what, "name the .pub that ssh-keygen wrote, or the private key") from None


def _agent_offer(pair: asyncssh.SSHKeyPair, only: asyncssh.SSHKey | None, path: str) -> Offer | None:
    """The offer for this pair; None if it is not the selected key (or its certificate), or expired."""
    try:
        certificate = certificates.of_pair(pair)
    except ValueError:
        return None
    expires = _expiry(certificate)
    if expires is not None and expires <= time.time():
        return None
    key = pair if certificate is None else certificates.certified_key(certificate)
    if only is not None and public_keys.encoded(key) != public_keys.encoded(only):
        return None
    return Offer(pair, f"agent {path}: {pair.get_comment() or 'a key'}", expires)
