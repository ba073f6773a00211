"""Reads a secret from its source: a file, a variable, or the configuration itself.

A source that cannot be read raises UnreadableSecretError; its message names the place and never the content.
"""

from __future__ import annotations

from collections.abc import Mapping

from reconciler.core.observed import Failure, Reason
from reconciler.core.secret import FromEnv, FromFile, Inline, Source
from reconciler.ssh.errors.failure import UnreadableSecretError
from reconciler.system import file_calls

_SECRET_MAX = 1 << 20  # bytes: the largest key (RSA, 16384 bits) has 13 KB


async def read_bytes(source: Source, environ: Mapping[str, str], what: str) -> bytes:
    """The content of a secret's source; `what` names the secret in messages. Raises UnreadableSecretError."""
    match source:
        case Inline():
            return source.secret.reveal().encode()
        case FromEnv():
            value = environ.get(source.name)
            if not value:
                state = "unset" if value is None else "empty"
                raise _unreadable(f"cannot read {what} from ${source.name} (the variable is {state})")
            return value.encode("utf-8", "surrogateescape")
        case FromFile():
            return await _file_content(source, what)


async def read_text(source: Source, environ: Mapping[str, str], what: str) -> str:
    """The content of a password's or passphrase's source, without the line end that editors leave."""
    try:
        content = await read_bytes(source, environ, what)
        is_utf16 = content.startswith((b"\xff\xfe", b"\xfe\xff"))  # as PowerShell writes text
        return content.decode("utf-16" if is_utf16 else "utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError:
        raise _unreadable(f"cannot use {what} in {source} (it is not UTF-8 text)") from None


def _unreadable(what: str) -> UnreadableSecretError:
    return UnreadableSecretError(Failure(Reason.SECRET_UNREADABLE, what))


async def _file_content(source: FromFile, what: str) -> bytes:
    try:
        content = await file_calls.read(source.path, _SECRET_MAX, source.within)
    except OSError as error:
        raise _unreadable(f"cannot read {what} from {source} ({error.strerror})") from error
    if not content:
        raise _unreadable(f"cannot use {what} in {source} (the file is empty)")
    return content
