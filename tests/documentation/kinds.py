"""The classes of fenced blocks, and which blocks are not run."""

from __future__ import annotations

import json
import re
from enum import Enum
from typing import Any

import yaml

from documentation.blocks import ROOT, Block, blocks_of, pages

SCHEMA = json.loads((ROOT / "schemas/tunnels.schema.json").read_text())
BLOCKS = [block for path in pages() for block in blocks_of(path)]
Json = dict[str, Any]

# Pages with commands that are only checked, not run: the pattern, and why.
NOT_RUN_PAGES = {
    "README.md": "shows the first steps in short; docs/tutorial.md runs them",
    "docs/runbook.md": "each section is about a failure that the page does not make",
    "docs/shards.md": "is about several processes; tests/integration/test_shards.py runs them",
    "docs/contract.md": "names forms; the tests of each command check them",
    "docs/reference*": "generated from the help of the commands; the tests of the commands run them",
    "docs/how-to/teams.md": "tests/examples/test_teams_example.py runs it",
    "docs/how-to/python.md": "tests/integration/test_python_page.py runs it",
}
# Pages with tests of their own, which know what each block is for.
OWN_TESTS = {"docs/how-to/teams.md", "docs/how-to/python.md"}
# Blocks with `not-run`: what they need that no test has.
NOT_RUN_BLOCKS = {
    "docs/tutorial.md": "pip would fetch a release",
    "docs/how-to/systemd.md": "systemctl and journalctl need a running systemd",
    "docs/how-to/sidecar.md": "kubectl needs a cluster",
    "docs/how-to/gitops.md": "argocd, flux and kubectl need a cluster",
    "docs/how-to/socks.md": "a browser opens a window",
    "docs/upgrading.md": "pip and docker would fetch a release",
    "docs/explanation/security.md": "pip would fetch a release",
    "docs/comparison.md": "aws and gcloud need an account",
}


class Kind(Enum):
    """What a block contains, and so how it is checked."""

    TUNNELS = "a whole tunnels file"
    FRAGMENT = "fields or tunnels of a tunnels file"
    KUBERNETES = "resources of Kubernetes"
    OTHER_YAML = "YAML of another program"
    COMMANDS = "commands with their output"
    LOG = "lines of a log"
    SCRIPT = "a shell script"
    PYTHON = "Python"
    JSON = "JSON"
    PROMQL = "a query for Prometheus"
    FILE = "a file of another program"
    TEXT = "a drawing or a list"


def kind_of(block: Block) -> Kind | None:
    """Return the class of a block, or None if it has none."""
    match block.language:
        case "yaml":
            return _kind_of_yaml(block.text)
        case "console":
            return Kind.LOG if "log" in block.options else Kind.COMMANDS
        case "sh":
            return Kind.SCRIPT
        case "python":
            return Kind.PYTHON
        case "json":
            return Kind.JSON
        case "promql":
            return Kind.PROMQL
        case "ini":
            return Kind.FILE if block.file_name else None
        case "text" | "":
            # Commands must be in a block that is run.
            return None if re.search(r"^\$ ", block.text, re.MULTILINE) else Kind.TEXT
        case _:
            return None


def _kind_of_yaml(text: str) -> Kind | None:
    documents = [one for one in yaml.safe_load_all(text) if one is not None]
    if not documents:
        return None
    if all(isinstance(one, dict) and {"apiVersion", "kind"} <= one.keys() for one in documents):
        return Kind.KUBERNETES
    if len(documents) > 1:
        return None
    content = documents[0]
    if isinstance(content, list):
        return Kind.FRAGMENT if all(isinstance(one, dict) for one in content) else None
    if isinstance(content, dict):
        names = content.keys()
        if names <= {"targets", "defaults", "version", "$schema"}:
            return Kind.TUNNELS
        if names & {"services", "jobs", "groups", "rules"} or any(
            "script" in _mapping(one) for one in content.values()
        ):
            return Kind.OTHER_YAML
        if names <= fields("target") or names <= fields("tunnel"):
            return Kind.FRAGMENT
    return None


def _mapping(value: object) -> Json:
    return value if isinstance(value, dict) else {}


def fields(definition: str) -> set[str]:
    """Return the fields of a target or of a tunnel."""
    return set(SCHEMA["$defs"][definition]["properties"])
