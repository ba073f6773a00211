"""known_hosts lines: which of them apply to a host, whatever surrounds them."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncssh
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.observed import Reason
from reconciler.core.spec import Endpoint, Trust, TrustMode
from reconciler.ssh.connect import known_hosts
from reconciler.ssh.connect.host_key_check import HostKeyCheck
from reconciler.ssh.connect.known_hosts import Knowledge, foreign_line
from reconciler.ssh.connect.known_hosts_file import opened
from reconciler.ssh.connect.known_hosts_lines import Deadline, matches
from reconciler.system import path_lock
from support.other_user import needs_root, other_user, shared_directory

KEY, OTHER = (asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode().strip() for _ in range(2))
WITHIN = 30.0
SHOWN, OTHER_SHOWN = asyncssh.import_public_key(KEY), asyncssh.import_public_key(OTHER)


def look_up(trust: Trust, endpoint: Endpoint) -> Knowledge:
    files = {path: Path(path).read_bytes() for path in trust.known_hosts if Path(path).exists()}
    return known_hosts.look_up(trust, endpoint, files, Deadline(WITHIN))


def known(
    path: Path, *lines: str, host: str = "a.example", port: int = 22, alias: str = ""
) -> tuple[int, int, int, int]:
    """The numbers of keys, authorities, revoked keys and keys of the bare name in these lines."""
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
    assert matches(patterns.encode(), name, Deadline(WITHIN)) is expected


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


def test_another_port_uses_the_bare_name_only_if_nothing_else_is_known(tmp_path: Path) -> None:
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
def test_any_bytes_are_read_without_an_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
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
    with opened(str(path)) as file, pytest.raises(OSError, match="No space"):
        file.add("after")
    assert path.read_text() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["known"]


# --- accept-new: what it adds, and to which files ---------------------------------------------------------------


async def accept_new(
    path: Path, *, host: str = "a.example", port: int = 22, alias: str = "", host_keys: tuple[str, ...] = ()
) -> HostKeyCheck:
    """The check of one connection, as it is made before the handshake."""
    return await HostKeyCheck.prepare(
        Trust(TrustMode.ACCEPT_NEW, host_keys, (str(path),), alias), Endpoint(host, port), host
    )


async def believes(check: HostKeyCheck, key: asyncssh.SSHKey) -> bool:
    """Return True if a key exchange with this key, and the login after it, is accepted."""
    return check.accepts(key) and await check.pinned()


def message_of(check: HostKeyCheck) -> str:
    assert check.failure is not None
    assert check.failure.reason is Reason.HOST_KEY
    return check.failure.message


def is_pinned(path: Path, name: str = "a.example", key: str = KEY, number: int = 0) -> bool:
    """Return True if this line of the file is the key under a hash of this name."""
    patterns, _, rest = path.read_text().splitlines()[number].partition(" ")
    return patterns.startswith("|1|") and matches(patterns.encode(), name, Deadline(WITHIN)) and rest == key


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A known_hosts file, empty."""
    path = tmp_path / "known"
    path.touch()
    return path


ODD_NAMES = [
    *("bastion", "10.0.0.1", "fe80::1%eth0", "a_b.example", "m\u00fcnchen.example"),
    *("x\ntouch /tmp/pwned #", "x\r", "a b", "a\tb", "a\u2028b", "a\x85b", "a\x00b"),
    *("*", "?.example", "!a.example", "a.example,bank.example", "|1|c2FsdA==|aGFzaA==", "@cert-authority *", "#a"),
    *("a;reboot", "$(reboot)", "a>b", "PATH=a", "restrict", "cert-authority", "touch"),
]


@pytest.mark.parametrize("field", ["alias", "host"])
@pytest.mark.parametrize("name", ODD_NAMES)
async def test_a_name_is_pinned_as_a_hash_and_nothing_of_it_is_written(path: Path, name: str, field: str) -> None:
    for _ in range(2):
        check = await (accept_new(path, alias=name) if field == "alias" else accept_new(path, host=name))
        assert await believes(check, SHOWN)
        assert is_pinned(path, name.lower())
        assert len(path.read_bytes().split(b"\n")) == 2
    assert not (name.isalpha() and name in path.read_text())
    other = await accept_new(path, host="other.example")
    assert other.known.keys == ()


def ssh_keygen(path: Path, *words: str) -> str:
    command = ["ssh-keygen", *words, "-f", str(path)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize(("port", "name"), [(22, "a.example"), (2222, "[a.example]:2222")])
async def test_ssh_keygen_finds_and_removes_what_was_pinned(path: Path, port: int, name: str) -> None:
    assert await believes(await accept_new(path, host="A.example", port=port), SHOWN)
    assert KEY in ssh_keygen(path, "-F", name)
    ssh_keygen(path, "-R", name)
    assert path.read_text() == ""


async def test_a_file_is_created_at_the_default_path_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    elsewhere = tmp_path / ".ssh" / "rc"
    check = await accept_new(elsewhere)
    assert not await believes(check, SHOWN)
    assert f"in {elsewhere} (there is no such file): create the file (touch)" in message_of(check)
    assert not elsewhere.parent.exists()
    default = tmp_path / ".ssh" / "known_hosts"
    assert await believes(await accept_new(default), SHOWN)
    assert is_pinned(default)
    assert [stat.S_IMODE(made.stat().st_mode) for made in (default, default.parent)] == [0o600, 0o700]
    elsewhere.touch()
    assert await believes(await accept_new(elsewhere), SHOWN)


async def test_a_dangling_link_to_another_place_makes_no_file(tmp_path: Path) -> None:
    link = tmp_path / "known"
    link.symlink_to(tmp_path / "new")
    assert not await believes(await accept_new(link), SHOWN)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("moment", ["before the open", "before the rename"])
@pytest.mark.parametrize("exchanged", ["the file", "its directory"])
async def test_a_link_that_is_put_there_meanwhile_has_no_effect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchanged: str, moment: str
) -> None:
    """An attacker with write access replaces the file or its directory with a link to another file."""
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.mkdir()
    theirs.mkdir()
    (ours / "known").touch()
    path = theirs / "known"
    path.touch()

    def exchange() -> None:
        if exchanged == "the file":
            path.unlink()
            path.symlink_to(ours / "known")
        else:
            theirs.rename(tmp_path / "gone")
            theirs.symlink_to(ours)

    def once(function: Callable[..., Any]) -> Callable[..., Any]:
        def exchanging(*args: Any, **kwargs: Any) -> Any:
            monkeypatch.undo()
            result = function(*args, **kwargs) if moment == "before the open" else None
            exchange()
            return result if moment == "before the open" else function(*args, **kwargs)

        return exchanging

    check = await accept_new(path)
    if moment == "before the open":
        monkeypatch.setattr("os.path.realpath", once(os.path.realpath))
    else:
        monkeypatch.setattr("os.fsync", once(os.fsync))
    await believes(check, SHOWN)
    assert (ours / "known").read_text() == ""
    assert [entry.name for entry in ours.iterdir()] == ["known"]


async def test_a_line_that_another_program_adds_meanwhile_is_not_lost(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def add(descriptor: int) -> None:
        monkeypatch.undo()
        os.fsync(descriptor)
        path.write_text(f"b.example {OTHER}\n")

    check = await accept_new(path)
    monkeypatch.setattr("os.fsync", add)
    assert not await believes(check, SHOWN)
    assert check.failure is not None
    assert check.failure.reason is Reason.RESOURCES, "it is tried again by itself"
    assert path.read_text() == f"b.example {OTHER}\n"
    assert [entry.name for entry in path.parent.iterdir()] == ["known"]
    assert await believes(await accept_new(path), SHOWN)
    assert is_pinned(path, number=1)


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
    ids=lambda value: str(value).replace(KEY, "KEY"),  # each worker of a parallel run makes other keys
)
def test_lines_that_are_not_of_a_known_hosts_file(line: str, foreign: bool) -> None:
    assert foreign_line(f"# first\na.example {KEY}\n{line}\n") == (3 if foreign else 0)


async def test_nothing_is_added_to_a_file_that_holds_anything_else(tmp_path: Path) -> None:
    path = tmp_path / ".bashrc"
    before = f"# for me\n\na.other {KEY}\nexport EDITOR=vi"
    path.write_text(before)
    check = await accept_new(path)
    assert not await believes(check, SHOWN)
    assert f"in {path} (line 4 is not a known_hosts line): name another file first in `knownHosts`" in message_of(check)
    assert SHOWN.get_fingerprint() in message_of(check)
    assert path.read_text() == before
    assert [entry.name for entry in tmp_path.iterdir()] == [".bashrc"]


def test_a_special_file_is_not_replaced(tmp_path: Path) -> None:
    """For example /dev/null; the test uses a socket, which is safe to lose."""
    path = tmp_path / "known"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        with pytest.raises(ValueError, match="it is not a regular file"), opened(str(path)):
            pass
    assert path.is_socket()


async def test_accept_new_with_revoked_pins_uses_the_file_and_both_revocations(path: Path) -> None:
    third, fourth = (asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode() for _ in range(2))
    revoked = (f"@revoked {third.strip()}",)
    path.write_text(f"@revoked * {fourth}")
    assert await believes(await accept_new(path, host_keys=revoked), SHOWN)
    for key, word in ((OTHER, "has changed"), (third, "@revoked (hostKeys)"), (fourth, f"@revoked ({path}:1)")):
        check = await accept_new(path, host_keys=revoked)
        assert not await believes(check, asyncssh.import_public_key(key))
        assert word in message_of(check)
    changed = await accept_new(path, host_keys=revoked)
    changed.accepts(OTHER_SHOWN)
    assert (
        f"known is ssh-ed25519 {SHOWN.get_fingerprint()} ({path}:2): if the server was reinstalled, run ssh-keygen -R"
        in message_of(changed)
    )
    assert path.read_text().startswith(f"@revoked * {fourth}")
    assert is_pinned(path, number=1)
    strict = look_up(Trust(TrustMode.STRICT, revoked, (str(path),), ""), Endpoint("a.example", 22))
    assert strict.keys == (), "strict writes to no file, and what is pinned is all there is"


# --- accept-new: several connections at once --------------------------------------------------------------------


async def test_of_two_connections_at_once_the_second_sees_the_pin_of_the_first(path: Path) -> None:
    first, same, another = [await accept_new(path) for _ in range(3)]
    assert await believes(first, SHOWN)
    assert await believes(same, SHOWN)
    assert not await believes(another, OTHER_SHOWN)
    assert "the host key of a.example has changed" in message_of(another)
    assert f"{path}:1" in message_of(another)
    assert is_pinned(path)
    assert len(path.read_text().splitlines()) == 1


async def test_a_key_revoked_during_the_handshake_is_not_pinned(path: Path) -> None:
    check = await accept_new(path)
    path.write_text(f"@revoked * {KEY}\n")
    assert not await believes(check, SHOWN)
    assert "@revoked" in message_of(check)
    other = await accept_new(path)
    path.unlink()
    path.mkdir()
    assert not await believes(other, OTHER_SHOWN)
    assert f"in {path} (it is not a regular file)" in message_of(other)


async def test_a_second_key_exchange_on_a_connection_needs_no_file_and_no_lock(path: Path) -> None:
    check = await accept_new(path)
    assert await believes(check, SHOWN)
    path.write_text("export EDITOR=vi\n")
    assert check.accepts(SHOWN)
    assert not check.accepts(OTHER_SHOWN)


async def test_a_process_pins_a_key_with_the_file_locked(tmp_path: Path) -> None:
    path = tmp_path / "known"
    real = tmp_path / "real" / "known"
    real.parent.mkdir()
    real.touch()
    path.symlink_to(real)
    check = await accept_new(path)
    directory = os.open(real.parent, os.O_RDONLY)
    other_process = path_lock.acquire(directory, real.name)
    try:
        assert not await believes(check, SHOWN)
        assert check.failure is not None
        assert check.failure.reason is Reason.RESOURCES, "it is tried again by itself"
        assert "another process holds its lock" in check.failure.message
        assert real.read_text() == ""
    finally:
        os.close(other_process)
        os.close(directory)
    assert await believes(await accept_new(path), SHOWN)
    assert is_pinned(real)
    assert [one.name for one in real.parent.iterdir()] == [real.name]


@needs_root
async def test_another_user_cannot_keep_a_key_from_being_pinned() -> None:
    lock = """
directory = os.open(sys.argv[1], os.O_RDONLY)
fcntl.flock(directory, fcntl.LOCK_EX)
known = os.open(sys.argv[1] + "/known", os.O_RDONLY)
fcntl.flock(known, fcntl.LOCK_EX)
print("ready", flush=True)
time.sleep(60)
"""
    with shared_directory(mode=0o755) as directory:
        path = directory / "known"
        path.touch(0o644)
        with other_user(lock, directory):
            assert await believes(await accept_new(path), SHOWN)
        assert is_pinned(path)


async def test_of_many_keys_shown_at_once_one_is_pinned(path: Path) -> None:
    keys = [asyncssh.generate_private_key("ssh-ed25519").convert_to_public() for _ in range(16)]
    checks = [await accept_new(path) for _ in keys]
    believed = await asyncio.gather(*(believes(check, key) for check, key in zip(checks, keys, strict=True)))
    assert believed.count(True) == 1
    (line,) = path.read_text().splitlines()
    assert asyncssh.import_public_key(line.partition(" ")[2]) == keys[believed.index(True)]


async def test_a_key_is_pinned_in_a_directory_that_cannot_be_locked(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on NFS, which can lock only what is open for writing."""

    def refused(_descriptor: int, _operation: int) -> None:
        raise OSError(9, "Bad file descriptor")

    monkeypatch.setattr("fcntl.flock", refused)
    assert await believes(await accept_new(path), SHOWN)
    assert is_pinned(path)
