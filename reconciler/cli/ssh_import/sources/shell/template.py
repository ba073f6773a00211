"""Replaces `$NAME` and `${NAME:-default}` in a text that is not shell: a compose file, ENV of a Dockerfile."""

from __future__ import annotations

import re
from collections.abc import Mapping

from reconciler.cli.ssh_import.sources.shell.expand import Expander
from reconciler.cli.ssh_import.sources.shell.scope import Scope
from reconciler.cli.ssh_import.sources.shell.words import ShellSyntaxError, read_template
from reconciler.cli.ssh_import.sources.values import Argument, Unknown, WorkBudget

_NOT_TEMPLATE = re.compile(r"\$\$|\\|`|\$(?![A-Za-z_{])")


def replace(text: str, variables: Mapping[str, Argument], budget: WorkBudget) -> Argument:
    """Replace variables in a text. `$$` stands for one dollar sign."""
    if "$" not in text:
        return Argument(text)
    escaped = _NOT_TEMPLATE.sub(lambda found: "\\$" if found[0][0] == "$" else f"\\{found[0]}", text)
    try:
        word = read_template(escaped, budget)
    except ShellSyntaxError as error:
        return Argument(text, Unknown(f"a variable cannot be read, {error.reason}: correct it"))
    return Expander(Scope(variables, budget), budget, lambda _: None).text(word)
