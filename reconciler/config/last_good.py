"""Chooses the content of each file that is used: the present one, or the last good one.

Input: the files as read now, and the last good content of each. Output: documents that are valid together. The rejected
file is the one whose change caused the error. The error may be reported in another file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

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
    problems: dict[Problem, None] = field(default_factory=dict)

    def documents(self) -> list[Document]:
        found = (self._document(candidate) for candidate in self.candidates.values())
        return [document for document in found if document is not None]

    def _document(self, candidate: Candidate) -> Document | None:
        return self.good.get(candidate.name) if candidate.name in self.rejected else candidate.document

    def is_changed(self, name: str) -> bool:
        """Return True if rejecting the file would change the choice."""
        candidate = self.candidates.get(name)
        if candidate is None or name in self.rejected:
            return False
        good = self.good.get(name)
        return good is None or candidate.absent or good.digest != candidate.digest

    def reject_named(self, errors: Sequence[Problem]) -> bool:
        """Reject the changed files that these errors name. Return False if there is none."""
        culprits = {p.file for p in errors if self.is_changed(p.file)}
        culprits = culprits or {p.other for p in errors if self.is_changed(p.other)}
        self.rejected |= culprits
        return bool(culprits)

    def reject_for(self, errors: Sequence[Problem]) -> bool:
        """Reject the files whose change caused these errors. Return False if none is left to reject."""
        if not errors or self.reject_named(errors):
            return bool(errors)
        # A file that others depend on was changed or removed. The errors are in those others, which did not change.
        culprits = {name for name in self.candidates if self.is_changed(name)}
        self.rejected |= culprits
        return bool(culprits)
