"""Divides the targets of one file among several processes by rendezvous hashing. Pure.

Each shard has a score for each target, and the shard with the highest score serves it. A shard that is added takes
about 1/N of the targets, equally from all others, and no target moves between the others. A shard that is removed gives
its targets back in the same way. The processes need no contact: each computes the same answer from the same file.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

_NUMBER = "[0-9]{1,6}"
_FORMS = re.compile(rf"(?:(?P<index>{_NUMBER})|(?P<pod>[^/]+))/(?P<of>{_NUMBER})|(?P<count>{_NUMBER})", re.ASCII)
_ORDINAL = re.compile(rf".+-({_NUMBER})", re.ASCII)


class InvalidShardError(ValueError):
    """Raised for a text that names no shard. The message says what is expected."""


@dataclass(frozen=True, slots=True)
class Shard:
    """One of `count` processes that share the targets of one file; `index` is 0 for the first."""

    index: int
    count: int

    def has(self, target: str) -> bool:
        """Return True if the target belongs to this shard. The answer is the same on every machine and version.

        The search ends at the first shard with a higher score, so it compares about ln(count) scores on average.
        """
        own = _score(self.index, target)
        return all(_score(other, target) <= own for other in range(self.count))

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


def parse_shard(text: str, pod: str) -> Shard:
    """Return the shard that `2/4`, `tunnels-2/4` or `4` names. `pod`: the name with the ordinal, for `4`.

    Raises InvalidShardError.
    """
    found = _FORMS.fullmatch(text)
    if found is None:
        raise InvalidShardError(
            f"invalid shard {text!r}: expected I/N, such as 0/3 or tunnels-0/3, or N alone in a pod of a StatefulSet"
        )
    count = int(found["of"] or found["count"])
    if not count:
        raise InvalidShardError(f"invalid shard {text!r}: expected at least one shard")
    index = int(found["index"]) if found["index"] else _ordinal(found["pod"] or pod)
    if index >= count:
        raise InvalidShardError(f"shard {index} of {count} does not exist: expected an ordinal from 0 to {count - 1}")
    return Shard(index, count)


def _ordinal(pod: str) -> int:
    found = _ORDINAL.fullmatch(pod)
    if found is None:
        raise InvalidShardError(
            f"no ordinal at the end of the pod name {pod!r}: "
            "expected a name such as tunnels-2, from POD_NAME or the host name, or I/N as the shard"
        )
    return int(found[1])


def _score(index: int, target: str) -> bytes:
    # SHA-256 spreads names that differ in one digit evenly, and no two shards have the same score.
    return hashlib.sha256(f"{index}/{target}".encode()).digest()
