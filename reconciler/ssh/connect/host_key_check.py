"""Decides whether a server's host key is accepted, and pins a new one.

asyncssh gets no trusted keys and asks `HostKeyCheck` about the key that the server presents, because its own callback
cannot tell an unknown key from a changed one. The answer comes from memory: the files are read before the connection is
made. A new key is pinned after the key exchange, before anything secret is sent.
Input: the known keys (known_hosts.py) and the presented key. Output: accept or refuse, and the failure if refused.
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
from reconciler.ssh.internals.keys.public_keys import signature_names
from reconciler.system.daemon_threads import DaemonThreads
from reconciler.system.file_calls import FILES, PathHangsError
from reconciler.system.read_file import read_regular
from reconciler.system.turnstile import Turnstile

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_LINE_MAX = 120  # a longer line (RSA) is left out of the message: `tunnels trust` prints it
_LOOK_UP_TIME = 10.0  # seconds of processor time; a file of 16 MiB takes about one
_PIN_TIME = 10.0  # seconds, waiting for other processes included

# Lookups take turns, one running at a time: a slow file must not delay the lookups of other targets.
_LOOK_UPS = DaemonThreads(256)
_TURNS = Turnstile()
_NOTHING = Knowledge((), (), (), ())


async def knowledge(trust: Trust, endpoint: Endpoint) -> Knowledge:
    """The known keys of a host.

    Raises OSError for a file that cannot be read or takes too long to search (a missing file has no keys), and
    ValueError for an invalid pinned key.
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
    """The host key check of one connection to one host. `failure` is set when it refuses."""

    def __init__(self, trust: Trust, endpoint: Endpoint, where: str, known: Knowledge) -> None:
        self.failure: Failure | None = None
        self.presented: asyncssh.SSHKey | None = None
        self.authority: asyncssh.SSHKey | None = None
        self._new: asyncssh.SSHKey | None = None  # accepted, and not pinned yet
        self._trusted = True  # the result of the last `still_trusted`
        self._trust = trust
        self._endpoint = endpoint
        self.where = where
        self._knowledge = known

    @classmethod
    async def prepare(cls, trust: Trust, endpoint: Endpoint, where: str) -> HostKeyCheck:
        """Create a check with the keys known now. Raises DialFailed if they cannot be read."""
        try:
            return cls(trust, endpoint, where, await knowledge(trust, endpoint))
        except OSError as error:
            raise DialFailed(_unreadable(error)) from error
        except ValueError as error:
            raise DialFailed(
                Failure(Reason.HOST_KEY, f"cannot use the `hostKeys` of {where} ({error})", "correct them")
            ) from error

    @property
    def known(self) -> Knowledge:
        """The known keys of the host."""
        return self._knowledge

    @property
    def wants_certificate(self) -> bool:
        return bool(self._knowledge.authorities)

    @property
    def foreign_authority_but_known_key(self) -> bool:
        """Return True if the certificate's authority is unknown, and the plain host key may still be a known one."""
        return self.authority is not None and bool(self._knowledge.keys)

    @property
    def revoked(self) -> list[asyncssh.SSHKey]:
        """Revoked keys, for asyncssh: it checks certified keys itself, without `accepts_authority`."""
        return [known.key for known in self._knowledge.revoked]

    def preferred_types(self) -> tuple[str, ...]:
        """Signature algorithms of the known keys, so that the server presents one of those."""
        known = (*self._knowledge.keys, *self._knowledge.elsewhere)
        return tuple(dict.fromkeys(name for entry in known for name in signature_names(entry.key)))

    def accepts(self, key: asyncssh.SSHKey) -> bool:
        """Return True if this plain host key is accepted. `pinned` decides on a new one, if the mode allows it."""
        self.presented = key
        trusted = self._is_known(key)
        self._new = key if trusted is None else None
        return trusted is not False

    async def pinned(self) -> bool:
        """Pin a new key. Return False if that fails, or it is refused now. Call it before anything secret is sent."""
        key, self._new = self._new, None
        return self.failure is None if key is None else await self._pin(key)

    def _is_known(self, key: asyncssh.SSHKey) -> bool | None:
        """Return whether the known keys accept this one; None if none is known and the mode says to pin."""
        known = self._knowledge
        if _among(key, known.revoked):
            return self._refuse_revoked(key)
        if _among(key, known.keys) or _among(key, known.elsewhere):
            return True
        if known.keys:
            return self._refuse_changed(key)
        if known.authorities:
            what = f"{self.where} presents a plain host key, not a certificate of its authority ({_shown(key)})"
            return self._refuse(what, "renew the host's certificate, or pin this key")
        return None if self._trust.mode is TrustMode.ACCEPT_NEW else self._refuse_unknown(key)

    def accepts_authority(self, authority: asyncssh.SSHKey) -> bool:
        """Return True if host certificates signed by this key are accepted. asyncssh checks the rest of them."""
        self.authority = authority
        if _among(authority, self._knowledge.revoked):
            return self._refuse_revoked(authority)
        if _among(authority, self._knowledge.authorities):
            return True
        ours = ", ".join(known.key.get_fingerprint() for known in self._knowledge.authorities)
        what = f"{self.where} presents a host certificate of an unknown authority, {_shown(authority)}; known is {ours}"
        return self._refuse(what, "correct the @cert-authority line, or have the certificate signed by that authority")

    def certificate_refused(self, why: str) -> Failure:
        """The failure for what asyncssh found wrong with a certificate of a trusted authority."""
        fix = "have a new certificate signed for the server"
        if "principal" in why:
            why = f"it is not for the name {self._trust.alias or self._endpoint.host}"
            fix = "connect by a name in it, or set `hostKeyAlias`"
        elif "expired" in why:
            why = "it is expired"
            fix = "have it renewed on the server"
        elif "not yet" in why:
            why = "it is not valid yet"
            fix = "check the clock of this machine"
        elif "revoked" in why:
            why = "its key is marked @revoked"
        return Failure(Reason.HOST_KEY, f"the host certificate of {self.where} is refused ({printable(why)})", fix)

    async def still_trusted(self) -> bool:
        """Return True if the presented key would be accepted now. Unreadable files keep the last answer."""
        if self._trust.mode is not TrustMode.OFF:
            try:
                known = await knowledge(self._trust, self._endpoint)
            except OSError:
                return self._trusted
            self._trusted = self._would_accept(known)
        return self._trusted

    def _would_accept(self, known: Knowledge) -> bool:
        shown = [key for key in (self.presented, self.authority) if key is not None]
        if any(_among(key, known.revoked) for key in shown):
            return False
        if self.authority is not None:
            return _among(self.authority, known.authorities)
        if self.presented is None or _among(self.presented, (*known.keys, *known.elsewhere)):
            return True
        # Accept-new would accept it again if nothing else is known.
        return self._trust.mode is TrustMode.ACCEPT_NEW and not known.keys and not known.authorities

    def _refuse(self, what: str, fix: str, reason: Reason = Reason.HOST_KEY) -> bool:
        self.failure = Failure(reason, what, fix)
        return False

    def _refuse_revoked(self, key: asyncssh.SSHKey) -> bool:
        place = next(known.place for known in self._knowledge.revoked if known.is_key(key))
        what = f"the host key of {self.where} is marked @revoked ({place}), {_shown(key)}"
        return self._refuse(what, "give the server a new host key")

    def _refuse_changed(self, key: asyncssh.SSHKey) -> bool:
        same_type = [known for known in self._knowledge.keys if known.key.get_algorithm() == key.get_algorithm()]
        known = (same_type or self._knowledge.keys)[0]
        expected = f"known is {_shown(known.key)} ({known.place})"
        what = f"the host key of {self.where} has changed to {_shown(key)}; {expected}"
        fix = f"if the server was reinstalled, {self._how_to_forget(known)}; if not, the connection may be intercepted"
        return self._refuse(what, fix)

    def _how_to_forget(self, known: KnownKey) -> str:
        if known.place == PINNED:
            return f"replace it in `hostKeys` (`{self._trust.command or 'tunnels trust'}` prints it)"
        file, _, _ = known.place.rpartition(":")
        name = lookup_name(self._trust, self._endpoint)
        return f"run ssh-keygen -R {shlex.quote(name)} -f {shlex.quote(file)}, and add the new key"

    def _refuse_unknown(self, key: asyncssh.SSHKey) -> bool:
        odd = f"; {self._knowledge.odd}" if self._knowledge.odd else ""
        what = f"the host key of {self.where} is unknown ({_shown(key)}){odd}"
        line = f"{lookup_name(self._trust, self._endpoint)} {_public_line(key)}"
        if self._trust.command:
            how = "--known-hosts" if not self._trust.host_keys else "--write FILE"
            add = f"pin it: `{self._trust.command} {how}`"
        elif not self._trust.known_hosts or len(line) > _LINE_MAX:
            add = "put it into `hostKeys` (`tunnels trust` prints what to paste)"
        else:
            add = f"add this line to {self._trust.known_hosts[0]}: {line}"
        return self._refuse(what, f"compare it with the key on the server, then {add}")

    async def _pin(self, key: asyncssh.SSHKey) -> bool:
        """Pin the key, or refuse it: accepting any key at every connect is `strictHostKeyChecking: false`."""
        if not self._trust.known_hosts:
            what = f"the host key of {self.where} is new and there is no known_hosts file to pin it in"
            return self._refuse(what, "name a file in `knownHosts`, or put the key into `hostKeys`")
        path = self._trust.known_hosts[0]
        what = f"cannot pin the new host key of {self.where} in {path}"
        pin = f"put it into `hostKeys`, {_shown(key)}"
        try:
            return await FILES.ask(path, lambda: self._pin_locked(key, path), _PIN_TIME)
        except BlockingIOError:  # as with a full disk, the key is not at fault: it is tried again
            what = f"{what} (another process holds its lock, or changed it)"
            return self._refuse(what, "wait for the next try", Reason.RESOURCES)
        except FileNotFoundError:
            fix = f"create the file (touch), name {default_path() or 'another one'}, or {pin}"
            return self._refuse(f"{what} (there is no such file)", fix)
        except PathHangsError as error:
            return self._refuse(f"{what} ({error.strerror})", pin)
        except OSError as error:
            what = f"{what} ({error.strerror})"
            if error.errno in _FULL:  # the disk is at fault, not the key: it is tried again
                return self._refuse(what, "free space there", Reason.RESOURCES)
            return self._refuse(what, f"make it writable, or {pin}")
        except ValueError as error:
            return self._refuse(f"{what} ({error})", f"name another file first in `knownHosts`, or {pin}")

    def _pin_locked(self, key: asyncssh.SSHKey, path: str) -> bool:
        """Pin the key with the file locked, after another check: another connection may have pinned a key meanwhile."""
        with opened(path) as file:
            files = {path: file.content}
            for other in self._trust.known_hosts[1:]:
                with contextlib.suppress(FileNotFoundError):
                    files[other] = read_regular(other, KNOWN_HOSTS_MAX)
            self._knowledge = _looked_up(self._trust, self._endpoint, files)
            trusted = self._is_known(key)
            if trusted is not None:
                return trusted
            name = hashed(
                lookup_name(self._trust, self._endpoint)
            )  # hashed, so that the configuration does not choose how a line starts
            number = file.add(f"{name} {_public_line(key)}")
        # The next key exchange on this connection checks the key again, and must not wait for a lock.
        self._knowledge = replace(self._knowledge, keys=(KnownKey(key, f"{path}:{number}"),))
        return True


def _unreadable(error: OSError) -> Failure:
    what = f"cannot read {error.filename}, so host keys cannot be checked ({error.strerror})"
    return Failure(Reason.HOST_KEY, what, "make it readable, or correct `knownHosts`")


def _among(key: asyncssh.SSHKey, known: tuple[KnownKey, ...]) -> bool:
    return any(entry.is_key(key) for entry in known)


def _public_line(key: asyncssh.SSHKey) -> str:
    """`type base64`, without a comment."""
    return " ".join(key.export_public_key("openssh").decode("ascii").split()[:2])


def _shown(key: asyncssh.SSHKey) -> str:
    return f"{key.get_algorithm()} {key.get_fingerprint()}"
