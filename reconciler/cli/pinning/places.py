"""Where the host keys of a server belong: the name to show, the mapping in a file, and the lines to paste there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

from reconciler.cli.host_keys import FetchedKey, Server
from reconciler.config.load import Loaded
from reconciler.config.problem import ConfigError
from reconciler.config.syntax.config_files import find as find_file
from reconciler.config.syntax.list_edit import Path, find, lines_of
from reconciler.config.syntax.nodes import Items, Node, Scalar, Table
from reconciler.config.syntax.yaml_reader import read

HOST_KEYS = "hostKeys"
BY_HAND = "paste the lines of `tunnels trust` by hand"
_HOSTS = ("host", "hosts")


class CannotPinError(Exception):
    """A key cannot be added. The message says why, and what to do."""


class Places:
    """The places of servers in the files that were loaded."""

    def __init__(self, loaded: Loaded) -> None:
        self._loaded = loaded

    def name(self, server: Server) -> str:
        """Return the target that the key is pinned in: the server's own, or the target used as a jump host."""
        owner = self._owner(server)
        return owner or f"jump host {server.number + 1} of {server.target.name}"

    def _owner(self, server: Server) -> str:
        access = server.target.access
        if server.number == len(access.via):
            return server.target.name
        if any(_paths_of_jump_host(find(root, ("targets", server.target.name)), server) for root, _ in self._contents):
            return ""
        for target in self._loaded.desired.targets.values():
            if target.access.hop == server.hop and target.access.via == access.via[: server.number]:
                return target.name
        return ""

    def path(self, root: Table, server: Server) -> Path:
        """Return the path of the mapping in this file that defines the server. Raises CannotPinError."""
        owner = self._owner(server)
        name = owner or server.target.name
        target = find(root, ("targets", name))
        if not isinstance(target, Table) or all(target.get(key) is None for key in _HOSTS):
            raise CannotPinError(f"`targets.{name}` has no `host` in this file: name the file that has it")
        if owner:
            return "targets", owner
        found = _paths_of_jump_host(target, server)
        if len(found) != 1:
            raise CannotPinError(f"its fields are not in `targets.{name}`: {BY_HAND}")
        return ("targets", name, *found[0])

    def lines(self, server: Server, keys: Sequence[str]) -> str:
        """Return the lines to paste, in the style and at the indentation of the file that defines the server."""
        for root, text in self._contents:
            try:
                table = find(root, self.path(root, server))
            except CannotPinError:
                continue
            if isinstance(table, Table) and table.entries:
                return lines_of(table, text, HOST_KEYS, keys)
        return "\n".join(["    hostKeys:", *(f"      - {key}" for key in keys)])

    @cached_property
    def _contents(self) -> list[tuple[Table, str]]:
        """The parsed content and the text of each valid file that can be read again."""
        contents = []
        for result in self._loaded.files:
            if result.valid and not result.path.startswith(("-", "<", "/dev/")):
                found = find_file(result.path)
                try:
                    contents.append((read(found.data, found.name)[0], found.data.decode("utf-8-sig")))
                except (ConfigError, UnicodeDecodeError):  # the file has changed since it was loaded
                    continue
        return contents

    def to_pin(self, names: Sequence[str], fetched: Sequence[FetchedKey]) -> Iterator[tuple[str, list[FetchedKey]]]:
        """Yield each place of these targets once, with its name and the keys of all of its hosts."""
        by_server = {one.server.key: one for one in fetched}
        seen: set[str] = set()
        for name in names:
            target = self._loaded.desired.targets[name]
            for number, hop in enumerate((*target.access.via, target.access.hop)):
                servers = [Server(target, number, endpoint) for endpoint in hop.hosts]
                place = self.name(servers[0])
                if place not in seen:
                    seen.add(place)
                    yield place, [FetchedKey.of(server, by_server[server.key]) for server in servers]


def _paths_of_jump_host(target: Node | None, server: Server) -> list[Path]:
    """Return the paths of the jump hosts in the mapping of the target that have the address of this server."""
    hops = _inline_hops(target) if isinstance(target, Table) else ()
    return [path for path, hop in hops if server.endpoint.host in _hosts_of(hop)]


def _inline_hops(target: Table) -> Iterator[tuple[Path, Table]]:
    """Yield each jump host that is a mapping in the target, not the name of another target, and its path."""
    single, several = target.get("jumpHost"), target.get("jumpHosts")
    if isinstance(single, Table):
        yield ("jumpHost",), single
    if isinstance(several, Items):
        for number, one in enumerate(several.values):
            if isinstance(one, Table):
                yield ("jumpHosts", number), one


def _hosts_of(hop: Table) -> set[str]:
    nodes: list[Node | None] = [hop.get("host")]
    if isinstance(several := hop.get("hosts"), Items):
        nodes += several.values
    return {text for node in nodes if isinstance(node, Scalar) for text in (node.text, node.text.rpartition(":")[0])}
