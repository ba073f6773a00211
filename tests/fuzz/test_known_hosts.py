"""known_hosts files as `ssh-keygen -l -F` reads them: the same lines for the same host.

`-l` makes it decode the keys: it leaves out lines whose key it cannot read.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import NamedTuple

import asyncssh
from hypothesis import strategies as st

from fuzz.driver import Fuzz
from reconciler.core.spec import Endpoint, Trust, TrustMode
from reconciler.ssh.connect.known_hosts import KnownKey, look_up
from reconciler.ssh.connect.known_hosts_lines import Deadline

KEY = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode().strip()
HOST = "a.example"
WITHIN = 30.0  # seconds of CPU time, far more than such a file takes
_STRICTER = re.compile(r"[ \t]*@revoked\t.* ")  # revoked on purpose; ssh ignores such a line
_FOUND = re.compile(r"# Host \S+ found: line ([0-9]+) ?(\w*)")


class Lines(NamedTuple):
    """Line numbers of host keys, authorities and revoked keys."""

    keys: frozenset[int]
    authorities: frozenset[int]
    revoked: frozenset[int]


def read_by_ssh_keygen(path: Path, name: str) -> Lines:
    ran = subprocess.run(["ssh-keygen", "-l", "-F", name, "-f", str(path)], capture_output=True, check=False)
    found: dict[str, set[int]] = {"": set(), "CA": set(), "REVOKED": set()}
    for line in ran.stdout.decode("utf-8", "replace").split("\n"):
        if matched := _FOUND.fullmatch(line.rstrip()):
            found[matched[2]].add(int(matched[1]))
    return Lines(frozenset(found[""]), frozenset(found["CA"]), frozenset(found["REVOKED"]))


def read_by_us(path: Path, port: int) -> Lines:
    trust, files = Trust(TrustMode.STRICT, (), (str(path),), ""), {str(path): path.read_bytes()}
    known = look_up(trust, Endpoint(HOST, port), files, Deadline(WITHIN))
    return Lines(_numbers(known.keys), _numbers(known.authorities), _numbers(known.revoked))


def _numbers(keys: tuple[KnownKey, ...]) -> frozenset[int]:
    return frozenset(int(key.place.rpartition(":")[2]) for key in keys)


_PATTERNS = """
    a.example A.Example * *.example ?.example !a.example b.example [a.example]:2222 a.exampl? *.* !* [*]:2222
    [a.example]:* 10.0.0.1 **a**e** !b.* |1|bad|bad a.example.
"""
_PATTERN = st.sampled_from(_PATTERNS.split())
_BLANK = st.sampled_from([" ", " ", "\t", "  ", " \t"])
_MARKER = st.sampled_from(["", "", "", "@revoked", "@cert-authority", "@unknown", "@Revoked"])
_COMMENT = st.sampled_from(
    ["", " me@laptop", "\tme", " a b", " ", f" x\x0b{HOST} {KEY}", f" \u2028{HOST} {KEY}", f"\x1c{HOST} {KEY}"]
)
_ODD = st.sampled_from(
    ["", "# a comment", "   ", "a.example", f"a.example {KEY[:-9]}", "a.example ssh-unheard-of AAAA", "\t#", "@revoked"]
)


@st.composite
def _line(draw: st.DrawFn) -> str:
    if draw(st.integers(0, 5)) == 0:
        return draw(_ODD)
    marker, patterns = draw(_MARKER), ",".join(draw(st.lists(_PATTERN, min_size=1, max_size=3)))
    begin = draw(st.sampled_from(["", "", "", " ", "\t"]))
    kind, blob = KEY.split()[:2]
    middle = marker + draw(_BLANK) if marker else ""
    comment = draw(_COMMENT)
    return f"{begin}{middle}{patterns}{draw(_BLANK)}{kind}{draw(_BLANK)}{blob}{comment}"


_FILES = st.tuples(st.lists(_line(), max_size=8), st.sampled_from(["\n", "\n", "\r\n"]), st.booleans())


def test_the_same_lines_match_a_host_as_in_ssh_keygen(fuzz: Fuzz, tmp_path: Path) -> None:
    path = tmp_path / "known_hosts"

    def assert_same(asked: tuple[list[str], str, bool]) -> None:
        lines, end, ended = asked
        path.write_text(end.join(lines) + (end if ended else ""), encoding="utf-8", newline="")
        theirs, ours = read_by_ssh_keygen(path, HOST), read_by_us(path, 22)
        stricter = frozenset(number for number, line in enumerate(lines, 1) if _STRICTER.match(line))
        assert ours._replace(revoked=ours.revoked - (stricter - theirs.revoked)) == theirs
        assert read_by_us(path, 2222).keys == read_by_ssh_keygen(path, f"[{HOST}]:2222").keys

    fuzz.run(_FILES, assert_same, examples=80)
