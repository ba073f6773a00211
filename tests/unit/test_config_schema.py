"""The schema is the only source of defaults and expectations."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from reconciler.config.load import load_text
from reconciler.config.problem import WARNINGS, WarningCode
from reconciler.config.schema.document import definition, property_of, schema
from reconciler.core import spec

ROOT = Path(__file__).parent.parent.parent
KINDS = ("target", "hop", "tunnel", "defaults", "algorithms", "reconnect", "health", "socksUser", "secretPlace")
FIELDS = [(kind, name) for kind in KINDS for name in definition(kind)["properties"]]


def test_the_schema_is_valid() -> None:
    Draft202012Validator.check_schema(schema())


@pytest.mark.parametrize(("kind", "name"), FIELDS)
def test_each_field_has_a_description_and_a_valid_example(kind: str, name: str) -> None:
    field = property_of(kind, name)
    assert field["description"]
    assert field["examples"]
    validator = Draft202012Validator({"$defs": schema()["$defs"], "$ref": f"#/$defs/{kind}/properties/{name}"})
    for example in [*field["examples"], *([field["default"]] if "default" in field else [])]:
        validator.validate(example)


def test_the_spec_has_no_defaults_of_its_own() -> None:
    tree = ast.parse(Path(spec.__file__).read_text("utf-8"))
    given = {
        node.target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.AnnAssign) and node.value is not None and isinstance(node.target, ast.Name)
    }
    assert given <= {"generation", "command"}, "neither is a setting of the file"


def test_x_allow_accepts_exactly_the_warning_codes() -> None:
    assert definition("waivers")["items"]["enum"] == [code.value for code in WarningCode]
    assert set(WARNINGS) == set(WarningCode)


@pytest.mark.parametrize("path", sorted((ROOT / "tests" / "configs" / "seed").iterdir()), ids=lambda path: path.stem)
def test_the_seed_loads_unmodified(path: Path) -> None:
    loaded = load_text(path.read_text("utf-8"), environ={"HOME": "/home/me"})
    assert loaded.errors == ()
    assert list(loaded.desired.targets) == [path.stem]


def test_defaults_of_the_schema_reach_the_spec() -> None:
    loaded = load_text("targets: {a: {host: a, agent: true, tunnels: [{local: '1:b:2'}]}}")
    defaults: dict[str, Any] = {
        name: property_of("tunnel", name).get("default") for name in ("holdTimeout", "critical")
    }
    policy = loaded.desired.tunnels["a/local-1"].policy
    assert (f"{policy.hold_timeout:.0f}s", policy.critical) == (defaults["holdTimeout"], defaults["critical"])
