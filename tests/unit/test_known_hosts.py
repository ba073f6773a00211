"""known_hosts lines: which of them are a host's, whatever stands around them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import asyncssh
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.spec import Endpoint, Trust, TrustMode
from reconciler.ssh.known_hosts import look_up, matches
from reconciler.ssh.trust import append_line

KEY, OTHER = (asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode().strip() for _ in range(2))


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
    path.write_text("before\n")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        append_line(path, "after")
    assert path.read_text() == "before\n"
    assert [entry.name for entry in tmp_path.iterdir()] == ["known"]
