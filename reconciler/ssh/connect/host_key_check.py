"""Whether a server's host key is believed, and pinning a new one.

Owns the decision: asyncssh is given no trusted keys at all and asks `HostKeyCheck` about the one it was shown, because
its own callback cannot tell an unknown key from a changed one. That question is answered from memory: the files are
read before the connection is made, and a new key is pinned after the key exchange, before anything secret is sent.
In: what is known (known_hosts.py) and the key shown. Out: yes or no, and with no the sentence that says why.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import shlex
from dataclasses import replace

import asyncssh

from reconciler.core.observed import Failure, Reason
from reconciler.core.spec import Endpoint, Trust, TrustMode
from reconciler.ssh.connect.credential_fingerprint import KNOWN_HOSTS_MAX
from reconciler.ssh.connect.known_hosts import PINNED, Knowledge, KnownKey, look_up, lookup_name, needed_files
from reconciler.ssh.connect.known_hosts_file import contents, default_path, opened
from reconciler.ssh.connect.known_hosts_lines import Deadline, TooMuchError, hashed
from reconciler.ssh.errors.failure import DialFailed
from reconciler.ssh.errors.patterns import printable
from reconciler.system.daemon_threads import DaemonThreads
from reconciler.system.file_calls import FILES, PathHangsError
from reconciler.system.read_file import read_regular
from reconciler.system.turnstile import Turnstile

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_LINE_MAX = 120  # a longer line to add (RSA) is left out of the sentence: `tunnels trust` prints it
_LOOK_UP_TIME = 10.0  # seconds of processor time; a file of 16 MiB takes about one
_PIN_TIME = 10.0  # seconds, waiting for other processes included

# One look-up runs at a time, and each gets its turns: a file that takes long does not delay those of other targets.
_LOOK_UPS = DaemonThreads(256)
_TURNS = Turnstile()
_NOTHING = Knowledge((), (), (), ())


async def knowledge(trust: Trust, endpoint: Endpoint) -> Knowledge:
    """What is known of a host.

    Raises OSError for a file that cannot be read (a missing one knows nothing), or takes too long to look through, and
    ValueError for a pinned key that is none.
    """
    if trust.mode is TrustMode.OFF:
        return _NOTHING
    files = await contents(needed_files(trust))
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(_LOOK_UPS, _looked_up, trust, endpoint, files)


def _looked_up(trust: Trust, endpoint: Endpoint, files: dict[str, bytes]) -> Knowledge:
    try:
        with _TURNS.turn():
            return look_up(trust, endpoint, files, Deadline(_LOOK_UP_TIME, _TURNS.pass_on))
    except TooMuchError as error:
        raise OSError(errno.EFBIG, str(error), " and ".join(files)) from None


class HostKeyCheck:
    """The check for one connection to one host. `failure` says why it refused."""

    def __init__(self, trust: Trust, endpoint: Endpoint, where: str, known: Knowledge) -> None:
        self.failure: Failure | None = None
        self.presented: asyncssh.SSHKey | None = None
        self.authority: asyncssh.SSHKey | None = None
        self._new: asyncssh.SSHKey | None = None  # believed, and not pinned yet
        self._believed = True  # when what is known was last looked at again
        self._trust = trust
        self._endpoint = endpoint
        self.where = where
        self._knowledge = known

    @classmethod
    async def prepare(cls, trust: Trust, endpoint: Endpoint, where: str) -> HostKeyCheck:
        """A check by what is known now. Raises DialFailed where that cannot be read."""
        try:
            return cls(trust, endpoint, where, await knowledge(trust, endpoint))
        except OSError as error:
            raise DialFailed(_unreadable(error)) from error
        except ValueError as error:
            raise DialFailed(Failure(Reason.HOST_KEY, f"hostKeys of {where}: {error}")) from error

    @property
    def known(self) -> Knowledge:
        """What is known of the host."""
        return self._knowledge

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
        """Whether this plain host key is believed. One that is new, where the mode takes it, is up to `pinned`."""
        self.presented = key
        verdict = self._judged(key)
        self._new = key if verdict is None else None
        return verdict is not False

    async def pinned(self) -> bool:
        """Pin a new key. False: it cannot be, or is not believed any more. Call it before anything secret is sent."""
        key, self._new = self._new, None
        return self.failure is None if key is None else await self._pin(key)

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
                f"{self.where} shows no certificate of its authority but a plain host key {_shown(key)}: "
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
            f"{self.where} shows a host certificate of a foreign authority: {_shown(authority)}, ours is {ours}"
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
        return Failure(Reason.HOST_KEY, f"the host certificate of {self.where} is refused: {printable(said)}")

    async def still_trusted(self) -> bool:
        """Whether what was shown would be believed now, after the files changed. Unreadable files change nothing."""
        if self._trust.mode is not TrustMode.OFF:
            try:
                known = await knowledge(self._trust, self._endpoint)
            except OSError:
                return self._believed
            self._believed = self._would_believe(known)
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
        return f"the host key of {self.where} is marked @revoked ({place}): {_shown(key)}; it needs a new one"

    def _changed(self, key: asyncssh.SSHKey) -> str:
        same_type = [known for known in self._knowledge.keys if known.key.algorithm == key.algorithm]
        known = (same_type or self._knowledge.keys)[0]
        return (
            f"{self.where} shows another host key than the one known: {_shown(key)}, known is {_shown(known.key)} "
            f"({known.place}). If it was reinstalled: {self._how_to_forget(known)}; if not, somebody may be in between"
        )

    def _how_to_forget(self, known: KnownKey) -> str:
        if known.place == PINNED:
            return "replace it in hostKeys (tunnels trust)"
        file, _, _ = known.place.rpartition(":")
        name = lookup_name(self._trust, self._endpoint)
        return f"ssh-keygen -R {shlex.quote(name)} -f {shlex.quote(file)}, and add the new one"

    def _unknown(self, key: asyncssh.SSHKey) -> str:
        unknown = f"the host key of {self.where} is unknown: {_shown(key)}. Compare it with the server's, then"
        line = f"{lookup_name(self._trust, self._endpoint)} {_public_line(key)}"
        if not self._trust.known_hosts or len(line) > _LINE_MAX:
            return f"{unknown} put it into hostKeys (tunnels trust prints what to paste)"
        return f"{unknown} add to {self._trust.known_hosts[0]} the line {line}"

    async def _pin(self, key: asyncssh.SSHKey) -> bool:
        """Refuses where it cannot pin: accepting any key at every connect is `strictHostKeyChecking: false`."""
        if not self._trust.known_hosts:
            return self._refuse(f"the host key of {self.where} is new and there is no known_hosts file to pin it in")
        path = self._trust.known_hosts[0]
        text = f"cannot pin the new host key of {self.where} in {path}"
        try:
            return await FILES.ask(path, lambda: self._pin_alone(key, path), _PIN_TIME)
        except BlockingIOError:  # like a full disk, nothing is wrong with the key: it is tried again
            locked = "another process holds its lock, or changed it; it is tried again"
            return self._refuse(f"{text}: {locked}", Reason.RESOURCES)
        except FileNotFoundError:
            make = f"create the file (touch), name {default_path() or 'another one'}, or pin the key with hostKeys"
            return self._refuse(f"{text}: there is no such file: {make}: {_shown(key)}")
        except PathHangsError as error:
            return self._refuse(f"{text}: {error.strerror}; put it into hostKeys: {_shown(key)}")
        except OSError as error:
            text = f"{text}: {error.strerror}"
            if error.errno in _FULL:  # of the disk, not of the key: it is tried again without anybody's help
                return self._refuse(f"{text}; make room there", Reason.RESOURCES)
            return self._refuse(f"{text}; make that writable, or put it into hostKeys: {_shown(key)}")
        except ValueError as error:
            instead = f"name another file first in knownHosts, or put it into hostKeys: {_shown(key)}"
            return self._refuse(f"{text}: {error}; {instead}")

    def _pin_alone(self, key: asyncssh.SSHKey, path: str) -> bool:
        """What is known was read before the handshake: another connection may have pinned a key since then."""
        with opened(path) as file:
            files = {path: file.content}
            for other in self._trust.known_hosts[1:]:
                with contextlib.suppress(FileNotFoundError):
                    files[other] = read_regular(other, KNOWN_HOSTS_MAX)
            self._knowledge = _looked_up(self._trust, self._endpoint, files)
            verdict = self._judged(key)
            if verdict is not None:
                return verdict
            name = hashed(lookup_name(self._trust, self._endpoint))  # so that no line begins as the file's author says
            number = file.add(f"{name} {_public_line(key)}")
        # A new key exchange on this connection asks again, and must not wait for a lock.
        self._knowledge = replace(self._knowledge, keys=(KnownKey(key, f"{path}:{number}"),))
        return True


def _unreadable(error: OSError) -> Failure:
    text = f"cannot read {error.filename}: {error.strerror}; host keys cannot be checked without it"
    return Failure(Reason.HOST_KEY, text)


def _among(key: asyncssh.SSHKey, known: tuple[KnownKey, ...]) -> bool:
    return any(entry.is_key(key) for entry in known)


def _public_line(key: asyncssh.SSHKey) -> str:
    """`type base64`, without a comment."""
    return " ".join(key.export_public_key("openssh").decode("ascii").split()[:2])


def _shown(key: asyncssh.SSHKey) -> str:
    return f"{key.get_algorithm()} {key.get_fingerprint()}"
