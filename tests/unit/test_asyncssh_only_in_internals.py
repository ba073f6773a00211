"""Outside of reconciler/ssh/internals, the program uses asyncssh's documented API only."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

import asyncssh
import pytest

from reconciler.ssh.internals import compatibility

PACKAGE = Path(__file__).parents[2] / "reconciler"
INTERNALS = PACKAGE / "ssh/internals"
FILES = [path for path in PACKAGE.rglob("*.py") if INTERNALS not in path.parents]

# Names of seams that this program uses for things of its own, or that are asyncio's.
_COMMON = {
    "_channels",
    "_transport",
    "connection_lost",
    "create_connection",
    "create_task",
    "data_received",
    "decompress",
    "key",
    "pause_writing",
    "process",
    "resume_writing",
}
_SEAMS = {one.name for module in compatibility.MODULES for one in module.SEAMS} - _COMMON
# Lint exceptions for what this test forbids: private members, and methods that are replaced.
_EXCEPTIONS = ("noqa: SLF001", "method-assign")


def violations(text: str) -> Iterator[str]:
    """Yield each use of asyncssh beyond its documented API, with its line."""
    for number, line in enumerate(text.splitlines(), 1):
        if any(exception in line for exception in _EXCEPTIONS):
            yield f"{number}: {line.strip()}"
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Import(names=names) if any(one.name.startswith("asyncssh.") for one in names):
                yield f"{node.lineno}: import of a module of asyncssh"
            case ast.ImportFrom(module="asyncssh", names=names) if not all(_is_public(one.name) for one in names):
                yield f"{node.lineno}: import of a module of asyncssh"
            case ast.ImportFrom(module=str(module)) if module.startswith("asyncssh."):
                yield f"{node.lineno}: import from {module}"
            case ast.Attribute(value=ast.Name(id="asyncssh"), attr=name) if not _is_public(name):
                yield f"{node.lineno}: asyncssh.{name}"
            case ast.Attribute(attr=name) if name in _SEAMS:
                yield f"{node.lineno}: .{name}"
            case ast.Call(func=ast.Name(id="getattr" | "setattr"), args=[_, ast.Constant(value=str(name)), *_]) if (
                name in _SEAMS
            ):
                yield f"{node.lineno}: {name} by getattr or setattr"
            case _:
                pass


def _is_public(name: str) -> bool:
    return not name.startswith("_") and hasattr(asyncssh, name) and not inspect.ismodule(getattr(asyncssh, name))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_no_use_beyond_the_documented_api(path: Path) -> None:
    assert list(violations(path.read_text())) == []


@pytest.mark.parametrize(
    "line",
    [
        "import asyncssh.packet",
        "from asyncssh import packet",
        "from asyncssh.packet import SSHPacket",
        "asyncssh.packet.SSHPacket",
        "asyncssh.connection",
        "connection._inpbuf = b''  # noqa: SLF001 - a reason",
        "connection._inpbuf = b''",
        "connection.send_packet(2)",
        "key.public_data",
        "setattr(connection, '_inpbuf', b'')",
        "connection.data_received = seen  # type: ignore[method-assign]  # a reason",
    ],
)
def test_a_use_is_found(line: str) -> None:
    assert list(violations(line))


@pytest.mark.parametrize("line", ["import asyncssh", "from asyncssh import SSHClient", "asyncssh.connect", "self._one"])
def test_documented_names_are_no_violation(line: str) -> None:
    assert list(violations(line)) == []
