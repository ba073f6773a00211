"""Reads the configuration that a program gives: a path, the text of a file, or its content as a mapping."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import TypeAlias

from reconciler.config.load import Loaded, load_files, load_text
from reconciler.config.options import Options
from reconciler.config.problem import ConfigError, ErrorCode, Location, Problem
from reconciler.system.redaction import redact

Source: TypeAlias = str | os.PathLike[str] | Mapping[str, object]
"""A path of a file or directory; the text of a file, a `str` with a line end or a `}` at its end; or its content."""

_MAPPING = "<mapping>"
_TEXT = "<text>"
# YAML folds or refuses some characters of JSON strings. Surrogates stay: the reader refuses them.
_ESCAPED = re.compile(r"[^\x00-\x7e\ud800-\udfff]")


class Reader:
    """Reads the configurations of one block."""

    def __init__(self, environ: Mapping[str, str], options: Options | None) -> None:
        self._environ = environ
        self._options = options

    def read(self, source: Source) -> Loaded:
        """Return the desired state. Raises ConfigError, with the values of variables hidden, and TypeError."""
        loaded = self._load(source)
        if loaded.errors:
            raise ConfigError(*(replace(one, message=redact(one.message)) for one in loaded.errors))
        return loaded

    def _load(self, source: Source) -> Loaded:
        if isinstance(source, Mapping):
            try:
                # JSON is YAML: the mapping goes through the same reader, schema and messages as a file.
                text = json.dumps(source, default=_plain, allow_nan=False, ensure_ascii=False)
            except (TypeError, ValueError, RecursionError) as error:
                raise ConfigError(Problem.at(Location(_MAPPING), _why(error), ErrorCode.SYNTAX)) from None
            return self._of_text(_ESCAPED.sub(_escape, text), _MAPPING)
        if isinstance(source, str) and (source.rstrip().endswith("}") or "\n" in source or "\r" in source):
            return self._of_text(source, _TEXT)
        if not isinstance(source, str | os.PathLike):
            raise TypeError(f"expected a path, the text of a file or a mapping, got {type(source).__name__}")
        return load_files([os.fsdecode(source)], environ=self._environ, options=self._options)

    def _of_text(self, text: str, name: str) -> Loaded:
        return load_text(text, name, environ=self._environ, options=self._options, directory=str(Path.cwd()))


def _plain(value: object) -> object:
    """Return a value of a mapping in the types of JSON. Raises TypeError."""
    match value:
        case os.PathLike():
            return os.fspath(value)
        case Mapping():
            return dict(value)
        case AbstractSet():
            return sorted(value)
        case date():
            return value.isoformat()
        case _:
            raise TypeError(f"a value has the type {type(value).__name__}: expected a type that YAML has")


def _escape(character: re.Match[str]) -> str:
    return f"\\U{ord(character[0]):08x}"


def _why(error: Exception) -> str:
    match error:
        case ValueError() | RecursionError():
            return "a value contains itself, or is not a finite number: expected plain data"
        case _:
            return str(error)
