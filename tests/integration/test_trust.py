"""Host keys on a real sshd: believed, refused with the fingerprints of both sides, pinned once and never replaced."""

from __future__ import annotations

import re
import shlex
import stat
import subprocess
from pathlib import Path

import pytest

from integration.dialling import access, dialled, failure_of, hop, strict, trust
from reconciler.core.spec import Trust, TrustMode
from reconciler.core.status import Failure, Reason
from reconciler.ssh.dial import still_trusted
from support.keys import KeyPair, Keys
from support.sshd import Sshd


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


async def test_without_any_known_hosts_file_nothing_of_the_home_directory_is_believed(
    sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "known_hosts").write_bytes(sshd.known_hosts.read_bytes())
    monkeypatch.setenv("HOME", str(tmp_path))
    await refused(sshd, strict())


async def test_a_changed_key_is_refused_with_both_fingerprints_and_where_the_old_one_stands(sshd: Sshd) -> None:
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
    [(file, line)] = re.findall(r"then add to (\S+) the line (.+)$", message)
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
    """Whichever it is: its type comes first in what we ask for."""
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


async def test_a_file_that_cannot_be_read_is_said(sshd: Sshd, tmp_path: Path) -> None:
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


# --- pinned -----------------------------------------------------------------------------------------------------


async def test_pinned_keys_win_over_the_files(sshd: Sshd, keys: Keys) -> None:
    stranger = keys.make("stranger")
    await trusted(sshd, trust(TrustMode.STRICT, host_keys=(public(stranger), sshd.host_public_key)))
    failure = await refused(sshd, trust(TrustMode.STRICT, sshd.known_hosts, host_keys=(public(stranger),)))
    assert "hostKeys" in failure.message
    # also with accept-new: what is pinned is all there is
    await refused(sshd, trust(TrustMode.ACCEPT_NEW, sshd.known_hosts, host_keys=(public(stranger),)))


@pytest.mark.parametrize("line", ["", "ssh-ed25519", "ssh-ed25519 AAAA", "nonsense", "@revoked"])
async def test_a_pinned_key_that_is_none_is_said(sshd: Sshd, line: str) -> None:
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


async def test_a_host_certificate_of_a_trusted_authority_is_believed(tmp_path: Path, keys: Keys) -> None:
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


async def test_a_foreign_certificate_does_not_spoil_a_known_key(tmp_path: Path, keys: Keys) -> None:
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


async def test_accept_new_pins_once_and_never_replaces(sshd: Sshd, tmp_path: Path) -> None:
    known = tmp_path / "new" / "known_hosts"
    believed = trust(TrustMode.ACCEPT_NEW, known)
    for _ in range(2):
        await trusted(sshd, believed)
        assert known.read_text() == f"{name(sshd)} {sshd.host_public_key}\n"
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
    assert real.read_text() == f"other.example ssh-ed25519 AAAA\n{name(sshd)} {sshd.host_public_key}\n"
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
    """A container's sshd on another port is not the host's own."""
    sshd.known_hosts.write_text(f"{sshd.host} {public(keys.make('first'))}\n")
    await refused(sshd, strict(sshd.known_hosts))
    await trusted(sshd, trust(TrustMode.ACCEPT_NEW, sshd.known_hosts))
    assert sshd.known_hosts.read_text().splitlines()[1] == f"{name(sshd)} {sshd.host_public_key}"


async def test_accept_new_writes_into_known_hosts_files_only(sshd: Sshd, tmp_path: Path, keys: Keys) -> None:
    file = tmp_path / "authorized_keys"
    file.write_text(f"# who may log in\n{keys.make('mine').public_line}\n")
    before = file.read_text()
    failure = await refused(sshd, trust(TrustMode.ACCEPT_NEW, file, alias="bastion"))
    assert f"{file}: line 2 of it is not a known_hosts line" in failure.message
    assert file.read_text() == before


@pytest.mark.parametrize("alias", ["x\ntouch pwned #", "@cert-authority *", "*"])
async def test_accept_new_writes_a_line_of_one_host_only(sshd: Sshd, tmp_path: Path, alias: str) -> None:
    known = tmp_path / "known"
    failure = await refused(sshd, trust(TrustMode.ACCEPT_NEW, known, alias=alias))
    assert "set hostKeyAlias" in failure.message
    assert "\n" not in failure.message
    assert not known.exists()


async def test_accept_new_beside_a_revoked_key_pins_once_too(sshd: Sshd, tmp_path: Path, keys: Keys) -> None:
    known = tmp_path / "known"
    believed = trust(TrustMode.ACCEPT_NEW, known, host_keys=(f"@revoked {public(keys.make('stolen'))}",))
    for _ in range(2):
        async with dialled(access(hop(sshd, trust=believed))) as result:
            assert still_trusted(result.connection)
        assert known.read_text() == f"{name(sshd)} {sshd.host_public_key}\n"
    sshd.change_host_key()
    await sshd.restart()
    assert str(known) in (await refused(sshd, believed)).message
    assert len(known.read_text().splitlines()) == 1


async def test_off_believes_everything_and_says_so(sshd: Sshd) -> None:
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
            assert still_trusted(result.connection) is expected, content


async def test_files_that_cannot_be_read_change_nothing_for_a_live_connection(sshd: Sshd) -> None:
    line = sshd.known_hosts.read_text()
    async with dialled(access(hop(sshd, trust=strict(sshd.known_hosts)))) as result:
        for content, expected in ((line, True), ("", False), (line, True)):
            sshd.known_hosts.write_text(content)
            assert still_trusted(result.connection) is expected, content
            sshd.known_hosts.unlink()
            sshd.known_hosts.mkdir()
            assert still_trusted(result.connection) is expected, content
            sshd.known_hosts.rmdir()


async def test_a_live_connection_by_certificate_is_judged_by_its_authority(tmp_path: Path, keys: Keys) -> None:
    server = Certified(tmp_path / "sshd", keys)
    async with server.sshd as sshd:
        line = f"@cert-authority * {public(server.authority)}\n"
        sshd.known_hosts.write_text(line)
        async with dialled(access(hop(sshd, trust=strict(sshd.known_hosts)))) as result:
            assert still_trusted(result.connection)
            sshd.known_hosts.write_text("")
            assert not still_trusted(result.connection)
