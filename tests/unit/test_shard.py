"""Shards: each target belongs to one, few move when their number changes, and the forms of `--shard`."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.shard import InvalidShardError, Shard, parse_shard

NAMES = {
    "numbered": [f"t{number}" for number in range(1000)],
    "a long common beginning": [f"bastion.eu-central-1.prod.example.com-{number:04}" for number in range(1000)],
    "beyond ASCII": [f"büro-{chr(0x4E00 + number)}" for number in range(1000)],
}


def owners(target: str, count: int) -> list[int]:
    return [index for index in range(count) if Shard(index, count).has(target)]


def owner(target: str, count: int) -> int:
    return next(index for index in range(count) if Shard(index, count).has(target))


@given(st.text(), st.integers(1, 12))
def test_each_target_belongs_to_one_shard(target: str, count: int) -> None:
    assert len(owners(target, count)) == 1


@given(st.text(), st.integers(1, 12))
def test_a_target_moves_only_to_an_added_or_from_a_removed_shard(target: str, count: int) -> None:
    [before], [after] = owners(target, count), owners(target, count + 1)
    assert after in (before, count)


@pytest.mark.parametrize("names", NAMES.values(), ids=list(NAMES))
@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_about_one_part_of_the_targets_moves_to_an_added_shard(names: list[str], count: int) -> None:
    moved = sum(owner(name, count) != owner(name, count + 1) for name in names)
    part = len(names) / (count + 1)
    assert part * 0.8 < moved < part * 1.2


@pytest.mark.parametrize("names", NAMES.values(), ids=list(NAMES))
@pytest.mark.parametrize("count", [2, 3, 4, 8])
def test_shards_have_about_the_same_number_of_targets(names: list[str], count: int) -> None:
    sizes = Counter(owner(name, count) for name in names)
    part = len(names) / count
    assert all(abs(sizes[index] - part) < 5 * math.sqrt(part) for index in range(count)), sizes


def test_the_shard_of_a_target_is_the_same_in_every_version() -> None:
    """Another result would move tunnels to other replicas with an upgrade."""
    assert [owner(name, 4) for name in ("prod", "test", "edge", "db", "büro")] == PINNED


PINNED = [3, 1, 1, 3, 1]


@pytest.mark.parametrize(
    ("text", "pod", "shard"),
    [
        ("0/3", "", Shard(0, 3)),
        ("2/3", "web-0", Shard(2, 3)),
        ("002/003", "", Shard(2, 3)),
        ("0/1", "", Shard(0, 1)),
        ("tunnels-2/4", "web-0", Shard(2, 4)),
        ("my.app-2.x-11/12", "", Shard(11, 12)),
        ("4", "tunnels-2", Shard(2, 4)),
        ("1", "a-b-0", Shard(0, 1)),
        ("999999", "t-999998", Shard(999998, 999999)),
    ],
)
def test_a_shard_is_a_number_a_pod_name_or_that_of_this_pod(text: str, pod: str, shard: Shard) -> None:
    assert parse_shard(text, pod) == shard


NO_SHARD = ("", "/", "/3", "0/", "x", "1/2/", "1/2/3", "t-1/2/3", "-1", "+3", "3\n", "1/٣", "1234567", "1 / 3")


@pytest.mark.parametrize(
    ("text", "pod", "message"),
    [
        *((text, "tunnels-0", "expected I/N") for text in NO_SHARD),
        ("3/3", "", "shard 3 of 3 does not exist: expected an ordinal from 0 to 2"),
        ("tunnels-4/4", "", "shard 4 of 4 does not exist: expected an ordinal from 0 to 3"),
        ("4", "tunnels-4", "shard 4 of 4 does not exist: expected an ordinal from 0 to 3"),
        ("0", "tunnels-0", "expected at least one shard"),
        ("0/0", "", "expected at least one shard"),
        ("tunnels/4", "web-0", "no ordinal at the end of the pod name 'tunnels'"),
        ("-1/3", "", "no ordinal at the end of the pod name '-1'"),
        ("4", "", "no ordinal at the end of the pod name ''"),
        ("4", "laptop", "no ordinal at the end of the pod name 'laptop': expected a name such as tunnels-2"),
        ("4", "app-7d4b9c6f5d-x2x9z", "no ordinal at the end of the pod name"),
        ("4", "tunnels2", "no ordinal at the end of the pod name"),
        ("4", "t-1234567", "no ordinal at the end of the pod name"),
    ],
)
def test_a_text_that_names_no_shard_is_an_error(text: str, pod: str, message: str) -> None:
    with pytest.raises(InvalidShardError) as raised:
        parse_shard(text, pod)
    assert message in str(raised.value)
