"""Large files that repeat one text: the load time grows linearly with the length."""

from __future__ import annotations

import math
import time

from hypothesis import strategies as st

from fuzz.driver import Fuzz
from fuzz.grammar import odd
from fuzz.test_loader import load

_LENGTH = 48 << 10  # characters
_ROUNDS = 5  # at most
_PIECES = st.lists(
    odd | st.sampled_from(["a", ", ", "a: ", "- a\n", "${A:-", "$${", "${A}", "\\u0000"]), min_size=1, max_size=3
)
# The position of the repeated text: anywhere, in the value of a field, in a name, in a list.
_FRAMES = st.sampled_from(
    [
        ("", ""),
        ("targets: {a: {host: ", "}}"),
        ('targets: {a: {host: "', '"}}'),
        ("targets: {a: {host: a, tunnels: [{local: '1:", ":2'}]}}"),
        ('targets: {a: {host: a, tunnels: [{socks: 1, allowDestinations: ["', '"]}]}}'),
        ('targets: {a: {host: a, tunnels: [{socks: 1, allow: ["', '"], bandwidthLimit: 1MiB/s}]}}'),
        ('targets: {a: {host: a, reconnect: {initial: "', '"}, hostKeys: [x]}}'),
        ('targets: {a: {host: a, hostKeys: ["', '"], knownHosts: "x"}}'),
        ('targets: {"', '": {host: a}}'),
        ("targets:\n  a:\n    host: a\n    tunnels:\n", ""),
        ("targets: {a: {host: a, tunnels: [", "]}}"),
        ("targets: {a: {host: a, jumpHosts: [", "]}}"),
    ]
)
_FIRST = [(('targets: {a: {host: "', '"}}'), ["${A:-"]), (('targets: {a: {user: "', '"}}'), ["${A"])]


def seconds(frame: tuple[str, str], repeated: str, length: int) -> float:
    """Return the CPU time for a file of this length."""
    text = frame[0] + repeated * (length // len(repeated)) + frame[1]
    begin = time.thread_time()
    load(text)
    return time.thread_time() - begin


def assert_linear(asked: tuple[tuple[str, str], list[str]]) -> None:
    """Four times the length takes about four times as long. Quadratic time would be sixteen times."""
    frame, pieces = asked
    repeated = "".join(pieces) or "a"
    short = long = math.inf
    for _ in range(_ROUNDS):  # the minimum of each: single runs are slower on a busy machine
        short = min(short, seconds(frame, repeated, _LENGTH // 4))
        long = min(long, seconds(frame, repeated, _LENGTH))
        if long < 8 * short + 0.3:
            return
    raise AssertionError(f"{short:.2f} s became {long:.2f} s")


def test_four_times_the_file_takes_about_four_times_as_long(fuzz: Fuzz) -> None:
    fuzz.run(st.tuples(_FRAMES, _PIECES), assert_linear, examples=6, first=_FIRST, cpu_seconds=20)
