"""The subject of a change, event or log line: a target, a tunnel, or the configuration."""

from __future__ import annotations

from typing import Literal, NamedTuple, cast, get_args

Kind = Literal["target", "tunnel", "config"]


class Subject(NamedTuple):
    """A target, a tunnel, or the configuration. `name`: the target's name or the tunnel's id, "" for `config`.

    `str()` gives the form of logs and JSON: "target prod", "tunnel prod/pg" or "config". It is a named tuple because
    each pass of the reconcile loop makes and hashes one for each target and tunnel.
    """

    kind: Kind
    name: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.name}" if self.name else self.kind

    @classmethod
    def parse(cls, text: str) -> Subject:
        """Return the subject with this text. Raises ValueError if there is none."""
        kind, _, name = text.partition(" ")
        if kind not in get_args(Kind):
            raise ValueError(f"not a subject: {text}")
        return cls(cast("Kind", kind), name)

    @property
    def target(self) -> str:
        """The target's name, or the name of the tunnel's target."""
        return self.name.partition("/")[0]

    @property
    def tunnel(self) -> str | None:
        """The tunnel's id, None for other subjects."""
        return self.name if self.kind == "tunnel" else None


CONFIG = Subject("config")
