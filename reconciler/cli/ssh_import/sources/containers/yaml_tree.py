"""Reads YAML, or JSON, to lists, mappings and texts. Every scalar stays text: `22:22` and `no` are not converted."""

from __future__ import annotations

from collections.abc import Iterator

import yaml

from reconciler.cli.ssh_import.sources.values import WorkBudget

Tree = str | list["Tree"] | dict[str, "Tree"]

_LOADER: type = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_MAX_DEPTH = 60
_NODE = 20  # the cost of a node, in characters


class NotYamlError(Exception):
    """The text is not YAML: the message says where."""


def documents(text: str, budget: WorkBudget) -> list[Tree]:
    """Return the documents of a text. Raises NotYamlError."""
    made: list[Tree] = []
    try:
        reader = _Reader(yaml.parse(text, Loader=_LOADER), budget)
        for event in reader.events:
            if isinstance(event, yaml.DocumentStartEvent):
                reader.anchors.clear()
                made.append(reader.tree(next(reader.events), 0))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        raise NotYamlError(f"line {mark.line + 1}" if mark is not None else "") from None
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError):
        raise NotYamlError("") from None
    return made


class _Reader:
    def __init__(self, events: Iterator[yaml.Event], budget: WorkBudget) -> None:
        self.events = events
        self.anchors: dict[str, Tree] = {}
        self._budget = budget

    def tree(self, event: yaml.Event, depth: int) -> Tree:
        if depth > _MAX_DEPTH:
            raise NotYamlError("nested too deeply")
        self._budget.spend(_NODE)
        made: Tree
        match event:
            case yaml.AliasEvent():
                return self.anchors.get(event.anchor or "", "")
            case yaml.SequenceStartEvent():
                made = []
                while not isinstance(item := next(self.events), yaml.SequenceEndEvent):
                    made.append(self.tree(item, depth + 1))
            case yaml.MappingStartEvent():
                made = self._mapping(depth)
            case _:
                made = str(getattr(event, "value", ""))
        anchor = getattr(event, "anchor", None)
        if anchor:
            self.anchors[anchor] = made
        return made

    def _mapping(self, depth: int) -> dict[str, Tree]:
        own: dict[str, Tree] = {}
        merged: list[Tree] = []
        while not isinstance(item := next(self.events), yaml.MappingEndEvent):
            key = self.tree(item, depth + 1)
            value = self.tree(next(self.events), depth + 1)
            if key == "<<":
                merged += value if isinstance(value, list) else [value]
            elif isinstance(key, str):
                own[key] = value
        for one in merged:
            if isinstance(one, dict):
                self._budget.spend(len(one))
                own = {**one, **own}
        return own
