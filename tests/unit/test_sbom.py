"""`make sbom`: the bill of materials names every locked package and is reproducible."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

REQUIREMENTS = Path(__file__).parents[2] / "requirements"


def printed() -> str:
    command = [sys.executable, str(REQUIREMENTS / "sbom.py")]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def test_every_locked_distribution_is_named_with_its_version_and_hashes() -> None:
    bill: dict[str, Any] = json.loads(printed())
    entries = re.split(r"^(?=[a-z0-9])", (REQUIREMENTS / "run.txt").read_text("utf-8"), flags=re.MULTILINE)
    expected = {
        tuple(entry.split()[0].split("==")): set(re.findall(r"--hash=sha256:(\w+)", entry))
        for entry in entries
        if entry
    }
    found = {
        (one["name"], one["version"]): {hashed["content"] for hashed in one["hashes"]} for one in bill["components"]
    }
    assert found == expected
    assert all(found.values())


def test_every_installed_package_has_its_licence() -> None:
    bill = json.loads(printed())
    lacking = [one["name"] for one in bill["components"] if not one.get("licenses") and not one.get("properties")]
    assert lacking == []
    assert {"license": {"name": "OSI Approved"}} not in [one["licenses"][0] for one in bill["components"]]


def test_dependencies_are_references_that_exist() -> None:
    bill = json.loads(printed())
    own, *rest = bill["dependencies"]
    known = {one["bom-ref"] for one in bill["components"]}
    assert own["ref"] == bill["metadata"]["component"]["bom-ref"]
    assert {one["ref"] for one in rest} == known
    assert {needed for one in bill["dependencies"] for needed in one["dependsOn"]} == known


def test_two_bills_of_one_lock_are_equal() -> None:
    assert printed() == printed()
