"""The configurations that the Python API takes: paths, texts and mappings."""

from __future__ import annotations

import os
from collections import UserDict
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType

import pytest

from reconciler.api.source import Reader, Source
from reconciler.config.problem import ConfigError
from reconciler.core.spec import TunnelSpec

LOGIN = {"host": "h", "user": "u", "password": {"file": "/etc/hostname"}}


def tunnel(**fields: object) -> TunnelSpec:
    """Return the tunnel of a mapping with these fields."""
    document = {"targets": {"a": {**LOGIN, "tunnels": [{"name": "x", "local": "0:db:1", **fields}]}}}
    return Reader({}, None).read(document).desired.tunnels["a/x"]


@pytest.mark.parametrize(
    "text",
    [
        "\N{ROCKET}",
        "a\u2028b",
        "\ufeff",
        "\uffff",
        '"\\ud83d\\',
        "caf\u00e9",
        "null",
        "1e3",
        "- a",
        "# b",
    ],
)
def test_the_texts_of_a_mapping_stay_as_they_are(text: str) -> None:
    assert tunnel(description=text).policy.description == text


def test_a_mapping_takes_the_types_that_programs_use() -> None:
    other = tunnel(
        portFile=Path("/run/port"),
        allow=("10.0.0.0/8",),
        labels=MappingProxyType({"team": "a"}),
        expiresAt=datetime(2100, 1, 1, tzinfo=UTC),
    )
    assert other.policy.port_file == "/run/port"
    assert other.policy.allow == ("10.0.0.0/8",)
    assert other.policy.labels == (("team", "a"),)
    assert other.policy.expires_at == datetime(2100, 1, 1, tzinfo=UTC).timestamp()
    assert Reader({}, None).read(UserDict(targets=UserDict())).desired.targets == {}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (float("nan"), "not a finite number"),
        (b"h", "a value has the type bytes"),
        ("\ud800", "is not UTF-8"),
        (1 << 4000, "expected"),
    ],
)
def test_a_value_that_yaml_has_not_is_a_configuration_error(value: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tunnel(localPort=value)


@pytest.mark.parametrize(
    "text", ["targets: {}", '{"targets": {}}', "targets: {}\n", "version: 1\r\ntargets: {}", "{targets: {}} "]
)
def test_a_text_has_a_line_end_or_a_brace_at_its_end(text: str) -> None:
    assert Reader({}, None).read(text).valid


def test_any_other_text_is_a_path(tmp_path: Path) -> None:
    file = tmp_path / "a: b"
    file.write_text("targets: {}")
    odd = tmp_path / "c}"
    odd.write_text("targets: {}")
    paths: tuple[Source, ...] = (str(file), file, odd, tmp_path / "d.yaml", _Bytes(file))
    for path in paths[:3]:
        assert Reader({}, None).read(path).valid
    with pytest.raises(ConfigError, match=r"d\.yaml: cannot be read: no such file"):
        Reader({}, None).read(paths[3])
    assert Reader({}, None).read(paths[4]).valid


class _Bytes(os.PathLike[str]):
    def __init__(self, path: Path) -> None:
        self._path = path

    def __fspath__(self) -> str:
        return os.fsencode(self._path)  # type: ignore[return-value]  # as os.DirEntry[bytes] does


def test_variables_come_from_the_given_environment() -> None:
    document: Mapping[str, object] = {"targets": {"a": {**LOGIN, "host": "${HOST}", "tunnels": [{"local": "1:db:1"}]}}}
    loaded = Reader({"HOST": "somewhere"}, None).read(document)
    assert loaded.desired.targets["a"].access.hop.hosts[0].host == "somewhere"
