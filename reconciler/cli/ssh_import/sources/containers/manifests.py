"""YAML and JSON that start containers or commands: compose files, Kubernetes manifests, CI jobs."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping

from reconciler.cli.ssh_import.sources.collector import Collector
from reconciler.cli.ssh_import.sources.containers.container import Container, exec_form, mount, port_note
from reconciler.cli.ssh_import.sources.containers.yaml_tree import NotYamlError, Tree, documents
from reconciler.cli.ssh_import.sources.place import Source
from reconciler.cli.ssh_import.sources.shell.template import replace
from reconciler.cli.ssh_import.sources.values import Argument, Launch, Unknown, no_value

_REFERENCE = re.compile(r"\$\$|\$\(([A-Za-z_][A-Za-z0-9_.-]*)\)")
_NAMED = re.compile(r"\$\{(\w+)\}")
_ENTRYPOINTS = ("entrypoint", "entryPoint")
_SHELL_KEYS = ("run", "script", "shell", "cmd", "before_script", "win_command", "exec", "ansible.builtin.shell")
_CONTAINER_KEYS = frozenset({"image", "command", "args", "environment", "env", *_ENTRYPOINTS})
_PATH_MAX = 200


def read(collector: Collector, source: Source) -> None:
    prefix = f"{source.name} ".lstrip()
    try:
        trees = documents(source.text, collector.budget)
    except NotYamlError as error:
        place = f"{source.name} {error}".strip() or "input"
        collector.say(f"{place}: not valid YAML: correct it, or give only the command")
        return
    for tree in trees:
        is_compose = isinstance(tree, dict) and isinstance(tree.get("services"), dict)
        is_kubernetes = isinstance(tree, dict) and "apiVersion" in tree
        _Walk(collector, prefix, is_compose, is_kubernetes).visit(tree, "")


class _Walk:
    """Goes through a document and takes each container and shell command."""

    def __init__(self, collector: Collector, prefix: str, is_compose: bool, is_kubernetes: bool) -> None:
        self._collector = collector
        self._prefix = prefix
        self._is_compose = is_compose
        self._is_kubernetes = is_kubernetes
        self._seen: set[int] = set()

    def visit(self, tree: Tree, path: str) -> None:
        if isinstance(tree, str) or id(tree) in self._seen:
            return  # an alias of what was visited
        self._seen.add(id(tree))
        if isinstance(tree, list):
            for number, item in enumerate(tree):
                name = item.get("name") if isinstance(item, dict) else None
                self.visit(item, _below(path, name if isinstance(name, str) else str(number)))
            return
        if not _CONTAINER_KEYS.isdisjoint(tree):
            self._container(tree, path)
        for key in _SHELL_KEYS:
            self._shell(tree.get(key, ""), _below(path, key))
        for key, value in tree.items():
            self.visit(value, _below(path, key))

    def _place(self, path: str) -> str:
        return f"{self._prefix}{path}"

    def _shell(self, value: Tree, path: str) -> None:
        lines = value if isinstance(value, list) else [value]
        text = "\n".join(line for line in lines if isinstance(line, str))
        if "ssh" in text:
            self._collector.shell(Launch(self._place(path), ()), text)

    def _container(self, tree: dict[str, Tree], path: str) -> None:
        environment = self._environment(tree)
        key = next((one for one in (*_ENTRYPOINTS, "command", "args") if tree.get(one)), "environment")
        where = self._place(_below(path, key))
        entrypoints = [tree[one] for one in _ENTRYPOINTS if tree.get(one)]
        first: Tree = entrypoints[0] if entrypoints else ""
        second: Tree = tree.get("command", "")
        if self._is_kubernetes or "args" in tree:
            first, second = second, tree.get("args", "")
        main = first or second
        if isinstance(main, str) and not (self._is_compose or self._is_kubernetes or "image" in tree):
            self._shell(main, _below(path, key))  # of a CI job or a playbook
            return
        entrypoint, command = self._words(first, environment), self._words(second, environment)
        image = tree.get("image", "")
        self._collector.budget.spend(len(environment) + len(entrypoint) + len(command))
        container = Container(
            where,
            image if isinstance(image, str) else "",
            entrypoint or None,
            command,
            environment,
            _mounts(tree.get("volumes", "")),
            _notes(tree),
        )
        launch = container.launch()
        if launch is not None:
            self._collector.take(launch)

    # --- values ---------------------------------------------------------------------------------------------------

    def _text(self, text: str, environment: Mapping[str, Argument]) -> Argument:
        """Replace the variables of a text as compose or Kubernetes does."""
        if self._is_compose:
            return replace(text, self._collector.environ, self._collector.budget)
        return self._referred(text, environment) if self._is_kubernetes else Argument(text)

    def _words(self, value: Tree, environment: Mapping[str, Argument]) -> list[Argument]:
        if isinstance(value, list):
            plain = [self._text(item, environment) for item in value if isinstance(item, str)]
            literal = exec_form([one.text for one in plain])
            return [Argument(one.text, one.unknown or two.unknown) for one, two in zip(plain, literal, strict=True)]
        whole = self._text(value, environment) if isinstance(value, str) else Argument("")
        try:
            words = shlex.split(whole.text)
        except ValueError:
            return [Argument("sh"), Argument("-c"), Argument(whole.text, whole.unknown)]
        return [self._piece(word, whole) for word in words]

    @staticmethod
    def _piece(word: str, whole: Argument) -> Argument:
        """Return a word of a text. It is unknown if it contains a variable without a value."""
        if whole.unknown is None:
            return exec_form([word])[0]
        found = _NAMED.search(word)
        if found is None:
            return Argument(word)
        is_it = whole.unknown.variable == found[1]
        return Argument(word, whole.unknown if is_it else no_value(found[1]))

    def _referred(self, text: str, environment: Mapping[str, Argument]) -> Argument:
        unknown: list[Unknown] = []

        def value(found: re.Match[str]) -> str:
            if found[1] is None:
                return "$"
            known = environment.get(found[1])
            if known is None or known.unknown is not None:
                unknown.append((known.unknown if known else None) or no_value(f"$({found[1]})"))
                return found[0]
            return known.text

        made = _REFERENCE.sub(value, text) if "$" in text else text
        self._collector.budget.spend(len(made))
        return Argument(made, unknown[0] if unknown else None)

    def _environment(self, tree: dict[str, Tree]) -> dict[str, Argument]:
        """Read a mapping, a list of NAME=VALUE, or a list of `name` and `value`."""
        found = tree.get("environment") or tree.get("env") or ""
        made: dict[str, Argument] = {}
        if isinstance(found, dict):
            for name, content in found.items():
                made[name] = self._text(content if isinstance(content, str) else "", made)
        for item in found if isinstance(found, list) else ():
            if isinstance(item, str):
                name, equals, text = item.partition("=")
                given = self._collector.environ.get(name, Argument(f"${{{name}}}", no_value(name)))
                made[name] = self._text(text, made) if equals else given
            elif isinstance(item, dict) and isinstance(variable := item.get("name"), str):
                value = item.get("value")
                reason = f"`{variable}` comes from another object (`valueFrom`): write its value in its place"
                unknown = Argument(f"$({variable})", Unknown(reason, variable))
                made[variable] = self._text(value, made) if isinstance(value, str) else unknown
        return made


def _below(path: str, name: str) -> str:
    return f"{path}.{name}"[-_PATH_MAX:].lstrip(".")


def _mounts(value: Tree) -> dict[str, str]:
    made: dict[str, str] = {}
    for item in value if isinstance(value, list) else ():
        if isinstance(item, str):
            made |= mount(item)
        elif isinstance(item, dict):
            source, target = item.get("source"), item.get("target")
            if isinstance(source, str) and isinstance(target, str):
                made[target] = source
    return made


def _notes(tree: dict[str, Tree]) -> tuple[str, ...]:
    ports = tree.get("ports")
    return tuple(port_note(port) for port in ports if isinstance(port, str)) if isinstance(ports, list) else ()
