"""Whether a server's host key is believed, and pinning a new one.

Owns the decision: asyncssh is given no trusted keys at all and asks `HostKeyCheck` about the one it was shown, because
its own callback cannot tell an unknown key from a changed one. In: what is known (known_hosts.py) and the key shown.
Out: yes or no, and with no the sentence that says why.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shlex
import stat
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import asyncssh

from reconciler.core.spec import Endpoint, Trust, TrustMode
from reconciler.core.status import Failure, Reason
from reconciler.ssh.attempt import DialFailed
from reconciler.ssh.known_hosts import PINNED, Knowledge, KnownKey, foreign_line, look_up, lookup_name, may_be_added
from reconciler.ssh.words import printable

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_LINE_MAX = 120  # a longer line to add (RSA) is left out of the sentence: `tunnels trust` prints it
# asyncssh asks for a yes or no and cannot wait for it, so these hold up every tunnel: 0.2 s at most. Who has the lock
# needs it for reading and writing one small file.
_LOCK_TRIES = 20
_LOCK_PAUSE = 0.01


class HostKeyCheck:
    """The check for one connection to one host. `failure` says why it refused."""

    def __init__(self, trust: Trust, endpoint: Endpoint, where: str) -> None:
        """Raises DialFailed where what is known cannot be read."""
        self.failure: Failure | None = None
        self.presented: asyncssh.SSHKey | None = None
        self.authority: asyncssh.SSHKey | None = None
        self._believed = True  # when what is known was last looked at again
        self._trust = trust
        self._endpoint = endpoint
        self._where = where
        self._knowledge = Knowledge((), (), (), ()) if trust.mode is TrustMode.OFF else self._look_up()

    def _look_up(self) -> Knowledge:
        try:
            return look_up(self._trust, self._endpoint)
        except OSError as error:
            text = f"cannot read {error.filename}: {error.strerror}; host keys cannot be checked without it"
            raise DialFailed(Failure(Reason.HOST_KEY, text)) from error
        except ValueError as error:
            raise DialFailed(Failure(Reason.HOST_KEY, f"hostKeys of {self._where}: {error}")) from error

    @property
    def wants_certificate(self) -> bool:
        return bool(self._knowledge.authorities)

    @property
    def foreign_authority_but_known_key(self) -> bool:
        """A certificate of an unknown authority was refused, and the host's own key may still be a known one."""
        return self.authority is not None and bool(self._knowledge.keys)

    @property
    def revoked(self) -> list[asyncssh.SSHKey]:
        """For asyncssh: a certified key that is revoked is compared there, it is not shown to `accepts_authority`."""
        return [known.key for known in self._knowledge.revoked]

    def preferred_types(self) -> tuple[str, ...]:
        """Signature algorithms of the keys we know, so that the server shows one of those."""
        known = (*self._knowledge.keys, *self._knowledge.elsewhere)
        return tuple(dict.fromkeys(name.decode("ascii") for entry in known for name in entry.key.sig_algorithms))

    def accepts(self, key: asyncssh.SSHKey) -> bool:
        """Whether this plain host key is believed; pins it if that is what the mode says."""
        self.presented = key
        verdict = self._judged(key)
        return self._pin(key) if verdict is None else verdict

    def _judged(self, key: asyncssh.SSHKey) -> bool | None:
        """What is known says yes or no; None where nothing is known and the mode says to pin."""
        known = self._knowledge
        if _among(key, known.revoked):
            return self._refuse(self._revoked(key))
        if _among(key, known.keys) or _among(key, known.elsewhere):
            return True
        if known.keys:
            return self._refuse(self._changed(key))
        if known.authorities:
            return self._refuse(
                f"{self._where} shows no certificate of its authority but a plain host key {_shown(key)}: "
                f"renew the host's certificate, or pin this key"
            )
        return None if self._trust.mode is TrustMode.ACCEPT_NEW else self._refuse(self._unknown(key))

    def accepts_authority(self, authority: asyncssh.SSHKey) -> bool:
        """Whether host certificates signed by this key are believed. asyncssh checks the rest of the certificate."""
        self.authority = authority
        if _among(authority, self._knowledge.revoked):
            return self._refuse(self._revoked(authority))
        if _among(authority, self._knowledge.authorities):
            return True
        ours = ", ".join(known.key.get_fingerprint() for known in self._knowledge.authorities)
        return self._refuse(
            f"{self._where} shows a host certificate of a foreign authority: {_shown(authority)}, ours is {ours}"
        )

    def certificate_refused(self, said: str) -> Failure:
        """The sentence for what asyncssh found wrong with a certificate of a trusted authority."""
        name = self._trust.alias or self._endpoint.host
        if "principal" in said:
            said = f"it is not for the name {name}: connect by a name in it, or set hostKeyAlias"
        elif "expired" in said:
            said = "it has expired: have it renewed on the server"
        elif "not yet" in said:
            said = "it is not valid yet: is the clock right here?"
        elif "revoked" in said:
            said = "its key is marked @revoked"
        return Failure(Reason.HOST_KEY, f"the host certificate of {self._where} is refused: {printable(said)}")

    def still_trusted(self) -> bool:
        """Whether what was shown would be believed now, after the files changed. Unreadable files change nothing."""
        if self._trust.mode is not TrustMode.OFF:
            with contextlib.suppress(OSError):
                self._believed = self._would_believe(look_up(self._trust, self._endpoint))
        return self._believed

    def _would_believe(self, known: Knowledge) -> bool:
        shown = [key for key in (self.presented, self.authority) if key is not None]
        if any(_among(key, known.revoked) for key in shown):
            return False
        if self.authority is not None:
            return _among(self.authority, known.authorities)
        if self.presented is None or _among(self.presented, (*known.keys, *known.elsewhere)):
            return True
        # Accept-new would believe it again if nothing else is known.
        return self._trust.mode is TrustMode.ACCEPT_NEW and not known.keys and not known.authorities

    def _refuse(self, message: str, reason: Reason = Reason.HOST_KEY) -> bool:
        self.failure = Failure(reason, message)
        return False

    def _revoked(self, key: asyncssh.SSHKey) -> str:
        place = next(known.place for known in self._knowledge.revoked if known.is_key(key))
        return f"the host key of {self._where} is marked @revoked ({place}): {_shown(key)}; it needs a new one"

    def _changed(self, key: asyncssh.SSHKey) -> str:
        same_type = [known for known in self._knowledge.keys if known.key.algorithm == key.algorithm]
        known = (same_type or self._knowledge.keys)[0]
        return (
            f"{self._where} shows another host key than the one known: {_shown(key)}, known is {_shown(known.key)} "
            f"({known.place}). If it was reinstalled: {self._how_to_forget(known)}; if not, somebody may be in between"
        )

    def _how_to_forget(self, known: KnownKey) -> str:
        if known.place == PINNED:
            return "replace it in hostKeys (tunnels trust)"
        file, _, _ = known.place.rpartition(":")
        name = lookup_name(self._trust, self._endpoint)
        return f"ssh-keygen -R {shlex.quote(name)} -f {shlex.quote(file)}, and add the new one"

    def _unknown(self, key: asyncssh.SSHKey) -> str:
        unknown = f"the host key of {self._where} is unknown: {_shown(key)}. Compare it with the server's, then"
        line = f"{lookup_name(self._trust, self._endpoint)} {_public_line(key)}"
        if not self._trust.known_hosts or len(line) > _LINE_MAX:
            return f"{unknown} put it into hostKeys (tunnels trust prints what to paste)"
        return f"{unknown} add to {self._trust.known_hosts[0]} the line {line}"

    def _pin(self, key: asyncssh.SSHKey) -> bool:
        """Refuses where it cannot pin: accepting any key at every connect is `strictHostKeyChecking: false`."""
        if not self._trust.known_hosts:
            return self._refuse(f"the host key of {self._where} is new and there is no known_hosts file to pin it in")
        path, name = self._trust.known_hosts[0], lookup_name(self._trust, self._endpoint)
        text = f"cannot pin the new host key of {self._where} in {path}"
        if not may_be_added(name):
            return self._refuse(f"{text}: {printable(name)} is not a name for a line there; set hostKeyAlias to one")
        try:
            return self._pin_alone(key, Path(path), name)
        except DialFailed as failed:
            return self._refuse(failed.failure.message, failed.failure.reason)
        except BlockingIOError:  # like a full disk, nothing is wrong with the key: it is tried again
            locked = "another process holds its directory locked; it is tried again"
            return self._refuse(f"{text}: {locked}", Reason.RESOURCES)
        except OSError as error:
            text = f"{text}: {error.strerror}"
            if error.errno in _FULL:  # of the disk, not of the key: it is tried again without anybody's help
                return self._refuse(f"{text}; make room there", Reason.RESOURCES)
            return self._refuse(f"{text}; make that writable, or put it into hostKeys: {_shown(key)}")
        except ValueError as error:
            instead = f"name another file first in knownHosts, or put it into hostKeys: {_shown(key)}"
            return self._refuse(f"{text}: {error}; {instead}")

    def _pin_alone(self, key: asyncssh.SSHKey, path: Path, name: str) -> bool:
        """What is known was read before the handshake: another connection may have pinned a key since then."""
        with _locked(path):
            self._knowledge = self._look_up()
            verdict = self._judged(key)
            if verdict is not None:
                return verdict
            append_line(path, f"{name} {_public_line(key)}")
        # A new key exchange on this connection asks again, and must not wait for a lock.
        self._knowledge = replace(self._knowledge, keys=(KnownKey(key, str(path)),))
        return True


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Alone among those who pin keys in files of this directory. Raises BlockingIOError where another one stays.

    The directory is locked because the file is replaced: a lock on it would be on the one that is gone. Where a
    directory cannot be locked (NFS takes a lock only on what is open for writing) the key is pinned all the same:
    within this process nothing comes between, since nothing is awaited.
    """
    directory = path.resolve().parent
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(PermissionError):  # it may be one that may be written to and not listed
            descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
            stack.callback(os.close, descriptor)  # which ends the lock
            _lock(descriptor)
        yield


def _lock(descriptor: int) -> None:
    for tries_left in reversed(range(_LOCK_TRIES)):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not tries_left:
                raise
            time.sleep(_LOCK_PAUSE)
        except OSError:
            return
        else:
            return


def append_line(path: Path, line: str) -> None:
    """Add a line to a known_hosts file by replacing the file at once: content, mode and owner stay.

    Through a symlink its target is replaced. Raises OSError, and ValueError for a file that holds anything else than
    known hosts, as a shell's or a list of keys that may log in would; then nothing has changed.
    """
    target = path.resolve()
    try:
        state = target.stat()
        if not stat.S_ISREG(state.st_mode):  # /dev/null would be replaced by a file, for everybody
            raise ValueError("it is not a regular file")
        before = target.read_bytes()
    except FileNotFoundError:
        before, state = b"", None
    if number := foreign_line(before.decode("utf-8", "replace")):
        raise ValueError(f"line {number} of it is not a known_hosts line")
    if before and not before.endswith(b"\n"):
        before += b"\n"
    descriptor, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(before + line.encode() + b"\n")
            os.fchmod(file.fileno(), stat.S_IMODE(state.st_mode) if state else 0o600)
            if state is not None and (state.st_uid, state.st_gid) != (os.geteuid(), os.getegid()):
                with contextlib.suppress(PermissionError):
                    os.fchown(file.fileno(), state.st_uid, state.st_gid)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _among(key: asyncssh.SSHKey, known: tuple[KnownKey, ...]) -> bool:
    return any(entry.is_key(key) for entry in known)


def _public_line(key: asyncssh.SSHKey) -> str:
    """`type base64`, without a comment."""
    return " ".join(key.export_public_key("openssh").decode("ascii").split()[:2])


def _shown(key: asyncssh.SSHKey) -> str:
    return f"{key.get_algorithm()} {key.get_fingerprint()}"
