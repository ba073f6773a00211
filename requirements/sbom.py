"""Prints a bill of materials (CycloneDX 1.6, JSON) of what is installed beside the program: make sbom.

In: requirements/run.txt, which has every distribution with its version, hashes and dependents, and the metadata of the
installed distributions, which have the licences. Out: the same text for the same lock, without a time or a machine.
A component has one SHA-256 for each file that the lock accepts: the wheels of all platforms, and the source.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

LOCK = Path(__file__).with_name("run.txt")
PROJECT = "tunnel-reconciler"
_PINNED = re.compile(r"([A-Za-z0-9._-]+)==(\S+)(?: ; (.*?))?(?: \\)?")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
_VIA = re.compile(r"#(?: via)?\s+([A-Za-z0-9._-]+)(?: \(pyproject\.toml\))?")


@dataclass(slots=True)
class Locked:
    """One distribution of the lock. `dependents` are the names of those that need it."""

    name: str
    version: str
    marker: str
    hashes: list[str] = field(default_factory=list)
    dependents: list[str] = field(default_factory=list)

    @property
    def purl(self) -> str:
        return f"pkg:pypi/{self.name}@{self.version}"


def locked(text: str) -> list[Locked]:
    """The distributions of a lock in pip's form."""
    found: list[Locked] = []
    for line in map(str.strip, text.splitlines()):
        if pinned := _PINNED.fullmatch(line):
            found.append(Locked(pinned[1], pinned[2], pinned[3] or ""))
        elif hashed := _HASH.match(line):
            found[-1].hashes.append(hashed[1])
        elif via := _VIA.fullmatch(line):
            found[-1].dependents.append(via[1])
    return found


def licences(name: str, version: str) -> list[dict[str, object]]:
    """As the distribution declares them: an SPDX expression, else its own words, else the names of its classifiers."""
    try:
        declared = metadata(name)
    except PackageNotFoundError:
        return []  # its marker excludes this platform
    if declared["Version"] != version:
        sys.exit(f"{name} {declared['Version']} is installed and {version} is locked: run make lint, which installs it")
    if "License-Expression" in declared:
        return [{"expression": declared["License-Expression"]}]
    said = " ".join(declared.get_all("License") or [])
    classified = [one for one in declared.get_all("Classifier") or [] if one.startswith("License ::")]
    names = [one.rpartition(" :: ")[2] for one in classified]
    return [{"license": {"name": one}} for one in ([said] if said and "\n" not in said else names)]


def component(one: Locked) -> dict[str, object]:
    made: dict[str, object] = {
        "type": "library",
        "bom-ref": one.purl,
        "name": one.name,
        "version": one.version,
        "purl": one.purl,
        "scope": "required",
        "hashes": [{"alg": "SHA-256", "content": content} for content in sorted(one.hashes)],
    }
    if found := licences(one.name, one.version):
        made["licenses"] = found
    if one.marker:
        made["properties"] = [{"name": "pip:marker", "value": one.marker}]
    return made


def dependencies(root: str, found: list[Locked]) -> Iterator[dict[str, object]]:
    """What needs what, the program first."""
    refs = {PROJECT: root} | {one.name: one.purl for one in found}
    for name, ref in refs.items():
        yield {"ref": ref, "dependsOn": sorted(one.purl for one in found if name in one.dependents)}


def bill(text: str) -> dict[str, object]:
    """The document for a lock."""
    found, own = locked(text), metadata(PROJECT)
    root = f"pkg:pypi/{PROJECT}@{own['Version']}"
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.UUID(bytes=hashlib.sha256((root + text).encode()).digest()[:16], version=4)}",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": root,
                "name": PROJECT,
                "version": own["Version"],
                "purl": root,
                "licenses": [{"expression": own["License-Expression"]}],
            }
        },
        "components": [component(one) for one in found],
        "dependencies": list(dependencies(root, found)),
    }


if __name__ == "__main__":
    print(json.dumps(bill(LOCK.read_text("utf-8")), indent=2))
