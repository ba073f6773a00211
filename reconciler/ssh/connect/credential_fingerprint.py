"""The files that the access of a target names, and a fingerprint of their present content.

When the fingerprint changes, a link that waits for a person (a wrong key, an unknown host key) is dialled at once.
"""

from __future__ import annotations

import asyncio
import hashlib
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

from reconciler.core.secret import FromEnv, FromFile, Source
from reconciler.core.spec import Access, AgentLogin, Hop, KeyLogin, PasswordLogin
from reconciler.ssh.connect.credentials import agent_socket
from reconciler.system.file_calls import FILES
from reconciler.system.read_file import NotRegularFileError, digest_regular

KNOWN_HOSTS_MAX = 16 << 20  # bytes: some 100,000 lines
_State = tuple[int, int, int, int, int]
_digests: dict[str, tuple[_State, bytes]] = {}
_DIGESTS_MAX = 4096


def credential_files(access: Access) -> tuple[str, ...]:
    """Keys, certificates, password and passphrase files and known hosts of all hops, each once, in order."""
    paths: dict[str, None] = {}
    for hop in (*access.via, access.hop):
        paths |= {source.path: None for source in _sources(hop) if isinstance(source, FromFile)}
        paths |= dict.fromkeys(hop.trust.known_hosts)
    return tuple(paths)


async def fingerprint(access: Access, environ: Mapping[str, str]) -> str:
    """A fingerprint of the content of those files, of the variables, and of the agents' sockets."""
    return (await fingerprints([access], environ))[access]


async def fingerprints(accesses: Iterable[Access], environ: Mapping[str, str]) -> dict[Access, str]:
    """The fingerprint of each access. A file that several name is read once."""
    wanted = set(accesses)
    paths = {path for access in wanted for path in credential_files(access)}
    sockets = {path for access in wanted for path in _agents(access, environ)}
    answers = await asyncio.gather(
        *(_answer(path, is_socket=False) for path in paths), *(_answer(path, is_socket=True) for path in sockets)
    )
    found = dict(zip([*paths, *(f"agent {path}" for path in sockets)], answers, strict=True))
    return {access: _combined(access, environ, found) for access in wanted}


def _combined(access: Access, environ: Mapping[str, str], found: Mapping[str, bytes]) -> str:
    digest = hashlib.sha256()
    for path in credential_files(access):
        digest.update(found[path])
    for hop in (*access.via, access.hop):
        for source in _sources(hop):
            if isinstance(source, FromEnv):
                digest.update(hashlib.sha256(environ.get(source.name, "").encode("utf-8", "surrogateescape")).digest())
    for path in _agents(access, environ):
        digest.update(f"{path}:".encode("utf-8", "surrogateescape") + found[f"agent {path}"])
    return digest.hexdigest()


async def _answer(path: str, *, is_socket: bool) -> bytes:
    try:
        return await FILES.ask(path, lambda: _socket_state(path) if is_socket else _digest(path))
    except OSError as error:
        return f"errno {error.errno}".encode()


def _digest(path: str) -> bytes:
    """The digest of the content, read again only if the file's status has changed."""
    try:
        now = Path(path).stat()
        state = (now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns)
        kept = _digests.get(path)
        if kept is not None and kept[0] == state:
            return kept[1]
        digest = digest_regular(path, KNOWN_HOSTS_MAX)
    except NotRegularFileError as error:
        return f"{error.strerror}".encode()
    except ValueError:
        return b"no path"
    if len(_digests) >= _DIGESTS_MAX:
        _digests.clear()
    _digests[path] = state, digest
    return digest


def _socket_state(path: str) -> bytes:
    """A value that changes when the agent is restarted; its keys cannot be watched."""
    status = Path(path).stat()
    return f"{status.st_ino} {stat.S_ISSOCK(status.st_mode)}".encode()


def _agents(access: Access, environ: Mapping[str, str]) -> list[str]:
    """The sockets of the agents that the logins use."""
    hops = (*access.via, access.hop)
    logins = [login for hop in hops for login in hop.logins if isinstance(login, AgentLogin)]
    return [path for login in logins if (path := agent_socket(login, environ))]


def _sources(hop: Hop) -> list[Source]:
    """Every source of a secret that the hop's logins name."""
    found: list[Source | None] = []
    for login in hop.logins:
        match login:
            case KeyLogin():
                found += [login.key, login.passphrase, login.certificate]
            case PasswordLogin():
                found.append(login.password)
            case AgentLogin():
                found.append(FromFile(login.only) if login.only else None)
    return [source for source in found if source is not None]
