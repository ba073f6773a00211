"""The pages of the reasons and of the codes: meaning, likely causes, and the fix for each cause."""

from __future__ import annotations

from collections.abc import Iterable

from generate.markdown import marked, page, table
from reconciler.config.code_guides import CODE_GUIDES
from reconciler.config.problem import WAIVABLE_ERRORS, Code, WarningCode
from reconciler.core.observed import DEFAULT_FIX, NEEDS_ACTION, Reason
from reconciler.core.text.reason_guides import REASON_GUIDES, Guide, retry_of

_REASONS = """\
The reason of a target or tunnel that is not up: in `tunnels status`, in events, in the status JSON, and as the label
`reason` of `ssh_target_failures_total` and `ssh_tunnel_failures_total`. The message beside a reason says what happened
there. `tunnels diagnose TARGET/TUNNEL` tests the path hop by hop, and `tunnels explain REASON` prints a section of this
page.

*Needs action* means that no retry helps until a person changes something. Such a tunnel ends `tunnels wait` at once.
"""
_CODES = """\
The code of a problem in a file. `tunnels check` ends a warning with its code in brackets. The code of an error is not
in its text; a Python program finds it in `ConfigError.problems`. `tunnels explain CODE` prints a section of this page.

`--strict` makes each warning an error. `x-allow: [CODE]` beside the field waives a warning, and the errors that are
marked as waivable.
"""


def reasons() -> str:
    """Return the page of the reasons as Markdown."""
    overview = table(
        ("reason", "meaning", "needs action"),
        ((f"[`{one}`](#{one})", REASON_GUIDES[one].meaning, "yes" if one in NEEDS_ACTION else "") for one in Reason),
    )
    return page("Reasons", _REASONS, overview, *map(_reason, Reason))


def _reason(reason: Reason) -> str:
    return _section(
        reason,
        REASON_GUIDES[reason],
        (
            f"**Needs action.** {'Yes' if reason in NEEDS_ACTION else 'No'}.",
            f"**Tried again.** {retry_of(reason)}",
            f"**In short.** {DEFAULT_FIX[reason][0].upper()}{DEFAULT_FIX[reason][1:]}.",
        ),
    )


def codes() -> str:
    """Return the page of the codes as Markdown."""
    overview = table(
        ("code", "level", "meaning"),
        ((f"[`{one}`](#{one})", _level(one), guide.meaning) for one, guide in CODE_GUIDES.items()),
    )
    return page("Codes of problems in files", _CODES, overview, *map(_code, CODE_GUIDES))


def _code(code: Code) -> str:
    return _section(code, CODE_GUIDES[code], (f"**Level.** {_level(code).capitalize()}.",))


def _level(code: Code) -> str:
    if code in WAIVABLE_ERRORS:
        return "error, waivable"
    return "warning" if isinstance(code, WarningCode) else "error"


def _section(name: str, guide: Guide, more: Iterable[str]) -> str:
    causes = table(("likely cause", "fix"), ((marked(one.what), marked(one.fix)) for one in guide.causes))
    return "\n\n".join([f"## {name}", marked(guide.meaning), *more, causes])
