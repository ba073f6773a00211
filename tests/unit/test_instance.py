"""The name of the running process among several."""

from __future__ import annotations

import pytest

from reconciler.runtime.instance import instance_name


@pytest.mark.parametrize(
    ("environ", "expected"),
    [({"POD_NAME": "tunnels-2"}, "tunnels-2"), ({"POD_NAME": ""}, "db-host"), ({}, "db-host")],
)
def test_the_instance_is_the_pod_or_the_machine(
    environ: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "db-host.example.com")
    assert instance_name(environ) == expected
