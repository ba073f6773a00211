"""The files that a target's access names: which they are, and a fingerprint of what they say now.

A changed fingerprint is why a link that waits for a person (a wrong key, an unknown host key) is tried at once.
"""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Mapping
from pathlib import Path

from reconciler.core.secret import FromEnv, FromFile, Source
from reconciler.core.spec import Access, AgentLogin, Hop, KeyLogin, PasswordLogin
from reconciler.ssh.logins import agent_socket

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


def stamp(access: Access, environ: Mapping[str, str]) -> str:
    """A fingerprint of the contents of those files, of the variables, and of which agent runs."""
    digest = hashlib.sha256()
    for path in credential_files(access):
        digest.update(_digest(path))
    for hop in (*access.via, access.hop):
        for source in _sources(hop):
            if isinstance(source, FromEnv):
                digest.update(hashlib.sha256(environ.get(source.name, "").encode("utf-8", "surrogateescape")).digest())
        for login in hop.logins:
            if isinstance(login, AgentLogin):
                digest.update(_agent_state(login, environ).encode())
    return digest.hexdigest()


def _digest(path: str) -> bytes:
    """Of the content; read again only when the file's state says that it may have changed."""
    try:
        now = Path(path).stat()
        if not stat.S_ISREG(now.st_mode):  # a pipe would make us wait
            return b"no file"
        state = (now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns)
        kept = _digests.get(path)
        if kept is not None and kept[0] == state:
            return kept[1]
        with Path(path).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        return f"errno {error.errno}".encode()
    if len(_digests) >= _DIGESTS_MAX:
        _digests.clear()
    _digests[path] = state, digest
    return digest


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


def _agent_state(login: AgentLogin, environ: Mapping[str, str]) -> str:
    """Changes when the agent is started anew; its keys cannot be watched."""
    path = agent_socket(login, environ)
    try:
        state = Path(path).stat() if path else None
    except OSError:
        state = None
    return f"{path}:{state.st_ino if state else '-'}"
