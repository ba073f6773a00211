"""known_hosts files are read as OpenSSH reads them: compared with `ssh-keygen -F` and `ssh` over generated files."""

from __future__ import annotations

import contextlib
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from reconciler.core.spec import Endpoint, Trust, TrustMode
from reconciler.ssh.connect.known_hosts import Knowledge, foreign_line, look_up
from reconciler.ssh.connect.known_hosts_lines import Deadline, TooMuchError, covers, decoded, lines_of, matches
from support.known_hosts_files import HOST, KEY, contents

WITHIN = 60.0


def known(content: bytes) -> Knowledge:
    trust = Trust(TrustMode.STRICT, (), ("known",), HOST)
    return look_up(trust, Endpoint("a.example", 22), {"known": content}, Deadline(WITHIN))


# --- lines ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("known") / "hosts"


def found_by_ssh_keygen(file: Path, made: bytes) -> set[int]:
    """The numbers of the lines that ssh-keygen finds for the name."""
    file.write_bytes(made)
    command = ["ssh-keygen", "-F", HOST, "-f", str(file)]
    said = subprocess.run(command, capture_output=True, check=False).stdout
    return {int(number) for number in re.findall(rb"^# Host \S+ found: line (\d+)", said, re.MULTILINE)}


MANY = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@MANY
@given(contents())
@example(b"# x\x0bh.example " + KEY + b"\n")
@example(b"# x\xe2\x80\xa8h.example " + KEY + b"\n")
@example(b"h.example\x00 " + KEY + b"\n")
@example(b"h.example ssh-ed25519 #" + KEY)
@example(b"h.example," + b"a" * 1023 + b" " + KEY + b"\n")
@example(b"h.example," + b"a" * 1022 + b" " + KEY + b"\n")
@example(b"h.example,!" + b"a" * 1023 + b" " + KEY + b"\n")
@example(b"@revoked\th.example\t" + KEY.replace(b" ", b"\t") + b"\n")
def test_the_lines_of_a_host_are_those_that_ssh_keygen_finds(file: Path, made: bytes) -> None:
    """It also lists lines with an unreadable key: these do not count."""
    ours = {
        int(one.place.rpartition(":")[2])
        for one in lines_of(made, "known", Deadline(WITHIN))
        if matches(one.patterns, HOST, Deadline(WITHIN)) and decoded(one) is not None
    }
    theirs = found_by_ssh_keygen(file, made)
    strict = {number for number in ours - theirs if is_stricter(made.split(b"\n")[number - 1])}
    assert ours - strict <= theirs
    rest = {number for number in theirs - ours if has_key(made.split(b"\n")[number - 1])}
    assert not rest


def is_stricter(raw: bytes) -> bool:
    """The intended difference: a blank after the tab that ends @revoked."""
    return raw.lstrip(b" \t").startswith(b"@revoked\t") and b" " in raw.lstrip(b" \t")


def has_key(raw: bytes) -> bool:
    """Return True if the line has a key: ssh-keygen finds lines without one, ssh does not accept them."""
    line = rb" *(@[a-z-]+ +)?[^ \0]+ +" + re.escape(KEY) + rb"([ \0].*)?"
    return re.fullmatch(line, raw.replace(b"\t", b" "), re.DOTALL) is not None


# --- patterns ---------------------------------------------------------------------------------------------------


def naive(pattern: bytes, name: bytes) -> bool:
    """The algorithm of match.c, which is exponential."""
    if not pattern:
        return not name
    if pattern[:1] == b"*":
        return any(naive(pattern[1:], name[at:]) for at in range(len(name) + 1))
    return bool(name) and pattern[:1] in (b"?", name[:1]) and naive(pattern[1:], name[1:])


@settings(max_examples=2000)
@given(
    st.lists(st.sampled_from(list(b"ab?*")), max_size=10).map(bytes),
    st.lists(st.sampled_from(list(b"ab")), max_size=9).map(bytes),
)
def test_wildcards_are_those_of_ssh(pattern: bytes, name: bytes) -> None:
    assert covers(pattern, name) is naive(pattern, name)


class Counted(bytes):
    """Bytes that count how often one of them is read."""

    reads = 0

    def __getitem__(self, key: Any) -> Any:
        self.reads += 1
        return super().__getitem__(key)


@pytest.mark.parametrize("stars", [10, 100, 200])
def test_many_stars_take_at_most_pattern_times_name_steps(stars: int) -> None:
    """With backtracking, each star more would take several times as many."""
    pattern, name = Counted(b"*a" * stars + b"b"), Counted(b"a" * 250)
    assert not covers(pattern, name)
    assert 0 < name.reads <= len(pattern) * len(name)


def test_a_file_full_of_slow_patterns_stops_at_the_deadline() -> None:
    made = b"\n".join([b",".join([b"*a" * 100 + b"b"] * 50) + b" " + KEY] * 100)
    trust = Trust(TrustMode.STRICT, (), ("known",), "a" * 1000)
    with pytest.raises(TooMuchError, match="takes over 0"):
        look_up(trust, Endpoint("a.example", 22), {"known": made}, Deadline(0.5))


def test_a_host_that_very_many_lines_are_about_is_refused() -> None:
    """Each key is compared with the presented one, while the other tunnels wait."""
    assert len(known((b"* " + KEY + b"\n") * 1000).keys) == 1000
    with pytest.raises(TooMuchError, match="more than 1000 lines are about"):
        known((b"* " + KEY + b"\n") * 1001)


@pytest.mark.parametrize("piece", [b"\n", b"#\n", b" ", b"@", b",", b"!", b"h.example,", b"@revoked\t", b"|1|", b"\0"])
@pytest.mark.timeout(WITHIN)
def test_a_file_of_a_megabyte_is_read_within_the_deadline(piece: bytes) -> None:
    """A time that grows with the square of the size would be minutes."""
    content = piece * ((1 << 20) // len(piece))
    with contextlib.suppress(TooMuchError):
        known(content + b" " + KEY)
    foreign_line(content.decode())


@pytest.mark.parametrize("made", [b"@revoked\t", b"h.example", b"\x00", b"@", b"h.example ssh-ed25519", b"|1|", b"|"])
def test_a_partial_line_is_invalid(made: bytes) -> None:
    assert known(made) == Knowledge((), (), (), ())
