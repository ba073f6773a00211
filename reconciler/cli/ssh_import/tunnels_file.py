"""Builds the tunnels.yaml of `tunnels import`. Each field and each tunnel is checked by itself."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from itertools import chain, count

import yaml

from reconciler.cli.ssh_import.openssh import Fields, shown
from reconciler.cli.ssh_import.translate import Translation
from reconciler.config.load import Loaded, load_text
from reconciler.config.options import Options
from reconciler.config.problem import WAIVABLE_ERRORS
from reconciler.config.schema.document import known_words
from reconciler.core.addresses import Addresses
from reconciler.system.redaction import Redactor

_NAME_MAX = 63
_ROUTE = ("host", "port", "jumpHost", "jumpHosts", "proxyCommand")
_VALID: Fields = {"host": "a", "user": "u", "agent": True}  # a target without errors, except that it has no tunnels
_HEAD = "# Written by `tunnels import`. Next: `tunnels check --connect FILE`, then `tunnels run FILE`.\ntargets:\n"


class TunnelsFile:
    """Collects targets and tunnels. An invalid forward affects no other."""

    def __init__(self, environ: Mapping[str, str], *, commands: bool) -> None:
        # One redactor for all lines, so that values of variables are hidden in all messages.
        self._options = Options(allow_commands=commands, hidden=Redactor(known_words()))
        self._environ = environ
        self._targets: dict[str, tuple[Fields, list[Fields]]] = {}
        self._names: dict[str, set[str]] = {}
        self._taken = Addresses(())
        self.notes: list[str] = []

    def __bool__(self) -> bool:
        return bool(self._targets)

    def add(self, one: Translation) -> list[str]:
        """Add a target and its tunnels. Returns messages about parts that could not be added; `notes` has others."""
        self.notes = []
        if not one.fields:
            return []
        fields = dict(one.fields)
        problems = self._drop_invalid(fields)
        if "host" not in fields:
            return problems
        if errors := self._load({"targets": self._apart(fields | {"tunnels": []})}).errors:  # of fields together
            return [*problems, f"{errors[0].message}: the whole target is left out"]
        fields = self._with_named_hop(fields)
        name = self._target(one.host, fields)
        for forward in one.forwards:
            if forward.entry is None:
                problems.append(f"{forward.label}: {forward.lost}")
            else:
                problems.append(self._tunnel(name, forward.entry, forward.label))
        if not self._targets[name][1]:
            del self._targets[name]
        return [message for message in problems if message]

    def errors(self) -> list[str]:
        """Return the errors of the whole file."""
        return [str(error) for error in load_text(self.text(), options=self._options, environ=self._environ).errors]

    def text(self) -> str:
        parts = [_HEAD]
        for name, (fields, tunnels) in self._targets.items():
            head = _yaml(fields) + ("tunnels:\n" if tunnels else "tunnels: []\n")
            parts.append(_indented(f"{name}:\n" + _indented(head)))
            parts += [f"      - {_flow(tunnel)}\n" for tunnel in tunnels]
        return "".join(parts)

    def _drop_invalid(self, fields: Fields) -> list[str]:
        """Remove invalid fields and return the messages. If the address or route is invalid, `host` is removed too."""
        problems = []
        for name, value in list(fields.items()):
            # A certificate is valid only with a key.
            own_key = {"privateKey": fields["privateKey"]} if "privateKey" in fields else {}
            errors = self._load({"targets": self._apart(_VALID | {"tunnels": []} | own_key | {name: value})}).errors
            if errors:
                problems.append(f"{name} {shown(str(value))}: {errors[0].message}")
                del fields[name]
                if name in _ROUTE:
                    fields.pop("host", None)
        return problems

    def _apart(self, fields: Fields) -> Fields:
        """Return targets: these fields, and before them the first jump host if it must be a target of its own."""
        first, rest = _first_hop(fields)
        if "proxyCommand" not in first:
            return {"a": fields}
        route: Fields = {"jumpHosts": ["b", *rest]}
        others = {name: value for name, value in fields.items() if name not in _ROUTE[2:]}
        return {"b": first | {"tunnels": []}, "a": {**others, **route}}

    def _with_named_hop(self, fields: Fields) -> Fields:
        """Make the first jump host a target if it has a `proxyCommand`, which only targets have."""
        first, rest = _first_hop(fields)
        if "proxyCommand" not in first:
            return fields
        name = self._target(str(first["host"]), first)
        others = {key: value for key, value in fields.items() if key not in ("jumpHost", "jumpHosts")}
        return {**others, **({"jumpHosts": [name, *rest]} if rest else {"jumpHost": name})}

    def _load(self, document: object) -> Loaded:
        return load_text(_yaml(document), options=self._options, environ=self._environ)

    def _target(self, host: str, fields: Fields) -> str:
        """Return the name of the target with the same fields, or add one under a new name."""
        base = re.sub(r"[^a-z0-9._-]+", "-", host.lower()).strip("._-")[: _NAME_MAX - 3] or "target"
        name = _first_numbered(base, lambda name: self._targets.get(name, (fields, []))[0] == fields)
        self._targets.setdefault(name, (fields, []))
        return name

    def _tunnel(self, target: str, entry: Fields, label: str) -> str:
        """Add a tunnel. Returns a message if it cannot be added, else ""."""
        loaded = self._alone(target, entry)
        if waived := [error.code for error in loaded.errors if error.code in WAIVABLE_ERRORS]:
            # The command asks for exactly this, as ssh would do it.
            entry = entry | {"x-allow": [str(code) for code in waived]}
            self.notes.append(f"{label}: {loaded.errors[0].message.partition(':')[0]}: `x-allow` permits it, as in ssh")
            loaded = self._alone(target, entry)
        if loaded.errors:
            return f"{label}: {loaded.errors[0].message}"
        spec = next(iter(loaded.desired.tunnels.values()))
        tunnels = self._targets[target][1]
        if any(entry == {key: value for key, value in other.items() if key != "name"} for other in tunnels):
            return ""  # duplicate
        if self._taken.meets(spec.listen):
            return f"{label}: another tunnel already listens on {spec.listen}"
        self._taken.add(spec.listen)
        names = self._names.setdefault(target, set())
        name = _first_numbered(spec.name, lambda name: name not in names)
        names.add(name)
        tunnels.append(entry if name == spec.name else {"name": name} | entry)
        return ""

    def _alone(self, target: str, entry: Fields) -> Loaded:
        return self._load({"targets": {target: _VALID | {"tunnels": [entry]}}})


def _first_numbered(base: str, fits: Callable[[str], bool]) -> str:
    """Return the first of the names `base`, `base-2`, `base-3`, ... that fits."""
    return next(filter(fits, chain((base,), (f"{base}-{number}" for number in count(2)))))


def _first_hop(fields: Fields) -> tuple[Fields, list[object]]:
    hops = fields.get("jumpHosts") or [fields.get("jumpHost")]
    first, *rest = hops if isinstance(hops, list) else [None]
    return (first if isinstance(first, dict) else {}), rest


def _yaml(value: object) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100)


def _flow(value: object) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, default_flow_style=True, width=1000).strip()


def _indented(text: str) -> str:
    return "".join(f"  {line}\n" for line in text.splitlines())
