"""Generates docs/reference.md from the schemas: `python -m reconciler.config.schema.reference > docs/reference.md`.

The output is deterministic. A test compares it with the file.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator

from reconciler.config.problem import POLICY_CODES, WAIVABLE_ERRORS, WARNINGS
from reconciler.config.schema.document import Schema, definition, resolved, schema

_INTRODUCTION = """\
# Reference of tunnels.yaml

Generated from the files in `schemas/`; do not edit. Unknown keys are errors. Keys that begin with `x-` are free
for notes.

A duration is a number with a unit: `500ms`, `10s`, `5m`, `1h`. `${VAR}` and `${VAR:-default}` in a value are replaced
by environment variables; `$$` is a dollar sign. A value that is one variable and nothing else may also be a number or
true or false. A relative path starts at the directory of its file; `~` is the home directory.
"""

_WARNINGS = """\
## Warnings

`x-allow: [CODE]` beside the field waives a warning. With `--strict`, warnings that are not waived are errors. The codes
marked as errors are always errors unless waived.
"""

_POLICY = """\
## The policy file

`--policy FILE` judges each tunnels.yaml by the first rule that matches it. What a rule does not list is refused, and so
is a file that no rule matches. `tunnels schema --policy` prints the schema.

HOST:PORTS is as in `allowDestinations`. `localhost` permits the name, 127.0.0.1 and ::1. The host in a tunnels.yaml is
compared as the address that it stands for: `*` needs both 0.0.0.0 and ::, and `localhost` both 127.0.0.1 and ::1. In
patterns, `*` and `?` do not match a slash, and `**` does. Variables are not expanded.
"""

_POLICY_CODES = """\
### Codes of refusals

`x-allow` does not waive them.
"""

_SECTIONS = (
    ("defaults", "defaults"),
    ("target", "targets.NAME"),
    ("secretPlace", "privateKey, passphrase, password, certificate"),
    ("hop", "jumpHost, jumpHosts[]"),
    ("algorithms", "algorithms"),
    ("reconnect", "reconnect"),
    ("tunnel", "targets.NAME.tunnels[]"),
    ("health", "health"),
    ("socksUser", "auth"),
)


def reference() -> str:
    """Return the page as Markdown."""
    parts = [_INTRODUCTION, _section("The file", schema()["description"], schema()["properties"])]
    for name, title in _SECTIONS:
        found = definition(name)
        parts.append(_section(f"`{title}`", found["description"], found["properties"]))
    parts.append(_WARNINGS)
    kinds = {code: "error" if code in WAIVABLE_ERRORS else "warning" for code in WARNINGS}
    rows = ((f"`{code}`", kinds[code], text) for code, text in WARNINGS.items())
    parts.append(_table(("code", "level", "meaning"), rows))
    return "\n".join([*parts, *_policy()])


def _policy() -> Iterator[str]:
    yield _POLICY
    rule = schema("policy")["properties"]["rules"]["items"]
    yield _section("`rules[]`", rule["description"], rule["properties"], level=3)
    for name in ("targets", "local", "remote", "socks"):
        found = rule["properties"][name]
        yield _section(f"`rules[].{name}`", found["description"], found["properties"], level=3)
    yield _POLICY_CODES
    yield _table(("code", "meaning"), ((f"`{code}`", text) for code, text in POLICY_CODES.items()))


def _section(title: str, description: str, properties: Schema, level: int = 2) -> str:
    rows = (_row(name, resolved(subschema)) for name, subschema in properties.items())
    table = _table(("field", "takes", "default", "what it does", "example"), rows)
    return f"{'#' * level} {title}\n\n{description}\n\n{table}"


def _row(name: str, subschema: Schema) -> Iterator[str]:
    yield f"`{name}`"
    yield str(subschema.get("x-expected") or "a mapping")
    yield default_text(subschema)
    yield subschema["description"]
    yield " ".join(f"`{_written(example)}`" for example in subschema.get("examples", ())[:2])


def default_text(subschema: Schema) -> str:
    """Return the default of a field as Markdown; "" if it has none or a computed one."""
    if subschema.get("default", "") == "" and "x-default" not in subschema:
        return ""
    others = [f"`{_written(value)}` ({kind})" for kind, value in subschema.get("x-default", {}).items()]
    return ", ".join([f"`{_written(subschema['default'])}`", *others])


def _written(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    titles = list(head)
    lines = [titles, ["---"] * len(titles), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


if __name__ == "__main__":
    sys.stdout.write(reference())
