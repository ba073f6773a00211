"""Turns the node of a secret into a `core.secret.Source`, which says where its content comes from.

Input: nodes and the restrictions of the command line. Output: sources, warnings, and errors for sources that are not
permitted. The content is not used here. A missing file or variable is only a warning, because a machine that runs
`check` need not have it.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path

from reconciler.config.build.fields import Fields
from reconciler.config.deadline import check
from reconciler.config.options import Options, UnknownHomeError, absolute
from reconciler.config.problem import ErrorCode, Location, WarningCode
from reconciler.config.schema.values import InvalidValueError, UnknownDirectoryError, UnsetVariableError, filled, scalar
from reconciler.config.schema.variables import Variables
from reconciler.config.syntax.nodes import Entry, Items, Node, Scalar, Table
from reconciler.core.secret import FromEnv, FromFile, Inline, Secret, Source
from reconciler.core.text.key_text import is_key
from reconciler.system.file_calls import FILES
from reconciler.system.read_file import NotRegularFileError, open_regular

_KEY_BEGINS = "-----BEGIN "
_INSPECTION, _INSPECTION_MIN = 1.0, 0.05  # seconds to inspect a path, at most and at least


class Sources:
    """Makes sources for the fields of one file. Relative paths start from `directory`."""

    def __init__(self, directory: str, environ: Mapping[str, str], options: Options) -> None:
        self.directory = directory
        self.environ = environ
        self.secrets_dir = options.secrets_dir
        self.secrets_dir_only = bool(options.secrets_dir) and options.secrets_dir_only
        self.variables = Variables(environ, options)

    def path(self, node: Node) -> str:
        """Return a path of the file as an absolute path."""
        try:
            return absolute(filled(node), self.directory, self.environ)
        except UnknownHomeError as error:
            raise UnknownDirectoryError(scalar(node), str(error)) from None

    def secret(self, fields: Fields, name: str) -> Source | None:
        """Return the source of a password or passphrase."""
        return fields.find(name, lambda node: self._source(fields, name, node, self._literal), None)

    def key(self, fields: Fields, name: str) -> Source | None:
        """Return the source of a key or certificate. Text is a path, unless it is the key or certificate itself."""
        return fields.find(name, lambda node: self._source(fields, name, node, self._path_or_key), None)

    def keys(self, fields: Fields, name: str) -> tuple[Source, ...]:
        """Return the sources of one key or of a list of keys."""

        def parse(node: Node) -> tuple[Source, ...]:
            nodes = node.values if isinstance(node, Items) else (node,)
            found = (self._source(fields, name, one, self._path_or_key) for one in nodes)
            return tuple(source for source in found if source is not None)

        return fields.find(name, parse, ())

    def agent_refusal(self, socket: str) -> str:
        """Return why the agent at the socket ("": $SSH_AUTH_SOCK) is not permitted, or ""."""
        path = socket or self.environ.get("SSH_AUTH_SOCK", "")
        if not self.secrets_dir_only or (path and _lies_in(path, self.secrets_dir)):
            return ""
        agent = f"the agent at {socket}" if socket else "the agent of $SSH_AUTH_SOCK"
        return f"{agent} is not permitted: --secrets-dir-only requires a socket in {self.secrets_dir}"

    def _source(
        self, fields: Fields, name: str, node: Node, of_text: Callable[[Fields, str, Scalar], Source]
    ) -> Source | None:
        check()
        match node:
            case Table():
                return self._named(fields, name, node)
            case Scalar(whole=variable) if variable and self._holds_secret(node):
                return self._checked(fields, name, node, FromEnv(variable))
            case Scalar(value=None) | Items():
                raise InvalidValueError(node=node)
            case Scalar() if node.unset:
                raise UnsetVariableError(node)
            case Scalar(value=bool(), variables=()):
                raise InvalidValueError(node=node)
            case Scalar():
                return self._checked(fields, name, node, of_text(fields, name, node))

    def _holds_secret(self, node: Scalar) -> bool:
        """Return True if a value that is one variable and nothing else holds the secret, not a path to it."""
        return bool(node.unset) or not node.text or self.is_literal(node.text)

    def is_literal(self, text: str) -> bool:
        return _KEY_BEGINS in text or "\n" in text.strip() or is_key(text)

    def _named(self, fields: Fields, name: str, node: Table) -> Source | None:
        match [entry for entry in node if not entry.key.startswith("x-")]:
            case [Entry(key="file", value=value)]:
                return self._checked(fields, name, node, FromFile(self.path(value), within=self.secrets_dir))
            case [Entry(key="env", value=value)]:
                variable = filled(value)
                if refusal := self.variables.refusal(variable):
                    fields.error(name, refusal, ErrorCode.FORBIDDEN)
                    fields.invalid_fields.add(name)
                self.variables.hide(variable)
                return self._checked(fields, name, node, FromEnv(variable))
            case entries:
                if all(entry.key in ("file", "env") for entry in entries):
                    raise InvalidValueError("expected exactly one of `file` and `env`")
                return None  # reported as an unknown key

    def _literal(self, fields: Fields, name: str, node: Scalar) -> Source:
        if node.whole:
            return FromEnv(node.whole)
        if not node.text:
            raise InvalidValueError("empty secret: expected text", node)
        message = "secret in the configuration file: use {file: …} or {env: …}"
        fields.report.warn(_at(fields, name, node), message, WarningCode.LITERAL_SECRET, *fields.beside(name))
        return Inline(Secret(node.text))

    def _path_or_key(self, fields: Fields, name: str, node: Scalar) -> Source:
        if node.text.lower().startswith("pkcs11:"):
            agent = "add the token to an SSH agent (ssh-add -s LIBRARY), and name the .pub file of its key"
            raise InvalidValueError(f"keys of hardware tokens (PKCS #11) are not read: {agent}", node)
        if self.is_literal(node.text):
            return self._literal(fields, name, node)
        # The variable may hold a key without line breaks, as in base64, by mistake.
        is_doubtful = node.whole and not node.text.startswith(("/", "~", "."))
        return FromFile(self.path(node), node.whole if is_doubtful else "", self.secrets_dir)

    def _checked(self, fields: Fields, name: str, node: Node, source: Source) -> Source:
        place = _at(fields, name, node)
        beside = (*fields.beside(name), *([node] if isinstance(node, Table) else []))
        match source:
            case FromFile(path):
                if self.secrets_dir and not _lies_in(path, self.secrets_dir):
                    message = f"{source} is not permitted: --secrets-dir requires a file in {self.secrets_dir}"
                    fields.report.error(place, message, ErrorCode.FORBIDDEN)
                    fields.invalid_fields.add(name)  # so that it is not opened
                elif fault := unreadable(path, may_be_empty=False):
                    fields.report.warn(place, f"{source}: {fault}", WarningCode.SECRET_UNREADABLE, *beside)
            case FromEnv() | Inline() if self.secrets_dir_only:
                message = f"{source} is not permitted: --secrets-dir-only requires a file in {self.secrets_dir}"
                fields.report.error(place, message, ErrorCode.FORBIDDEN)
                fields.invalid_fields.add(name)
            case FromEnv(variable) if not self.environ.get(variable):
                fields.report.warn(place, f"${variable} is not set", WarningCode.SECRET_UNREADABLE, *beside)
            case _:
                pass
        return source


def unreadable(path: str, *, may_be_empty: bool = True) -> str:
    """Return why a file cannot be read, or ""."""
    return _inspect(path, lambda: _fault(path, may_be_empty=may_be_empty))


def is_socket(path: str) -> bool:
    return not _inspect(path, lambda: "" if stat.S_ISSOCK(_mode(path)) else "not a socket")


def _inspect(path: str, inspection: Callable[[], str]) -> str:
    """Return the result of the inspection, or that the path hangs. If many paths hang, each gets less time."""
    try:
        return FILES.wait(path, inspection, max(_INSPECTION_MIN, _INSPECTION / (1 + FILES.hanging)))
    except OSError as error:
        return error.strerror or "cannot be inspected"


def _fault(path: str, *, may_be_empty: bool) -> str:
    try:
        descriptor = open_regular(path)
    except FileNotFoundError:
        return "no such file"
    except PermissionError:
        return "permission denied"
    except NotRegularFileError as error:
        return "is a directory" if stat.S_ISDIR(_mode(path)) else str(error.strerror)
    except OSError as error:
        # No descriptor is left. That says nothing about the file, and the warning would stay until the next edit.
        return "" if error.errno in (errno.EMFILE, errno.ENFILE) else (error.strerror or str(error)).lower()
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        return "" if may_be_empty or file.read(1) else "file is empty"


def _mode(path: str) -> int:
    try:
        return os.stat(path).st_mode  # noqa: PTH116 - beside os.path
    except (OSError, ValueError):
        return 0


def _lies_in(path: str, directory: str) -> bool:
    """Return True if the path and its resolved path are both in the directory, so that no symlink leads out of it."""
    root = os.path.realpath(directory)
    lexical = Path(path).is_relative_to(Path(os.path.abspath(directory))) or Path(path).is_relative_to(root)  # noqa: PTH100
    return lexical and resolves_into(path, root)


def resolves_into(path: str, directory: str) -> bool:
    """Return True if the resolved path is in the resolved directory. A path that hangs counts as outside."""

    def inspection() -> str:
        return "" if Path(os.path.realpath(path)).is_relative_to(os.path.realpath(directory)) else "out"

    return not _inspect(path, inspection)


def _at(fields: Fields, name: str, node: Node) -> Location:
    place = fields.place(name)
    if isinstance(node, Scalar) and node.line:
        return Location(place.file, node.line, node.column, place.path)
    return place
