"""Reading a secret from where it is kept: a file, a variable, or the configuration itself.

What cannot be read is a DialFailed with a sentence that names the place and never the content.
"""

from __future__ import annotations

from collections.abc import Mapping

from reconciler.core.secret import FromEnv, FromFile, Inline, Source
from reconciler.core.status import Failure, Reason
from reconciler.ssh.attempt import DialFailed
from reconciler.system.read_file import read_regular

_SECRET_MAX = 1 << 20  # bytes; more is no secret


def read_bytes(source: Source, environ: Mapping[str, str], what: str) -> bytes:
    """The content of a secret's source; `what` names it in the sentence. Blocks as files do. Raises DialFailed."""
    match source:
        case Inline():
            return source.secret.reveal().encode()
        case FromEnv():
            value = environ.get(source.name)
            if not value:
                state = "unset" if value is None else "empty"
                raise unreadable(f"{what} is to be in ${source.name}, which is {state}")
            return value.encode("utf-8", "surrogateescape")
        case FromFile():
            return _file_content(source, what)


def read_text(source: Source, environ: Mapping[str, str], what: str) -> str:
    """The content of a password's or passphrase's source, without the line end that editors leave."""
    try:
        return read_bytes(source, environ, what).decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError:
        raise unreadable(f"cannot use {what} in {source}: it is not UTF-8 text") from None


def unreadable(message: str) -> DialFailed:
    return DialFailed(Failure(Reason.SECRET_UNREADABLE, message))


def _file_content(source: FromFile, what: str) -> bytes:
    try:
        content = read_regular(source.path, _SECRET_MAX, source.within)
    except OSError as error:
        raise unreadable(f"cannot read {what} from {source}: {error.strerror}") from error
    if not content:
        raise unreadable(f"cannot use {what} in {source}: the file is empty")
    return content
