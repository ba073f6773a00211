"""Parsers for single values: port, duration, rate, address block, time. Also formats them as the file spells them.

Each parser returns the value or raises `InvalidValueError`, without a message if the one made from the schema is
enough. It raises `UnsetVariableError` if the value depends on a variable that is not set.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TypeVar

from reconciler.config.deadline import check
from reconciler.config.syntax.nodes import Items, Node, Scalar
from reconciler.core.rules.access import check_destination_rule, check_source_rule
from reconciler.core.secret import may_hold_secret

_T = TypeVar("_T")

_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)(ms|s|m|h)")
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_RATE = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,3})?)(B|kB|MB|GB|KiB|MiB|GiB)/s")
_BYTES = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_RANGE = re.compile(r"([0-9]{1,5})-([0-9]{1,5})")
_HOST = re.compile(r"[^\s/@:\[\]\x00-\x1f]{1,253}")
_HOST_PORT = re.compile(r"(\[[^\]]*\]|[^:\[\]]*)(?::([0-9]{1,5}))?")
_MODE = re.compile(r"0?[0-7]{3}")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_OFFSET = re.compile(r"([Zz]|[+-][0-9]{2}:[0-9]{2})$")
_HOST_KEY = re.compile(r"(@cert-authority |@revoked )?(ssh-|ecdsa-|sk-)[A-Za-z0-9@.-]+ [A-Za-z0-9+/]{16,}={0,3}( .*)?")
MAX_PORT = 65535

# Seconds. Shorter periods of repeated work (dialling, probes, keepalives, closing an idle connection) would load both
# sides, and no connection could be made in less. The limit does not apply to holdTimeout, a tunnel's idleTimeout,
# drainTimeout and handoverTimeout: each of these ends once, and 0s is a valid choice.
SHORTEST = 0.05


class InvalidValueError(Exception):
    """The value is not one that the field takes.

    node   the wrong part of the value; None for all of it
    items  for a list, the errors of its items, by index
    """

    def __init__(
        self, message: str = "", node: Node | None = None, items: Mapping[int, InvalidValueError] | None = None
    ) -> None:
        self.message = message
        self.node = node
        self.items = items or {}
        super().__init__(message)


class UnsetVariableError(Exception):
    """The value depends on variables that are not set."""

    def __init__(self, node: Scalar) -> None:
        self.node = node
        super().__init__(", ".join(node.unset))


class UnknownDirectoryError(Exception):
    """The value is a path that starts with `~`, which stands for no directory here. The message says why."""

    def __init__(self, node: Scalar, message: str) -> None:
        super().__init__(message)
        self.node = node


def scalar(node: Node) -> Scalar:
    """Return the node if it is a scalar with a value."""
    if not isinstance(node, Scalar):
        raise InvalidValueError
    if node.unset:
        raise UnsetVariableError(node)
    if node.value is None:
        raise InvalidValueError
    return node


def text(node: Node) -> str:
    """Return text as written: `user: 1000` is a user named 1000."""
    found = scalar(node)
    if isinstance(found.value, bool) and not found.variables:
        raise InvalidValueError
    return found.text


def label(node: Node) -> str:
    return scalar(node).text


def word(*words: str) -> Callable[[Node], str]:
    """Return a parser that takes one of these words."""

    def parse(node: Node) -> str:
        found = scalar(node).value
        if not isinstance(found, str) or found not in words:
            raise InvalidValueError
        return found

    return parse


def switch(node: Node) -> bool:
    found = scalar(node).value
    if not isinstance(found, bool):
        raise InvalidValueError
    return found


def whole(low: int, high: int) -> Callable[[Node], int]:
    """Return a parser that takes a whole number from `low` to `high`."""

    def parse(node: Node) -> int:
        found = scalar(node).value
        if isinstance(found, bool) or not isinstance(found, int) or not low <= found <= high:
            raise InvalidValueError
        return found

    return parse


def number(low: float, high: float) -> Callable[[Node], float]:
    """Return a parser that takes a number from `low` to `high`."""

    def parse(node: Node) -> float:
        found = scalar(node).value
        if isinstance(found, bool) or not isinstance(found, int | float) or not low <= found <= high:
            raise InvalidValueError
        return float(found)

    return parse


def each(parse: Callable[[Node], _T]) -> Callable[[Node], tuple[_T, ...]]:
    """Return a parser for a list. `parse` takes each item, and its errors are reported at the item."""

    def parse_list(node: Node) -> tuple[_T, ...]:
        if not isinstance(node, Items):
            raise InvalidValueError
        wrong: dict[int, InvalidValueError] = {}
        parsed = []
        for index, item in enumerate(node.values):
            check()
            try:
                parsed.append(parse(item))
            except InvalidValueError as error:
                wrong[index] = InvalidValueError(error.message, item)
        if wrong:
            raise InvalidValueError(items=wrong)
        return tuple(parsed)

    return parse_list


def duration(node: Node) -> float:
    """Parse a duration to seconds."""
    found = scalar(node).value
    matched = _DURATION.fullmatch(found) if isinstance(found, str) else None
    if matched is None:
        raise InvalidValueError
    return _seconds(matched)


def _seconds(matched: re.Match[str]) -> float:
    """Round to nanoseconds, so that a duration is the same number in every unit: 0.7s, 700ms."""
    return round(float(matched[1]) * _SECONDS[matched[2]], 9)


def some_time(node: Node) -> float:
    """Parse a duration of at least `SHORTEST`."""
    return _long_enough(duration(node))


def some_time_or_ms(node: Node) -> float:
    return _long_enough(duration_or_ms(node))


def interval_or_ms(node: Node) -> float:
    """Parse as `some_time_or_ms` does, and take 0, which turns the interval off."""
    seconds = duration_or_ms(node)
    return _long_enough(seconds) if seconds else seconds


def _long_enough(seconds: float) -> float:
    if seconds < SHORTEST:
        raise InvalidValueError(f"too short: expected at least {shown_duration(SHORTEST)}")
    return seconds


def duration_or_ms(node: Node) -> float:
    found = scalar(node).value
    if isinstance(found, int) and not isinstance(found, bool) and 0 <= found < 2**31:
        return found / 1000
    return duration(node)


def shown_duration(seconds: float) -> str:
    """Format a duration: in whole hours, minutes or seconds if possible, otherwise in milliseconds if they fit."""
    if not seconds:
        return "0s"
    spelled = [f"{int(seconds / _SECONDS[unit])}{unit}" for unit in ("h", "m", "s") if seconds % _SECONDS[unit] == 0]
    decimals = ((unit, f"{seconds / _SECONDS[unit]:.6f}") for unit in ("ms", "s", "m", "h"))
    spelled += [text.rstrip("0").rstrip(".") + unit for unit, text in decimals]
    matches = ((text, _DURATION.fullmatch(text)) for text in spelled)
    exact = (text for text, matched in matches if matched is not None and _seconds(matched) == seconds)
    return next(exact, spelled[0])


def rate(node: Node) -> int:
    """Parse a rate to bytes per second; 0 stands for `none`."""
    found = scalar(node).value
    if found == "none":
        return 0
    matched = _RATE.fullmatch(found) if isinstance(found, str) else None
    if matched is None:
        raise InvalidValueError
    bytes_a_second = _bytes_a_second(matched)
    if bytes_a_second < 1:
        raise InvalidValueError("too low: expected at least 1B/s, or `none` for no limit")
    return bytes_a_second


def shown_rate(bytes_a_second: int) -> str:
    """Format a rate: the shortest text that `rate` parses to the same number, without decimals if there are several."""
    if not bytes_a_second:
        return "none"
    spelled = (f"{bytes_a_second / size:.3f}".rstrip("0").rstrip(".") + f"{unit}/s" for unit, size in _BYTES.items())
    matches = ((text, _RATE.fullmatch(text)) for text in spelled)
    exact = [text for text, matched in matches if matched is not None and _bytes_a_second(matched) == bytes_a_second]
    return min(exact, key=lambda text: (len(text), "." in text), default=f"{bytes_a_second}B/s")


def _bytes_a_second(matched: re.Match[str]) -> int:
    return int(float(matched[1]) * _BYTES[matched[2]])


port = whole(1, MAX_PORT)


def ports(node: Node) -> tuple[int, int]:
    """Parse the ports to listen on: first and last; (0, 0) is any free port."""
    found = scalar(node).value
    if isinstance(found, str) and (matched := _RANGE.fullmatch(found)):
        first, last = int(matched[1]), int(matched[2])
        if not 1 <= first <= last <= MAX_PORT:
            raise InvalidValueError(
                f'invalid port range "{found}": expected FIRST-LAST from 1 to 65535, as in "15000-15100"'
            )
        return first, last
    only = whole(0, MAX_PORT)(node)
    return only, only


def host(node: Node) -> str:
    """Parse a name or an address; brackets around IPv6 are removed."""
    found = scalar(node).text
    bare = found[1:-1] if found.startswith("[") and found.endswith("]") else found
    if ":" in bare:
        try:
            return str(ipaddress.IPv6Address(bare))
        except ValueError:
            raise InvalidValueError from None
    if bare != found or not _HOST.fullmatch(bare):
        raise InvalidValueError
    return bare


def host_and_port(node: Node) -> tuple[str, int | None]:
    """Parse `host` or `host:port`; the port is None if there is none."""
    found = scalar(node).text
    if found.count(":") > 1 and not found.startswith("["):
        return host(node), None
    matched = _HOST_PORT.fullmatch(found)
    if matched is None:
        raise InvalidValueError
    where = Scalar(matched[1], matched[1])
    if matched[2] is None:
        return host(where), None
    if not 1 <= int(matched[2]) <= MAX_PORT:
        raise InvalidValueError(f'port of "{found}" is out of range: expected 1 to 65535')
    return host(where), int(matched[2])


def name(node: Node) -> str:
    found = scalar(node).text
    if not _NAME.fullmatch(found):
        raise InvalidValueError
    return found


def mode(node: Node) -> int:
    found = scalar(node).value
    if not isinstance(found, str) or not _MODE.fullmatch(found):
        raise InvalidValueError
    return int(found, 8)


def source_rule(node: Node) -> str:
    """Parse a CIDR block or an address. `core.rules.access` defines the grammar."""
    return _checked(node, check_source_rule)


def destination_rule(node: Node) -> str:
    """Parse HOST:PORTS. `core.rules.access` defines the grammar."""
    return _checked(node, check_destination_rule)


def _checked(node: Node, check: Callable[[str], None]) -> str:
    found = scalar(node).text
    try:
        check(found)
    except ValueError as error:
        raise InvalidValueError("" if may_hold_secret(found) else str(error)) from None
    return found


def moment(node: Node) -> float:
    """Parse a date and time to Unix time."""
    found = scalar(node).text
    try:
        when = datetime.fromisoformat(found)
        if not _OFFSET.search(found):
            raise InvalidValueError(
                f'time "{found}" has no offset: expected a date and time with an offset, as in 2027-01-31T00:00:00Z'
            )
        return when.timestamp()
    except (ValueError, OverflowError):
        raise InvalidValueError from None


def host_key(node: Node) -> str:
    found = scalar(node).text.strip()
    if not _HOST_KEY.fullmatch(found):
        raise InvalidValueError
    return found


def command(node: Node) -> tuple[str, ...]:
    argv = each(text)(node)
    if not argv or not argv[0]:
        raise InvalidValueError
    return argv


def filled(node: Node) -> str:
    """Parse text that is not empty."""
    found = text(node)
    if not found.strip():
        raise InvalidValueError("empty value: expected text")
    return found
