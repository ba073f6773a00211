"""The keys of SSH agents."""

from __future__ import annotations

import errno
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import asyncssh

from reconciler.core.observed import Failure, Reason
from reconciler.core.secret import FromFile
from reconciler.core.spec import AgentLogin
from reconciler.core.text import key_text
from reconciler.ssh.connect.keys.offer import Offer
from reconciler.ssh.connect.keys.private_keys import invalid, text_of_error
from reconciler.ssh.connect.keys.user_certificates import UnusableError, check_validity
from reconciler.ssh.connect.secret_source import read_bytes
from reconciler.ssh.errors.patterns import printable
from reconciler.ssh.internals.keys import certificates, public_keys
from reconciler.system.file_calls import FILES


@dataclass(slots=True)
class AgentKeys:
    """What an agent has for a login. `unusable`: the failure of a certificate that is not valid now."""

    offers: list[Offer] = field(default_factory=list)
    unusable: Failure | None = None


async def ask(login: AgentLogin, environ: Mapping[str, str], opened: list[asyncssh.SSHAgentClient]) -> AgentKeys:
    """The keys of the agent, or the one that the login selects. Raises UnusableError, DialFailed.

    The connection to the agent is added to `opened`, for the caller to close.
    """
    path = agent_socket(login, environ)
    if not path:
        raise UnusableError(Reason.SECRET_UNREADABLE, *no_agent(login))
    only = await _public_key(login.only) if login.only else None
    try:
        await _check_socket(path)
        client = await asyncssh.connect_agent(path)
        opened.append(client)
        pairs = await client.get_keys()
    except (OSError, ValueError) as error:
        why = printable(getattr(error, "strerror", None) or str(error))
        what = f"the SSH agent at {path} does not answer ({why})"
        raise UnusableError(Reason.SECRET_UNREADABLE, what, "start it, or correct its path") from error
    found = AgentKeys()
    for pair in pairs:
        _add(found, pair, only, path)
    if not found.offers and found.unusable is None:
        lacks = f"the key {login.only}" if login.only else "any key"
        what = f"the SSH agent at {path} does not hold {lacks}, or is locked"
        raise UnusableError(Reason.SECRET_UNREADABLE, what, "add it with ssh-add, or unlock the agent (ssh-add -X)")
    return found


def _add(found: AgentKeys, pair: asyncssh.SSHKeyPair, only: bytes | None, path: str) -> None:
    """Add the pair, unless it is not the selected key (or its certificate), or not valid now."""
    comment = pair.get_comment(errors="replace") or "a key"
    label = f"agent {path}: {comment}"
    try:
        certificate = certificates.of_pair(pair)
    except ValueError:
        certificate = None  # of a kind that is not known here: the server decides
    if only is not None and only not in (public_keys.encoded(pair), certificate.key if certificate else None):
        return
    if certificate is not None:
        label = f"the certificate {comment} of agent {path}"
        try:
            check_validity(certificate, label)
        except UnusableError as unusable:
            found.unusable = found.unusable or unusable.failure
            return
    found.offers.append(Offer(pair, label, certificate, path))


async def _check_socket(path: str) -> None:
    """Raise OSError if the path is not a socket, or hangs: connecting looks it up on the event loop."""
    if not stat.S_ISSOCK((await FILES.ask(path, Path(path).stat)).st_mode):
        raise OSError(errno.ENOTSOCK, "it is not a socket", path)


def no_agent(login: AgentLogin) -> tuple[str, str]:
    """The problem of a login that needs an agent where there is none, and what to do."""
    none = "there is none ($SSH_AUTH_SOCK is not set)"
    if not login.only:
        return f"`agent: true` needs an agent, and {none}", "start `tunnels run` where ssh-agent is available"
    what = f"{login.only} selects a key of the agent, and {none}"
    return what, f"name {login.only.removesuffix('.pub')} if the private key itself is meant"


def agent_socket(login: AgentLogin, environ: Mapping[str, str]) -> str:
    return login.socket or environ.get("SSH_AUTH_SOCK", "")


async def _public_key(path: str) -> bytes:
    """The encoded public key in the file; of a certificate, the certificate."""
    content = await read_bytes(FromFile(path), {}, "the public key")
    line = key_text.public_key(content)
    try:
        if b"-cert-v01@" in line.partition(b" ")[0]:
            return certificates.encoded(asyncssh.import_certificate(line))
        return public_keys.encoded(asyncssh.import_public_key(line))
    except ValueError as error:
        what = f"{path} is not a valid public key ({text_of_error(error)})"
        raise invalid(what, "name the .pub that ssh-keygen wrote, or the private key") from None
