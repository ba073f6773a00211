"""known_hosts lines: which of them are a host's, whatever stands around them."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import asyncssh
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.spec import Endpoint, Trust, TrustMode
from reconciler.core.status import Reason
from reconciler.ssh.known_hosts import foreign_line, look_up, matches
from reconciler.ssh.trust import HostKeyCheck, append_line

KEY, OTHER = (asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode().strip() for _ in range(2))
SHOWN, OTHER_SHOWN = asyncssh.import_public_key(KEY), asyncssh.import_public_key(OTHER)


def known(
    path: Path, *lines: str, host: str = "a.example", port: int = 22, alias: str = ""
) -> tuple[int, int, int, int]:
    """How many keys, authorities, revoked keys and keys of the bare name these lines give the host."""
    path.write_text("\n".join(lines))
    found = look_up(Trust(TrustMode.STRICT, (), (str(path),), alias), Endpoint(host, port))
    return len(found.keys), len(found.authorities), len(found.revoked), len(found.elsewhere)


@pytest.mark.parametrize(
    ("patterns", "name", "expected"),
    [
        ("a.example", "a.example", True),
        ("A.Example", "a.example", True),
        ("a.example", "b.example", False),
        ("b.example,a.example", "a.example", True),
        ("*.example", "a.example", True),
        ("?.example", "a.example", True),
        ("?.example", "ab.example", False),
        ("*.example,!a.example", "a.example", False),
        ("!a.example,*.example", "a.example", False),
        ("!b.example", "a.example", False),
        ("*", "[a.example]:2222", True),
        ("[a.example]:2222", "[a.example]:2222", True),
        ("[a.example]:*", "[a.example]:2222", True),
        ("[*.example]:2222", "[a.example]:2222", True),
        ("[ab].example", "a.example", False),  # no character class
        ("a.example", "a-example", False),  # a dot is a dot
        ("::1", "::1", True),
        ("|1|nonsense", "a.example", False),
        ("|2|aaaa|bbbb", "a.example", False),
    ],
)
def test_patterns(patterns: str, name: str, expected: bool) -> None:
    assert matches(patterns, name) is expected


def test_hashed_names_as_ssh_keygen_writes_them(tmp_path: Path) -> None:
    path = tmp_path / "known"
    path.write_text(f"[a.example]:2222 {KEY}\nb.example {OTHER}\n")
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", str(path)], check=True, capture_output=True)
    lines = path.read_text().splitlines()
    assert known(path, *lines, port=2222) == (1, 0, 0, 0)
    assert known(path, *lines, host="b.example") == (1, 0, 0, 0)
    assert known(path, *lines) == (0, 0, 0, 0)


def test_markers_comments_and_odd_lines_side_by_side(tmp_path: Path) -> None:
    lines = [
        "# a comment",
        "",
        "   ",
        "a.example",
        "a.example ssh-ed25519 !!!",
        "a.example ssh-unheard-of AAAA",
        "@unheard-of a.example " + KEY,
        "a.example " + KEY + " with a comment",
        "@cert-authority *.example " + OTHER,
        "@revoked * " + OTHER,
        "\tA.EXAMPLE\t" + OTHER.replace(" ", "\t"),
    ]
    assert known(tmp_path / "known", *lines) == (2, 1, 1, 0)


def test_another_port_believes_the_bare_name_only_where_nothing_else_is_known(tmp_path: Path) -> None:
    path = tmp_path / "known"
    bare, own = f"a.example {KEY}", f"[a.example]:2222 {OTHER}"
    assert known(path, bare, port=2222) == (0, 0, 0, 1)
    assert known(path, bare, own, port=2222) == (1, 0, 0, 0)
    assert known(path, own) == (0, 0, 0, 0)
    assert known(path, f"@cert-authority a.example {KEY}", port=2222) == (0, 1, 0, 0)
    assert known(path, f"@revoked a.example {KEY}", own, port=2222) == (1, 0, 1, 0)


def test_an_alias_stands_for_name_and_port(tmp_path: Path) -> None:
    assert known(tmp_path / "known", f"x {KEY}", f"[x]:2222 {OTHER}", port=2222, alias="X") == (1, 0, 0, 0)


def test_a_missing_file_knows_nothing(tmp_path: Path) -> None:
    found = look_up(Trust(TrustMode.STRICT, (), (str(tmp_path / "none"),), ""), Endpoint("a.example", 22))
    assert found.keys == ()


@given(st.binary(max_size=200))
def test_any_bytes_are_read_without_a_complaint(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any"
    path.write_bytes(content + b"\na.example " + KEY.encode() + b"\n")
    found = look_up(Trust(TrustMode.STRICT, (), (str(path),), ""), Endpoint("a.example", 22))
    assert KEY.split()[1] in found.keys[-1].key.export_public_key().decode()


def test_a_line_that_cannot_be_written_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a full disk: the file is whole, and no temporary one is left."""
    path = tmp_path / "known"
    before = f"a.example {KEY}\n"
    path.write_text(before)

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        append_line(path, "after")
    assert path.read_text() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["known"]


# --- accept-new: what it adds, and to which files ---------------------------------------------------------------


def accept_new(
    path: Path, *, host: str = "a.example", alias: str = "", host_keys: tuple[str, ...] = ()
) -> HostKeyCheck:
    """The check of one connection, as it is made before the handshake."""
    return HostKeyCheck(Trust(TrustMode.ACCEPT_NEW, host_keys, (str(path),), alias), Endpoint(host, 22), host)


def said(check: HostKeyCheck) -> str:
    assert check.failure is not None
    assert check.failure.reason is Reason.HOST_KEY
    return check.failure.message


@pytest.mark.parametrize(
    "name", ["bastion", "10.0.0.1", "fe80::1%eth0", "[a.example]:2222", "a_b.example", "münchen.example"]
)
def test_a_name_of_one_host_is_pinned(tmp_path: Path, name: str) -> None:
    path = tmp_path / "known"
    assert accept_new(path, alias=name).accepts(SHOWN)
    assert path.read_text() == f"{name} {KEY}\n"


@pytest.mark.parametrize("field", ["alias", "host"])
@pytest.mark.parametrize(
    "name",
    [
        *("x\ntouch /tmp/pwned #", "x\r", "a b", "a\tb", "a\u2028b", "a\x85b", "a\x00b"),
        *("*", "?.example", "!a.example", "a.example,bank.example", "|1|c2FsdA==|aGFzaA==", "@cert-authority *", "#a"),
        *("a;reboot", "$(reboot)", "a>b", "PATH=a", "fe80::1%x\ntouch pwned #"),
        # with these before it, a key in authorized_keys lets its owner in
        *("restrict", "cert-authority", "No-Pty"),
    ],
)
def test_a_name_that_would_say_more_than_one_host_is_not_written(tmp_path: Path, name: str, field: str) -> None:
    path = tmp_path / "known"
    check = accept_new(path, alias=name) if field == "alias" else accept_new(path, host=name)
    assert not check.accepts(SHOWN)
    assert "is not a name for a line there; set hostKeyAlias" in said(check)
    assert not path.exists()


@pytest.mark.parametrize(
    ("line", "foreign"),
    [
        ("", False),
        ("   \t", False),
        ("# anything $(at) all", False),
        (f"a.example,10.0.0.1 {KEY} a comment", False),
        (f"  *.example,!b.example\t{KEY}\r", False),
        (f"|1|c2FsdA==|aGFzaA== {KEY}", False),
        (f"@revoked * {KEY}", False),
        (f"@cert-authority [*.example]:2222 {KEY}", False),
        ("a.example ssh-unheard-of@example.com AAAAC3Nz", False),
        (f"a.example 1024 65537 {'1234567890' * 20}", False),  # of SSH's first version
        ("alias ls='ls --color'", True),
        ("export PATH", True),
        ("[ -z $PS1 ] && return", True),
        ("0 4 1 1 * root reboot", True),
        ("127.0.0.1 localhost loopback", True),
        (KEY, True),
        (f"{KEY} me@laptop of mine", True),
        (f"restrict {KEY}", True),
        (f"no-pty,No-User-RC {KEY}", True),
        (f'command="x",restrict {KEY}', True),
        ("a.example", True),
        ("\x00\x01\x7fELF", True),
    ],
)
def test_lines_that_are_of_no_known_hosts_file(line: str, foreign: bool) -> None:
    assert foreign_line(f"# first\na.example {KEY}\n{line}\n") == (3 if foreign else 0)


def test_nothing_is_added_to_a_file_that_holds_anything_else(tmp_path: Path) -> None:
    path = tmp_path / ".bashrc"
    before = f"# for me\n\na.other {KEY}\nexport EDITOR=vi"
    path.write_text(before)
    check = accept_new(path)
    assert not check.accepts(SHOWN)
    assert f"in {path}: line 4 of it is not a known_hosts line; name another file first in knownHosts" in said(check)
    assert SHOWN.get_fingerprint() in said(check)
    assert path.read_text() == before
    assert [entry.name for entry in tmp_path.iterdir()] == [".bashrc"]


def test_what_is_no_regular_file_is_not_replaced_by_one(tmp_path: Path) -> None:
    """As /dev/null would be; a socket stands in for it, which nobody would miss."""
    path = tmp_path / "known"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        with pytest.raises(ValueError, match="it is not a regular file"):
            append_line(path, f"a.example {KEY}")
    assert path.is_socket()


def test_accept_new_beside_revoked_pins_alone_goes_by_the_file_and_by_what_both_revoke(tmp_path: Path) -> None:
    path = tmp_path / "known"
    third, fourth = (asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode() for _ in range(2))
    revoked = (f"@revoked {third.strip()}",)
    path.write_text(f"@revoked * {fourth}")
    assert accept_new(path, host_keys=revoked).accepts(SHOWN)
    for key, word in ((OTHER, "another host key"), (third, "@revoked (hostKeys)"), (fourth, f"@revoked ({path}:1)")):
        check = accept_new(path, host_keys=revoked)
        assert not check.accepts(asyncssh.import_public_key(key))
        assert word in said(check)
    changed = accept_new(path, host_keys=revoked)
    changed.accepts(OTHER_SHOWN)
    assert f"known is ssh-ed25519 {SHOWN.get_fingerprint()} ({path}:2). If it was reinstalled: ssh-keygen -R" in said(
        changed
    )
    assert path.read_text() == f"@revoked * {fourth}a.example {KEY}\n"
    strict = look_up(Trust(TrustMode.STRICT, revoked, (str(path),), ""), Endpoint("a.example", 22))
    assert strict.keys == (), "strict writes to no file, and what is pinned is all there is"


# --- accept-new: several connections at once --------------------------------------------------------------------


def test_of_two_connections_under_way_at_once_the_second_sees_what_the_first_has_pinned(tmp_path: Path) -> None:
    path = tmp_path / "known"
    first, same, another = (accept_new(path) for _ in range(3))
    assert first.accepts(SHOWN)
    assert same.accepts(SHOWN)
    assert not another.accepts(OTHER_SHOWN)
    assert "shows another host key than the one known" in said(another)
    assert f"{path}:1" in said(another)
    assert path.read_text() == f"a.example {KEY}\n"


def test_a_key_revoked_during_the_handshake_is_not_pinned(tmp_path: Path) -> None:
    path = tmp_path / "known"
    check = accept_new(path)
    path.write_text(f"@revoked * {KEY}\n")
    assert not check.accepts(SHOWN)
    assert "@revoked" in said(check)
    path.unlink()
    path.mkdir()
    check.accepts(OTHER_SHOWN)
    assert f"cannot read {path}" in said(check)


def test_a_second_key_exchange_on_a_connection_needs_no_file_and_no_lock(tmp_path: Path) -> None:
    path = tmp_path / "known"
    check = accept_new(path)
    assert check.accepts(SHOWN)
    path.write_text("export EDITOR=vi\n")
    assert check.accepts(SHOWN)
    assert not check.accepts(OTHER_SHOWN)


def test_a_key_is_pinned_by_nobody_else_while_one_reads_and_writes(tmp_path: Path) -> None:
    path = tmp_path / "known"
    real = tmp_path / "real" / "known"
    real.parent.mkdir()
    path.symlink_to(real)
    check = accept_new(path)
    other_process = os.open(real.parent, os.O_RDONLY)
    try:
        fcntl.flock(other_process, fcntl.LOCK_EX)
        assert not check.accepts(SHOWN)
        assert check.failure is not None
        assert check.failure.reason is Reason.RESOURCES, "it is tried again without anybody's help"
        assert "another process holds its directory locked" in check.failure.message
        assert not real.exists()
    finally:
        os.close(other_process)
    assert check.accepts(SHOWN)
    assert real.read_text() == f"a.example {KEY}\n"


def test_of_many_keys_shown_at_once_one_is_pinned(tmp_path: Path) -> None:
    path = tmp_path / "known"
    keys = [asyncssh.generate_private_key("ssh-ed25519").convert_to_public() for _ in range(16)]
    checks = [accept_new(path) for _ in keys]
    with ThreadPoolExecutor(len(keys)) as threads:
        believed = list(threads.map(lambda check, key: check.accepts(key), checks, keys))
    assert believed.count(True) == 1
    (line,) = path.read_text().splitlines()
    assert asyncssh.import_public_key(line.partition(" ")[2]) == keys[believed.index(True)]


def test_a_directory_that_cannot_be_locked_is_pinned_in_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on NFS, which wants what is locked to be open for writing."""

    def refused(_descriptor: int, _operation: int) -> None:
        raise OSError(9, "Bad file descriptor")

    monkeypatch.setattr("fcntl.flock", refused)
    assert accept_new(tmp_path / "known").accepts(SHOWN)
    assert (tmp_path / "known").read_text() == f"a.example {KEY}\n"
