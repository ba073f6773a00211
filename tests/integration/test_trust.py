"""Host keys on a real sshd: accepted, refused with both fingerprints, pinned once and never replaced."""

from __future__ import annotations

import asyncio
import base64
import re
import shlex
import stat
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given, settings

from integration.dialling import access, dialled, failure_of, hop, key_login, strict, trust
from reconciler.core.observed import Failure, Reason
from reconciler.core.spec import Endpoint, Trust, TrustMode
from reconciler.ssh.connect.host_key_check import HostKeyCheck
from reconciler.ssh.connect.known_hosts import look_up
from reconciler.ssh.connect.known_hosts_lines import Deadline, matches
from support.keys import KeyPair, Keys
from support.known_hosts_files import HOST, KEY, PRIVATE, contents
from support.sshd import Sshd
from support.wait import WITHIN


async def trusted(sshd: Sshd, believed: Trust) -> None:
    """Connect, or raise."""
    async with dialled(access(hop(sshd, trust=believed))) as result:
        assert result.host_key_verified is (believed.mode is not TrustMode.OFF)


async def refused(sshd: Sshd, believed: Trust) -> Failure:
    logins = sshd.log_text().count("Accepted")
    failure = await failure_of(access(hop(sshd, trust=believed)))
    assert failure.reason is Reason.HOST_KEY, failure
    assert sshd.log_text().count("Accepted") == logins, "nobody logs in to a server that is not believed"
    return failure


def name(sshd: Sshd) -> str:
    return f"[{sshd.host}]:{sshd.port}"


def public(key: KeyPair) -> str:
    return " ".join(key.public_line.split()[:2])


# --- strict -----------------------------------------------------------------------------------------------------


async def test_an_unknown_key_is_refused_with_its_fingerprint_and_the_line_to_add(sshd: Sshd, tmp_path: Path) -> None:
    failure = await refused(sshd, strict(tmp_path / "none"))
    assert sshd.host_key.fingerprint in failure.message
    assert f"{name(sshd)} {sshd.host_public_key}" in failure.message


async def test_a_known_hosts_file_changed_by_a_secret_store_is_read(sshd: Sshd, tmp_path: Path) -> None:
    file = tmp_path / "known"
    other = f"other.example {sshd.host_public_key}\n"
    text = f"{name(sshd)} {sshd.host_public_key} a comment\n"
    for content in (
        (text + other).encode("utf-8-sig"),
        (text + other).encode("utf-16"),
        base64.b64encode((other + text).encode()),
        (other + text).replace("\n", "\\n").encode(),
        f'"{other}{text}"'.encode(),
    ):
        file.write_bytes(content)
        await trusted(sshd, strict(file))


async def test_an_invalid_known_hosts_line_is_named_if_the_key_is_unknown(sshd: Sshd, tmp_path: Path) -> None:
    file = tmp_path / "known"
    file.write_text(f"# a comment\n{sshd.host_public_key}\n")
    failure = await refused(sshd, strict(file))
    assert f"; line 2 of {file} is a key without the name of its host: compare it" in failure.message
    file.write_bytes(sshd.client_key.read_bytes())
    assert f"; line 1 of {file} is not a known_hosts line" in (await refused(sshd, strict(file))).message
    line = f"{sshd.host_public_key} a comment"
    file.write_text(f"a.example {line} {name(sshd)} {line}")
    assert f"; line 1 of {file} contains several hosts: its line ends" in (await refused(sshd, strict(file))).message


async def test_no_key_is_pinned_in_a_file_with_escaped_line_ends(sshd: Sshd, tmp_path: Path) -> None:
    """With another line, those that are there would not be found any more."""
    file = tmp_path / "known"
    before = f"a.example {sshd.host_public_key} me\\nb.example {sshd.host_public_key}"
    file.write_text(before)
    failure = await refused(sshd, trust(TrustMode.ACCEPT_NEW, file))
    assert "(it is encoded, or its line ends are missing)" in failure.message
    assert file.read_text() == before


async def test_without_known_hosts_files_the_home_directory_is_not_read(
    sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "known_hosts").write_bytes(sshd.known_hosts.read_bytes())
    monkeypatch.setenv("HOME", str(tmp_path))
    await refused(sshd, strict())


async def test_a_changed_key_is_refused_with_both_fingerprints_and_the_known_line(sshd: Sshd) -> None:
    old = sshd.host_key.fingerprint
    sshd.change_host_key()
    await sshd.restart()
    failure = await refused(sshd, strict(sshd.known_hosts))
    assert old in failure.message
    assert sshd.host_key.fingerprint in failure.message
    assert f"{sshd.known_hosts}:1" in failure.message
    forget_as_told(failure.message)
    unknown = await refused(sshd, strict(sshd.known_hosts))
    add_as_told(unknown.message)
    await trusted(sshd, strict(sshd.known_hosts))


def forget_as_told(message: str) -> None:
    [command] = re.findall(r"ssh-keygen -R [^,]+", message)
    subprocess.run(shlex.split(command), check=True, capture_output=True)


def add_as_told(message: str) -> None:
    [(file, line)] = re.findall(r"then add this line to (\S+): (.+)$", message)
    with Path(file).open("a") as known:
        known.write(f"{line}\n")


async def test_a_key_of_another_type_than_the_known_one_is_a_changed_key(tmp_path: Path, keys: Keys) -> None:
    rsa = keys.make("rsa", kind="ssh-rsa")
    async with Sshd(tmp_path / "sshd") as sshd:
        sshd.known_hosts.write_text(f"{name(sshd)} {public(rsa)}\n")
        for mode in (TrustMode.STRICT, TrustMode.ACCEPT_NEW):
            failure = await refused(sshd, trust(mode, sshd.known_hosts))
            assert rsa.fingerprint in failure.message


async def test_a_server_with_several_keys_shows_the_one_that_is_known(tmp_path: Path, keys: Keys) -> None:
    """Its type comes first in the offer of the client."""
    ed25519, rsa = keys.make("ed25519"), keys.make("rsa", kind="ssh-rsa")
    ecdsa = keys.make("ecdsa", kind="ecdsa-sha2-nistp256")
    options = {"HostKey": f"{ed25519.private}\nHostKey {ecdsa.private}\nHostKey {rsa.private}"}
    async with Sshd(tmp_path / "sshd", options=options) as sshd:
        for key in (rsa, ecdsa, ed25519):
            sshd.known_hosts.write_text(f"{name(sshd)} {public(key)}\n")
            await trusted(sshd, strict(sshd.known_hosts))


async def test_a_revoked_key_is_refused_also_where_it_is_known(sshd: Sshd) -> None:
    sshd.known_hosts.write_text(f"{name(sshd)} {sshd.host_public_key}\n@revoked * {sshd.host_public_key}\n")
    for mode in (TrustMode.STRICT, TrustMode.ACCEPT_NEW):
        assert "@revoked" in (await refused(sshd, trust(mode, sshd.known_hosts))).message


async def test_keys_of_several_files_count(sshd: Sshd, tmp_path: Path) -> None:
    await trusted(sshd, strict(tmp_path / "none", sshd.known_hosts))


async def test_an_unreadable_file_is_reported(sshd: Sshd, tmp_path: Path) -> None:
    failure = await refused(sshd, strict(tmp_path))
    assert str(tmp_path) in failure.message


async def test_a_file_hashed_by_ssh_keygen_is_read(sshd: Sshd) -> None:
    hash_names(sshd.known_hosts)
    assert sshd.known_hosts.read_text().startswith("|1|")
    await trusted(sshd, strict(sshd.known_hosts))


def hash_names(known_hosts: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", str(known_hosts)], check=True, capture_output=True)


async def test_an_alias_is_looked_up_in_place_of_the_name(sshd: Sshd, tmp_path: Path) -> None:
    known = tmp_path / "known"
    known.write_text(f"bastion {sshd.host_public_key}\n")
    await trusted(sshd, trust(TrustMode.STRICT, known, alias="bastion"))
    await refused(sshd, trust(TrustMode.STRICT, known, alias="other"))


async def test_a_key_is_accepted_exactly_where_ssh_accepts_it(sshd: Sshd, tmp_path: Path) -> None:
    """One exception: ssh 9.2 ignores a @revoked marker that ends with a tab before a blank; here it counts."""
    shown = Keys(tmp_path).write("shown", PRIVATE)
    known = tmp_path / "known"
    command = ["ssh", "-F", "none", "-p", str(sshd.port), "-l", sshd.user, sshd.host, "true"]
    given_to_ssh = {
        "UserKnownHostsFile": str(known),
        "GlobalKnownHostsFile": "none",
        "StrictHostKeyChecking": "yes",
        "HostKeyAlias": HOST,
        "PreferredAuthentications": "none",
    }
    command[1:1] = [word for option, value in given_to_ssh.items() for word in ("-o", f"{option}={value}")]

    @settings(deadline=None, max_examples=60, database=None)
    @given(contents())
    @example(b"h.example " + KEY + b"\n@revoked\th.example\t" + KEY.replace(b" ", b"\t"))
    @example(b"h.example " + KEY + b"\n@revoked\th.example " + KEY)
    @example(b"# a comment\x0bh.example " + KEY)
    @example(b"# a comment\xe2\x80\xa8h.example " + KEY)
    @example(b"!h.example,* " + KEY)
    @example(b"h.example " + KEY + b"\r\n")
    def compare(content: bytes) -> None:
        known.write_bytes(content)
        said = subprocess.run(command, capture_output=True, check=False).stderr
        assert (b"Permission denied" in said) is not (b"verification failed" in said), said
        believed = trust(TrustMode.STRICT, known, alias=HOST)
        found = look_up(believed, Endpoint("a", 22), {str(known): content}, Deadline(WITHIN))
        ours = HostKeyCheck(believed, Endpoint("a", 22), "a", found).accepts(PRIVATE.convert_to_public())
        stricter = any(line.lstrip(b" \t").startswith(b"@revoked\t") for line in content.split(b"\n"))
        assert ours is (b"Permission denied" in said) or (stricter and not ours), said

    sshd.options["HostKey"] = str(shown.private)
    await sshd.restart()
    await asyncio.to_thread(compare)


# --- pinned -----------------------------------------------------------------------------------------------------


async def test_pinned_keys_win_over_the_files(sshd: Sshd, keys: Keys) -> None:
    stranger = keys.make("stranger")
    await trusted(sshd, trust(TrustMode.STRICT, host_keys=(public(stranger), sshd.host_public_key)))
    failure = await refused(sshd, trust(TrustMode.STRICT, sshd.known_hosts, host_keys=(public(stranger),)))
    assert "hostKeys" in failure.message
    # also with accept-new: what is pinned is all there is
    await refused(sshd, trust(TrustMode.ACCEPT_NEW, sshd.known_hosts, host_keys=(public(stranger),)))


@pytest.mark.parametrize("line", ["", "ssh-ed25519", "ssh-ed25519 AAAA", "nonsense", "@revoked"])
async def test_an_invalid_pinned_key_is_reported(sshd: Sshd, line: str) -> None:
    failure = await refused(sshd, trust(TrustMode.STRICT, host_keys=(line,)))
    assert "hostKeys" in failure.message


# --- authorities ------------------------------------------------------------------------------------------------


class Certified:
    """An sshd whose host key is signed, and the authority's line."""

    def __init__(self, directory: Path, keys: Keys, principals: tuple[str, ...] = ("127.0.0.1",)) -> None:
        self.authority = keys.make("ca")
        host = keys.make("host")
        certificate = keys.certify_host(host, self.authority, principals=principals)
        options = {"HostKey": str(host.private), "HostCertificate": str(certificate)}
        self.sshd = Sshd(directory, options=options)
        self.host = host


async def test_a_host_certificate_of_a_trusted_authority_is_accepted(tmp_path: Path, keys: Keys) -> None:
    server = Certified(tmp_path / "sshd", keys)
    async with server.sshd as sshd:
        sshd.known_hosts.write_text(f"@cert-authority *.0.0.1,[*.0.0.1]:* {public(server.authority)}\n")
        await trusted(sshd, strict(sshd.known_hosts))
        await trusted(sshd, trust(TrustMode.STRICT, host_keys=(f"@cert-authority {public(server.authority)}",)))


async def test_a_certificate_of_a_foreign_authority_is_refused(tmp_path: Path, keys: Keys) -> None:
    server = Certified(tmp_path / "sshd", keys)
    other = keys.make("other-ca")
    async with server.sshd as sshd:
        failure = await refused(sshd, trust(TrustMode.ACCEPT_NEW, host_keys=(f"@cert-authority {public(other)}",)))
        assert server.authority.fingerprint in failure.message
        assert other.fingerprint in failure.message


async def test_a_known_key_counts_beside_a_foreign_certificate(tmp_path: Path, keys: Keys) -> None:
    server = Certified(tmp_path / "sshd", keys)
    other = keys.make("other-ca")
    async with server.sshd as sshd:
        pinned = (f"@cert-authority {public(other)}", public(server.host))
        await trusted(sshd, trust(TrustMode.STRICT, host_keys=pinned))


async def test_a_certificate_for_another_name_is_refused_unless_an_alias_says_so(tmp_path: Path, keys: Keys) -> None:
    server = Certified(tmp_path / "sshd", keys, principals=("bastion.example",))
    async with server.sshd as sshd:
        pinned = (f"@cert-authority {public(server.authority)}",)
        failure = await refused(sshd, trust(TrustMode.STRICT, host_keys=pinned))
        assert "not for the name 127.0.0.1" in failure.message
        await trusted(sshd, trust(TrustMode.STRICT, host_keys=pinned, alias="bastion.example"))


async def test_a_plain_key_is_refused_where_an_authority_is_known(sshd: Sshd, keys: Keys) -> None:
    pinned = (f"@cert-authority {public(keys.make('ca'))}",)
    assert "certificate" in (await refused(sshd, trust(TrustMode.STRICT, host_keys=pinned))).message


@pytest.mark.parametrize("which", ["authority", "host"])
async def test_a_revoked_authority_or_certified_key_is_refused(tmp_path: Path, keys: Keys, which: str) -> None:
    server = Certified(tmp_path / "sshd", keys)
    revoked: KeyPair = getattr(server, which)
    async with server.sshd as sshd:
        pinned = (f"@cert-authority {public(server.authority)}", f"@revoked {public(revoked)}")
        assert "@revoked" in (await refused(sshd, trust(TrustMode.STRICT, host_keys=pinned))).message


# --- accept-new and off -----------------------------------------------------------------------------------------


def is_pinned(sshd: Sshd, known: Path, number: int) -> bool:
    """Return True if this line of the file is the server's key under its hashed name."""
    patterns, _, key = known.read_text().splitlines()[number].partition(" ")
    return matches(patterns.encode(), name(sshd), Deadline(10.0)) and key == sshd.host_public_key


async def test_accept_new_pins_once_and_never_replaces(
    sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    known = tmp_path / ".ssh" / "known_hosts"
    believed = trust(TrustMode.ACCEPT_NEW, known)
    for _ in range(2):
        await trusted(sshd, believed)
        assert is_pinned(sshd, known, 0)
    assert len(known.read_text().splitlines()) == 1
    assert stat.S_IMODE(known.stat().st_mode) == 0o600
    pinned = known.read_text()
    sshd.change_host_key()
    await sshd.restart()
    await refused(sshd, believed)
    assert known.read_text() == pinned


async def test_accept_new_keeps_what_the_file_held_its_mode_and_a_symlink_to_it(sshd: Sshd, tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    real.write_text("other.example ssh-ed25519 AAAA")  # no line end
    real.chmod(0o644)
    link.symlink_to(real)
    await trusted(sshd, trust(TrustMode.ACCEPT_NEW, link))
    assert link.is_symlink()
    assert real.read_text().startswith("other.example ssh-ed25519 AAAA\n|1|")
    assert is_pinned(sshd, real, 1)
    assert stat.S_IMODE(real.stat().st_mode) == 0o644
    assert no_temporary_file_in(tmp_path)


def no_temporary_file_in(directory: Path) -> bool:
    return not list(directory.glob(".real.*"))


async def test_accept_new_refuses_where_it_cannot_pin(sshd: Sshd) -> None:
    failure = await refused(sshd, trust(TrustMode.ACCEPT_NEW, Path("/proc/known_hosts")))
    assert "/proc/known_hosts" in failure.message
    assert sshd.host_key.fingerprint in failure.message
    await refused(sshd, trust(TrustMode.ACCEPT_NEW))


async def test_accept_new_pins_a_second_server_of_a_host_whose_first_is_known(sshd: Sshd, keys: Keys) -> None:
    """The sshd of a container on another port is not the sshd of the host."""
    sshd.known_hosts.write_text(f"{sshd.host} {public(keys.make('first'))}\n")
    await refused(sshd, strict(sshd.known_hosts))
    await trusted(sshd, trust(TrustMode.ACCEPT_NEW, sshd.known_hosts))
    assert is_pinned(sshd, sshd.known_hosts, 1)


async def test_accept_new_writes_into_known_hosts_files_only(sshd: Sshd, tmp_path: Path, keys: Keys) -> None:
    file = tmp_path / "authorized_keys"
    file.write_text(f"# who may log in\n{keys.make('mine').public_line}\n")
    before = file.read_text()
    failure = await refused(sshd, trust(TrustMode.ACCEPT_NEW, file, alias="bastion"))
    assert f"{file} (line 2 is not a known_hosts line)" in failure.message
    assert file.read_text() == before


async def test_sshd_accepts_no_line_of_accept_new_as_an_authorized_key(sshd: Sshd, tmp_path: Path, keys: Keys) -> None:
    """Also if an attacker has the host key, and the file is an empty authorized_keys."""
    mine = keys.make("mine")
    file = tmp_path / "authorized_keys"
    file.touch()
    async with Sshd(tmp_path / "theirs", options={"HostKey": str(mine.private)}) as theirs:
        theirs.authorized_keys.write_text(sshd.authorized_keys.read_text())
        believed = trust(TrustMode.ACCEPT_NEW, file, alias="restrict")
        async with dialled(access(replace(hop(sshd, trust=believed), hosts=(Endpoint(theirs.host, theirs.port),)))):
            pass
    assert public(mine) in file.read_text()
    sshd.authorized_keys.write_text(file.read_text())
    login = replace(hop(sshd, trust=trust(TrustMode.OFF)), logins=(key_login(mine.private),))
    assert (await failure_of(access(login))).reason is Reason.AUTH


async def test_accept_new_beside_a_revoked_key_pins_once_too(sshd: Sshd, tmp_path: Path, keys: Keys) -> None:
    known = tmp_path / "known"
    known.touch()
    believed = trust(TrustMode.ACCEPT_NEW, known, host_keys=(f"@revoked {public(keys.make('stolen'))}",))
    for _ in range(2):
        async with dialled(access(hop(sshd, trust=believed))) as result:
            assert await result.still_trusted()
        assert is_pinned(sshd, known, 0)
    sshd.change_host_key()
    await sshd.restart()
    assert str(known) in (await refused(sshd, believed)).message
    assert len(known.read_text().splitlines()) == 1


async def test_off_accepts_every_key_and_reports_it(sshd: Sshd) -> None:
    sshd.known_hosts.write_text(f"@revoked * {sshd.host_public_key}\n")
    await trusted(sshd, trust(TrustMode.OFF, sshd.known_hosts))


# --- a live connection ------------------------------------------------------------------------------------------


async def test_a_live_connection_is_judged_again_when_the_files_change(sshd: Sshd, keys: Keys) -> None:
    other = public(keys.make("other"))
    line = sshd.known_hosts.read_text()
    async with dialled(access(hop(sshd), hop(sshd, trust=strict(sshd.known_hosts)))) as result:
        for content, expected in (
            (line, True),
            (f"# a comment\n{line}", True),
            (f"{name(sshd)} {other}\n", False),
            (f"{line}@revoked * {sshd.host_public_key}\n", False),
            ("", False),
        ):
            sshd.known_hosts.write_text(content)
            assert await result.still_trusted() is expected, content


async def test_files_that_cannot_be_read_change_nothing_for_a_live_connection(sshd: Sshd) -> None:
    line = sshd.known_hosts.read_text()
    async with dialled(access(hop(sshd, trust=strict(sshd.known_hosts)))) as result:
        for content, expected in ((line, True), ("", False), (line, True)):
            sshd.known_hosts.write_text(content)
            assert await result.still_trusted() is expected, content
            sshd.known_hosts.unlink()
            sshd.known_hosts.mkdir()
            assert await result.still_trusted() is expected, content
            sshd.known_hosts.rmdir()


async def test_a_live_connection_by_certificate_is_judged_by_its_authority(tmp_path: Path, keys: Keys) -> None:
    server = Certified(tmp_path / "sshd", keys)
    async with server.sshd as sshd:
        line = f"@cert-authority * {public(server.authority)}\n"
        sshd.known_hosts.write_text(line)
        async with dialled(access(hop(sshd, trust=strict(sshd.known_hosts)))) as result:
            assert await result.still_trusted()
            sshd.known_hosts.write_text("")
            assert not await result.still_trusted()
