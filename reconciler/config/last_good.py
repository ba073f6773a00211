"""Chooses the content of each file that is used: the present one, or the last good one.

Input: the files as read now, and the last good content of each. Output: documents that are valid together. The rejected
file is the changed one that causes the error. The error may be reported in another file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from reconciler.config.build.merge import Document
from reconciler.config.problem import Problem


@dataclass(frozen=True, slots=True)
class Candidate:
    """One file as read now.

    document  None if the file could not be parsed
    absent    the file was removed from its directory

    A directory that has never had a file is a candidate itself.
    """

    name: str
    document: Document | None
    problems: tuple[Problem, ...]
    digest: str
    absent: bool = False


@dataclass(slots=True)
class LastGood:
    """The choice for each file: its new content, unless that is rejected."""

    candidates: dict[str, Candidate]
    good: Mapping[str, Document]
    rejected: set[str]

    def documents(self) -> list[Document]:
        """Return the chosen content of each file."""
        found = (self._document(candidate) for candidate in self.candidates.values())
        return [document for document in found if document is not None]

    def _document(self, candidate: Candidate) -> Document | None:
        return self.good.get(candidate.name) if candidate.name in self.rejected else candidate.document

    def as_written(self, without: str = "") -> list[Document]:
        """Return the content of each file as it is now. `without`: a file that gets its last good content.

        A file that cannot be parsed has its last good content too.
        """
        found = (
            self.good.get(candidate.name)
            if candidate.name == without
            else None
            if candidate.absent
            else candidate.document or self.good.get(candidate.name)
            for candidate in self.candidates.values()
        )
        return [document for document in found if document is not None]

    def changed(self) -> frozenset[str]:
        """Return the files that differ from their last good content and are not rejected."""
        return frozenset(filter(self.is_changed, self.candidates))

    def is_changed(self, name: str) -> bool:
        """Return True if rejecting the file would change the choice."""
        candidate = self.candidates.get(name)
        if candidate is None or name in self.rejected:
            return False
        good = self.good.get(name)
        return good is None or candidate.absent or good.digest != candidate.digest
