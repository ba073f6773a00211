"""Which content of each file is used: what it says now, or what it said when it was last good.

In: the files as read now, and what each last said. Out: the documents that go together. Rejected is the file whose
change led to an error, not the one in which the error shows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from reconciler.config.build.merge import Document
from reconciler.config.problem import Problem


@dataclass(frozen=True, slots=True)
class Candidate:
    """One file as read now. `document` None: it gave nodes to nobody. `absent`: gone from its directory, for good.

    A directory that holds none, and never did, stands here itself.
    """

    name: str
    document: Document | None
    problems: tuple[Problem, ...]
    digest: str
    absent: bool = False


@dataclass(slots=True)
class LastGood:
    """Which content of each file is used: its new one, unless rejected."""

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
        """Whether rejecting the file would make a difference."""
        candidate = self.candidates.get(name)
        if candidate is None or name in self.rejected:
            return False
        good = self.good.get(name)
        return good is None or candidate.absent or good.digest != candidate.digest

    def reject_named(self, errors: Sequence[Problem]) -> bool:
        """Reject the files whose change these errors name; False if they name none that is left to reject."""
        guilty = {p.file for p in errors if self.is_changed(p.file)}
        guilty = guilty or {p.other for p in errors if self.is_changed(p.other)}
        self.rejected |= guilty
        return bool(guilty)

    def reject_for(self, errors: Sequence[Problem]) -> bool:
        """Reject the files whose change led to these errors; False if there is none left to reject."""
        if not errors or self.reject_named(errors):
            return bool(errors)
        # A file that others lean on was changed or removed: the errors are in those others, which did not change.
        guilty = {name for name in self.candidates if self.is_changed(name)}
        self.rejected |= guilty
        return bool(guilty)
