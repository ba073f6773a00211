"""Finds the changed file that causes an error between files, and rejects that file.

Input: the errors, and which files differ from their last good content. A file is the cause of an error if the error is
gone with the last good content of that file alone. Output: for each error, the files that it rejects; and the error as
it is reported: in the rejected file.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from functools import cache

from reconciler.config.last_good import LastGood
from reconciler.config.problem import ErrorCode, Problem

_DEPENDS_ON_OTHERS = frozenset({ErrorCode.MISSING, ErrorCode.REFERENCE})


def reject_causes(
    errors: Sequence[Problem],
    choice: LastGood,
    refused: Collection[str],
    errors_without: Callable[[str], Sequence[Problem]],
) -> dict[Problem, frozenset[str]]:
    """Reject the changed files that cause the errors, and return them by error.

    Clashes come last: a file that clashes with the content of a rejected file is not rejected for that. `refused` are
    files that were rejected before, and have the rejected content in these errors. `errors_without` returns the errors
    that are left with the last good content of a file. It is called only if several files have changed.
    """
    left = cache(errors_without)
    found: dict[Problem, frozenset[str]] = {}
    refused = set(refused)
    for error in sorted(errors, key=_is_clash):
        if not {error.file, error.other} & refused:
            found[error] = frozenset(_causes(error, choice.changed(), left))
            choice.rejected |= found[error]
            refused |= found[error]
    return found


def _is_clash(error: Problem) -> bool:
    return error.other not in ("", error.file)


def _causes(error: Problem, changed: Collection[str], left: Callable[[str], Sequence[Problem]]) -> Collection[str]:
    named = [file for file in dict.fromkeys((error.file, error.other)) if file in changed]
    if named and not _is_clash(error) and error.code not in _DEPENDS_ON_OTHERS:
        return named
    suspects = [*named, *sorted(set(changed) - set(named))]
    if len(suspects) < 2:
        return suspects
    gone = (file for file in suspects if not any(_is_same(error, other) for other in left(file)))
    found = next(gone, None)
    return [found] if found is not None else named or suspects


def _is_same(one: Problem, other: Problem) -> bool:
    """Return True if the two are the same clash, or the same missing part. Their lines may differ."""
    if one.code is not other.code:
        return False
    if one.other:
        return {one.file, one.other} == {other.file, other.other}
    return (one.file, one.path) == (other.file, other.path)


def in_rejected_file(error: Problem, rejected: Collection[str], removed: Collection[str]) -> Iterator[Problem]:
    """Yield the error as it is reported in the files that it rejects. `removed`: files that no longer exist."""
    if not rejected or error.file in rejected:
        yield error
        return
    for file in sorted(rejected):
        what = "removing this file" if file in removed else "the change of this file"
        message = f"{what} breaks another one, so its last good content stays: {error}"
        yield replace(error, file=file, line=0, column=0, path="", message=message, other=error.file)
