"""Secrets: a field's node -> where its content comes from (`core.secret.Source`).

The content is not read here, except that a missing file or variable is a warning: a machine that only checks need not
have it. In: nodes and the restrictions of the command line. Out: sources, warnings, errors for what may not be named.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path

from reconciler.config.build.fields import Fields
from reconciler.config.deadline import check
from reconciler.config.options import Options, absolute
from reconciler.config.problem import ErrorCode, Place, WarningCode
from reconciler.config.schema.values import InvalidValueError, UnsetVariableError, filled
from reconciler.config.schema.variables import Variables
from reconciler.config.syntax.nodes import Entry, Items, Node, Scalar, Table
from reconciler.core.secret import FromEnv, FromFile, Inline, Secret, Source
from reconciler.system.file_calls import FILES
from reconciler.system.read_file import NotRegularFileError, open_regular

_KEY_BEGINS = "-----BEGIN "
_LOOK, _LOOK_MIN = 1.0, 0.05  # seconds for a look at a path


class Sources:
    """Makes sources for the fields of one file. `directory` is where its relative paths start."""

    def __init__(self, directory: str, environ: Mapping[str, str], options: Options) -> None:
        self.directory = directory
        self.environ = environ
        self.secrets_dir = options.secrets_dir
        self.secrets_dir_only = bool(options.secrets_dir) and options.secrets_dir_only
        self.variables = Variables(environ, options)

    def path(self, node: Node) -> str:
        """A path of the file, absolute."""
        return absolute(filled(node), self.directory, self.environ)

    def secret(self, fields: Fields, name: str) -> Source | None:
        """A password or passphrase."""
        return fields.find(name, lambda node: self._source(fields, name, node, self._literal), None)

    def key(self, fields: Fields, name: str) -> Source | None:
        """A key or a certificate: text is a path, unless it is the thing itself."""
        return fields.find(name, lambda node: self._source(fields, name, node, self._path_or_key), None)

    def keys(self, fields: Fields, name: str) -> tuple[Source, ...]:
        """One key or several."""

        def parse(node: Node) -> tuple[Source, ...]:
            nodes = node.values if isinstance(node, Items) else (node,)
            found = (self._source(fields, name, one, self._path_or_key) for one in nodes)
            return tuple(source for source in found if source is not None)

        return fields.find(name, parse, ())

    def agent_refusal(self, socket: str) -> str:
        """Why the agent at that socket ("": the one of $SSH_AUTH_SOCK) may not be asked, or ""."""
        path = socket or self.environ.get("SSH_AUTH_SOCK", "")
        if not self.secrets_dir_only or (path and _lies_in(path, self.secrets_dir)):
            return ""
        said = f"the agent at {socket}" if socket else "the agent of $SSH_AUTH_SOCK"
        return f"{said} may not be asked: --secrets-dir-only takes only one whose socket is in {self.secrets_dir}"

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
        """Whether a value that is wholly one variable is the secret itself, rather than a path to it."""
        return bool(node.unset) or not node.text or self.is_literal(node.text)

    def is_literal(self, text: str) -> bool:
        return _KEY_BEGINS in text or "\n" in text.strip()

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
                    raise InvalidValueError("takes one of `file` and `env`: {file: path} or {env: NAME} is right")
                return None  # said as an unknown key

    def _literal(self, fields: Fields, name: str, node: Scalar) -> Source:
        if node.whole:
            return FromEnv(node.whole)
        if not node.text:
            raise InvalidValueError("is empty", node)
        message = "a secret stands in the file: {file: …} or {env: …} keep it out"
        fields.report.warn(_at(fields, name, node), message, WarningCode.LITERAL_SECRET, *fields.beside(name))
        return Inline(Secret(node.text))

    def _path_or_key(self, fields: Fields, name: str, node: Scalar) -> Source:
        if self.is_literal(node.text):
            return self._literal(fields, name, node)
        # A key without its lines, as in base64, may have been put there by mistake.
        is_doubtful = node.whole and not node.text.startswith(("/", "~", "."))
        return FromFile(self.path(node), node.whole if is_doubtful else "", self.secrets_dir)

    def _checked(self, fields: Fields, name: str, node: Node, source: Source) -> Source:
        place = _at(fields, name, node)
        beside = (*fields.beside(name), *([node] if isinstance(node, Table) else []))
        match source:
            case FromFile(path):
                if self.secrets_dir and not _lies_in(path, self.secrets_dir):
                    message = f"{source} may not be read: --secrets-dir allows {self.secrets_dir}"
                    fields.report.error(place, message, ErrorCode.FORBIDDEN)
                    fields.invalid_fields.add(name)  # so that nobody looks into it
                elif trouble := unreadable(path, may_be_empty=False):
                    fields.report.warn(place, f"{source}: {trouble}", WarningCode.SECRET_UNREADABLE, *beside)
            case FromEnv() | Inline() if self.secrets_dir_only:
                message = f"{source} may not be a secret: --secrets-dir-only takes only files in {self.secrets_dir}"
                fields.report.error(place, message, ErrorCode.FORBIDDEN)
                fields.invalid_fields.add(name)
            case FromEnv(variable) if not self.environ.get(variable):
                fields.report.warn(place, f"${variable} is not set", WarningCode.SECRET_UNREADABLE, *beside)
            case _:
                pass
        return source


def unreadable(path: str, *, may_be_empty: bool = True) -> str:
    """Why a file cannot be read, or ""."""
    return _looked_at(path, lambda: _trouble(path, may_be_empty=may_be_empty))


def is_socket(path: str) -> bool:
    return not _looked_at(path, lambda: "" if stat.S_ISSOCK(_mode(path)) else "it is none")


def _looked_at(path: str, look: Callable[[], str]) -> str:
    """What `look` says of the path, or that it hangs. With many paths that hang, each gets less time."""
    try:
        return FILES.wait(path, look, max(_LOOK_MIN, _LOOK / (1 + FILES.hanging)))
    except OSError as error:
        return error.strerror or "it cannot be looked at"


def _trouble(path: str, *, may_be_empty: bool) -> str:
    try:
        descriptor = open_regular(path)
    except FileNotFoundError:
        return "there is no such file"
    except PermissionError:
        return "it may not be read"
    except NotRegularFileError as error:
        return "this is a directory" if stat.S_ISDIR(_mode(path)) else str(error.strerror)
    except OSError as error:
        # No descriptor left: that says nothing about the file, and would be said of it until the next edit.
        return "" if error.errno in (errno.EMFILE, errno.ENFILE) else (error.strerror or str(error)).lower()
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        return "" if may_be_empty or file.read(1) else "it is empty"


def _mode(path: str) -> int:
    try:
        return os.stat(path).st_mode  # noqa: PTH116 - beside os.path
    except (OSError, ValueError):
        return 0


def _lies_in(path: str, directory: str) -> bool:
    """Whether the path, and what it leads to, are inside: a link out of the directory is no way around it."""
    root = os.path.realpath(directory)
    lexical = Path(path).is_relative_to(Path(os.path.abspath(directory))) or Path(path).is_relative_to(root)  # noqa: PTH100
    # A path that hangs leads nowhere.
    return lexical and not _looked_at(path, lambda: "" if Path(os.path.realpath(path)).is_relative_to(root) else "out")


def _at(fields: Fields, name: str, node: Node) -> Place:
    place = fields.place(name)
    if isinstance(node, Scalar) and node.line:
        return Place(place.file, node.line, node.column, place.path)
    return place
