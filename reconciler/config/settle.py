"""Decides which content of each file is applied, and reports each error in the file that causes it.

Input: the files as read now, and their last good content. Output: `Settled`. A bad file keeps its last good content.
If two files are each valid but clash with each other, the file that changed is the bad one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from reconciler.config.blame import in_rejected_file, reject_causes
from reconciler.config.build.assemble import Assembled, assemble
from reconciler.config.build.merge import Document
from reconciler.config.deadline import TooLongError, within
from reconciler.config.last_good import Candidate, LastGood
from reconciler.config.options import Options
from reconciler.config.problem import ErrorCode, Location, Problem
from reconciler.core.spec import NOTHING

_BLAME_SECONDS = 5.0  # of processor time; builds the specs once for each file that changed


@dataclass(frozen=True, slots=True)
class Settled:
    """The result. `applied` is None if not even the last good content is valid: the present state stays."""

    choice: LastGood
    applied: Assembled | None
    errors: tuple[Problem, ...]
    warnings: tuple[Problem, ...]


def settle(
    candidates: dict[str, Candidate],
    good: Mapping[str, Document],
    problems: Iterable[Problem],
    environ: Mapping[str, str],
    options: Options,
    *,
    usable: bool = True,
) -> Settled:
    """Choose the content of each file. `problems` are those that belong to no file.

    The policy of the options judges the present content. The last good content was judged when it was new. With
    `usable` False no file can be judged, so each keeps its last good content.
    """
    rejected = {c.name for c in candidates.values() if c.problems or not usable}
    choice = LastGood(candidates, good, rejected)
    return _Settlement(choice, environ, options).settle(problems)


class _Settlement:
    def __init__(self, choice: LastGood, environ: Mapping[str, str], options: Options) -> None:
        self._choice = choice
        self._environ = environ
        self._options = options
        self._unjudged = replace(options, policy=None)
        self._removed = frozenset(c.name for c in choice.candidates.values() if c.absent)

    def settle(self, problems: Iterable[Problem]) -> Settled:
        own = [*problems, *(p for c in self._choice.candidates.values() for p in c.problems)]
        as_written = self._as_written(own, self._choice.changed())
        self._choice.rejected |= as_written.not_permitted
        own = [p for p in own if p.code is not ErrorCode.VALUE or _position(p) not in as_written.overrides_schema]
        errors = [*own, *self._blamed(own, as_written)]
        applied: Assembled | None = as_written
        if errors:
            applied, consequences = self._good()
            reported = {problem.file for problem in errors}
            errors += [problem for problem in consequences if problem.file not in reported]
        return Settled(self._choice, applied, tuple(errors), as_written.warnings)

    def _as_written(self, already: Sequence[Problem], newer: Collection[str], without: str = "") -> Assembled:
        """Find every problem with the files as they are. `without`: a file that has its last good content."""
        documents = self._choice.as_written(without)
        try:
            with within(self._options.seconds):
                return self._assembled(documents, already, newer, self._options)
        except TooLongError as error:
            changed = newer or self._choice.candidates
            return Assembled(NOTHING, tuple(_too_long(name, error) for name in changed), (), {})

    def _assembled(
        self, documents: Sequence[Document], already: Iterable[Problem], newer: Collection[str], options: Options
    ) -> Assembled:
        incomplete = len(documents) < sum(not c.absent for c in self._choice.candidates.values())
        return assemble(documents, self._environ, options, already, incomplete=incomplete, newer=newer)

    def _blamed(self, already: Sequence[Problem], as_written: Assembled) -> list[Problem]:
        """Reject the changed files that cause the errors. Return the errors as they are reported."""
        # A conflict with the last good content of a rejected file is found when the good contents are assembled.
        errors = as_written.errors
        found = self._reject_causes(errors, frozenset(self._choice.rejected))
        rejected = self._choice.rejected
        if any(p.other in rejected and p.file not in rejected for p in errors):
            errors = self._as_written(already, rejected).errors  # report each clash in the file that is rejected
        return [shown for p in errors for shown in in_rejected_file(p, found.get(p, ()), self._removed)]

    def _reject_causes(self, errors: Sequence[Problem], refused: Collection[str]) -> dict[Problem, frozenset[str]]:
        newer = self._choice.changed()

        def errors_without(file: str) -> Sequence[Problem]:
            return self._assembled(self._choice.as_written(file), (), newer, self._unjudged).errors

        try:
            with within(_BLAME_SECONDS):
                return reject_causes(errors, self._choice, refused, errors_without)
        except TooLongError:
            return reject_causes(errors, self._choice, refused, lambda _file: ())

    def _good(self) -> tuple[Assembled | None, list[Problem]]:
        """Assemble files that are valid together, bad ones with their last good content. Return the errors too."""
        consequences: list[Problem] = []
        while True:
            newer = self._choice.changed()
            try:
                with within(self._options.seconds):
                    assembled = self._assembled(self._choice.documents(), (), newer, self._unjudged)
            except TooLongError as error:
                return None, [_too_long(name, error) for name in newer]
            if not assembled.errors:
                return assembled, consequences
            found = self._reject_causes(assembled.errors, ())
            consequences += [shown for p in found for shown in in_rejected_file(p, found[p], self._removed)]
            if not any(found.values()):
                return None, consequences  # even the last good content fails: keep the present state


def _too_long(name: str, error: TooLongError) -> Problem:
    return Problem.at(Location(name), str(error), ErrorCode.VALUE)


def _position(problem: Problem) -> tuple[str, int, int]:
    return problem.file, problem.line, problem.column
