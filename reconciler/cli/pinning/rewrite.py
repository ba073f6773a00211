"""Puts `hostKeys:` into a file. The file is replaced atomically; its mode and every other character stay.

The owner stays too, if the process may set it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path as FilePath

from reconciler.cli.client import CommandError
from reconciler.cli.host_keys import FetchedKey
from reconciler.cli.pinning.places import BY_HAND, HOST_KEYS, CannotPinError
from reconciler.config.problem import ConfigError
from reconciler.config.syntax.list_edit import CannotEditError, Path, find, with_items
from reconciler.config.syntax.nodes import Table
from reconciler.config.syntax.yaml_reader import MAX_BYTES, read
from reconciler.system.read_file import read_regular


class Rewrite:
    """The content of a file, with the keys that were added so far."""

    def __init__(self, file: str, data: bytes) -> None:
        self.file = file
        self.data = data
        self.root, problems = read(data, file)
        if problems:
            raise ConfigError(*problems)

    def add(self, path: Path, keys: list[FetchedKey]) -> int:
        """Add the keys of all hosts of one server to the mapping at `path`; return how many were missing.

        A list with the keys of some of the hosts would refuse the others, so all keys are added or none.
        Raises CannotPinError.
        """
        for one in keys:
            if one.failure is not None:
                raise CannotPinError(f"nothing is added, because the key of {one.server.endpoint} is missing")
            if one.state not in ("new", "known"):
                what = f"the key of {one.server.endpoint} is {one.state}"
                raise CannotPinError(f"nothing is added, {what}: correct `{HOST_KEYS}` or known_hosts by hand")
        trusted = keys[0].server.hop.trust.host_keys
        table = find(self.root, path)
        if trusted and isinstance(table, Table) and table.get(HOST_KEYS) is None:
            if all(_is_listed(one, trusted) for one in keys):
                return 0
            raise CannotPinError(f"its `{HOST_KEYS}` come from `defaults`: {BY_HAND}")
        missing = list(dict.fromkeys(one.line for one in keys if not _is_listed(one, trusted)))
        if missing:
            try:
                self.data = with_items(self.data, self.file, path, HOST_KEYS, missing)
            except CannotEditError as error:
                raise CannotPinError(f"{error}: {BY_HAND}") from error
        return len(missing)


def _is_listed(key: FetchedKey, trusted: tuple[str, ...]) -> bool:
    return any(line.split()[:2] == key.line.split() for line in trusted)


@contextlib.contextmanager
def rewritten(file: str) -> Iterator[Rewrite]:
    """Yield the content of the file to add keys to, and replace the file at the end of the block if it changed.

    Raises CommandError.
    """
    try:
        path = os.path.realpath(file)
        before = read_regular(path, MAX_BYTES)
        edited = Rewrite(file, before)
        yield edited
        if edited.data != before:
            _replace(path, before, edited.data)
    except ConfigError as error:
        raise CommandError("\n".join(map(str, error.problems))) from error
    except (OSError, ValueError) as error:
        why = (error.strerror if isinstance(error, OSError) else "") or str(error)
        raise CommandError(f"cannot write {file}: {why.lower()}") from error


def _replace(path: str, before: bytes, after: bytes) -> None:
    target = FilePath(path)
    temporary = target.with_name(f".tunnels-{secrets.token_hex(8)}")
    status = target.stat()
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as new:
            new.write(after)
            if (status.st_uid, status.st_gid) != (os.geteuid(), os.getegid()):
                with contextlib.suppress(PermissionError):
                    os.fchown(new.fileno(), status.st_uid, status.st_gid)
            os.fchmod(new.fileno(), stat.S_IMODE(status.st_mode))
            new.flush()
            os.fsync(new.fileno())
        if read_regular(path, MAX_BYTES) != before:
            raise BlockingIOError(0, "it was changed meanwhile: try again")
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
