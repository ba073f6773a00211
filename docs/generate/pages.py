"""The generated pages: their paths relative to `docs/`, and their text."""

from __future__ import annotations

from pathlib import Path

from generate.commands import commands
from generate.endpoints import endpoints
from generate.environment import environment
from generate.guides import codes, reasons
from generate.man import manual_of_the_file, manual_of_the_program
from generate.metrics import metrics
from reconciler.config.schema.reference import reference

DOCS = Path(__file__).parents[1]


def pages() -> dict[str, str]:
    """Return the text of each page by its path."""
    return {
        "reference.md": reference(),
        "reference/commands.md": commands(),
        "reference/environment.md": environment(),
        "reference/metrics.md": metrics(),
        "reference/endpoints.md": endpoints(),
        "reference/reasons.md": reasons(),
        "reference/codes.md": codes(),
        "man/tunnels.1": manual_of_the_program(),
        "man/tunnels.yaml.5": manual_of_the_file(),
    }
