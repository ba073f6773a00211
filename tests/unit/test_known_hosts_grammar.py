"""known_hosts files are read as OpenSSH reads them: compared with `ssh-keygen -F` and `ssh` over generated files."""

from __future__ import annotations

import contextlib
import re
import subprocess
import time
from pathlib import Path

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


def test_a_pattern_with_many_stars_takes_time_in_proportion_to_its_length() -> None:
    """Backtracking, twice as many stars would take thousands of times as long."""

    def seconds(stars: int) -> float:
        began = time.process_time()
        for _ in range(20):
            assert not covers(b"*a" * stars + b"b", b"a" * 250)
        return time.process_time() - began

    seconds(10)
    assert seconds(200) < 40 * max(seconds(25), 0.001)


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
def test_the_time_for_a_file_grows_with_its_size(piece: bytes) -> None:
    def seconds(size: int) -> float:
        content = piece * (size // len(piece))
        began = time.process_time()
        with contextlib.suppress(TooMuchError):
            known(content + b" " + KEY)
            foreign_line(content.decode())
        return time.process_time() - began

    seconds(1 << 10)
    assert seconds(1 << 20) < 100 * max(seconds(1 << 16), 0.005)  # 16 times as large


@pytest.mark.parametrize("made", [b"@revoked\t", b"h.example", b"\x00", b"@", b"h.example ssh-ed25519", b"|1|", b"|"])
def test_a_partial_line_is_invalid(made: bytes) -> None:
    assert known(made) == Knowledge((), (), (), ())
