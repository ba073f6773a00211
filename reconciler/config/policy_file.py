"""Reads the policy file: YAML to `FilePolicy`, or problems with their lines.

Owns the last good content: while the file is bad, that one stays in force. The file is read like tunnels.yaml (no
aliases, no duplicate keys), but has no variables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from os.path import abspath
from pathlib import Path

from reconciler.config.options import UnknownHomeError, absolute
from reconciler.config.problem import ConfigError, ErrorCode, Location, Problem, by_place
from reconciler.config.schema.values import duration
from reconciler.config.schema.violations import dotted, violations
from reconciler.config.syntax.config_files import Listing, digest, read_all
from reconciler.config.syntax.nodes import Items, Node, Scalar, Table
from reconciler.config.syntax.yaml_reader import read
from reconciler.core.rules.access import DestinationRule, parse_rule
from reconciler.core.rules.file_policy import (
    NO_PLACES,
    FilePolicy,
    FileRule,
    Glob,
    PermittedPlaces,
    TypePolicy,
    address_rule,
)

_TYPES = ("local", "remote", "socks")
_PATH_STARTS = ("/", "~", "./", "../")


@dataclass(frozen=True, slots=True)
class PolicyState:
    """The policy in force, None if there was never a valid one; and the problems with the present content."""

    policy: FilePolicy | None
    problems: tuple[Problem, ...]


NO_POLICY = PolicyState(None, ())


class PolicyFile:
    """A policy file, which can be read again. `path` is as given."""

    def __init__(self, path: str, environ: Mapping[str, str]) -> None:
        self.path = path
        self.place = abspath(path)  # noqa: PTH100 - Path.absolute keeps `..`
        self._environ = environ
        self._digest = ""
        self._state = NO_POLICY

    def read(self) -> PolicyState:
        """Read the file. The result is the identical object as long as the content is the same."""
        [found] = read_all(Listing("", (self.path,)))
        if found.problem is not None:
            self._digest = ""
            self._state = PolicyState(self._state.policy, (found.problem,))
        elif (content := digest(found.data)) != self._digest:
            self._digest = content
            try:
                self._state = PolicyState(self._parsed(found.data), ())
            except ConfigError as error:
                self._state = PolicyState(self._state.policy, by_place(error.problems))
        return self._state

    def _parsed(self, data: bytes) -> FilePolicy:
        root, problems = read(data, self.path)
        problems += violations(root, self.path, "policy")
        if problems:
            raise ConfigError(*problems)
        builder = _Builder(self.path, str(Path(self.place).parent), self._environ)
        policy = FilePolicy(self.path, tuple(builder.rules(root)))
        if builder.problems:
            raise ConfigError(*builder.problems)
        return policy


class _Builder:
    """Turns the nodes into rules. A wrong value goes to `problems`."""

    def __init__(self, file: str, directory: str, environ: Mapping[str, str]) -> None:
        self.file = file
        self.directory = directory
        self.environ = environ
        self.problems: list[Problem] = []

    def rules(self, root: Table) -> Iterator[FileRule]:
        for index, node in enumerate(_values(root.get("rules"))):
            if isinstance(node, Table):
                yield self._rule(node, dotted("rules", index))

    def _rule(self, table: Table, path: str) -> FileRule:
        files = [(text, at) for text, at in _texts(table.get("files"), Location(self.file, path=f"{path}.files"))]
        targets = table.get("targets")
        targets = targets if isinstance(targets, Table) else Table(())
        expires, commands = table.get("expiresWithin"), table.get("commands")
        return FileRule(
            at=f"{self.file}:{table.line}",
            names=tuple(Glob(text, text) for text, _ in files if "/" not in text),
            file_paths=tuple(self._path(text, at) for text, at in files if "/" in text),
            define=self._globs(targets, "define", f"{path}.targets"),
            use=self._globs(targets, "use", f"{path}.targets"),
            servers=self._places(table, "servers", path, _destination),
            types=tuple(
                (kind, self._type(node, f"{path}.{kind}"))
                for kind in _TYPES
                if isinstance(node := table.get(kind), Table)
            ),
            expires_within=duration(expires) if expires is not None else None,
            paths=tuple(self._path(text, at) for text, at in self._items(table, "paths", path)),
            variables=self._globs(table, "variables", path),
            commands=isinstance(commands, Scalar) and commands.value is True,
        )

    def _type(self, table: Table, path: str) -> TypePolicy:
        listen = self._places(table, "listen", path, address_rule)
        return TypePolicy(listen, self._places(table, "destinations", path, _destination))

    def _places(self, table: Table, name: str, path: str, parse: Callable[[str], DestinationRule]) -> PermittedPlaces:
        items = list(self._items(table, name, path))
        if not items:
            return NO_PLACES
        addresses = (self._address(text, at, parse) for text, at in items if not text.startswith(_PATH_STARTS))
        return PermittedPlaces(
            tuple(rule for rule in addresses if rule is not None),
            tuple(self._path(text, at) for text, at in items if text.startswith(_PATH_STARTS)),
        )

    def _address(self, text: str, at: Location, parse: Callable[[str], DestinationRule]) -> DestinationRule | None:
        try:
            return parse(text)
        except ValueError as error:
            self.problems.append(Problem.at(at, str(error), ErrorCode.VALUE))
            return None

    def _path(self, text: str, at: Location) -> Glob:
        try:
            return Glob(text, absolute(text, self.directory, self.environ))
        except UnknownHomeError as error:
            self.problems.append(Problem.at(at, str(error), ErrorCode.VALUE))
            return Glob(text, text)

    def _globs(self, table: Table, name: str, path: str) -> tuple[Glob, ...]:
        return tuple(Glob(text, text) for text, _ in self._items(table, name, path))

    def _items(self, table: Table, name: str, path: str) -> Iterator[tuple[str, Location]]:
        return _texts(table.get(name), Location(self.file, path=f"{path}.{name}"))


def _destination(text: str) -> DestinationRule:
    return parse_rule(text, lowest_port=1)


def _values(node: Node | None) -> tuple[Node, ...]:
    return node.values if isinstance(node, Items) else ()


def _texts(node: Node | None, at: Location) -> Iterator[tuple[str, Location]]:
    for index, item in enumerate(_values(node)):
        if isinstance(item, Scalar):
            yield item.text, replace(at, line=item.line, column=item.column, path=dotted(at.path, index))
