"""Configuration of Sphinx for the documentation site: `make docs`.

The pages are Markdown with links between files, so that they can also be read on a forge. NAVIGATION is the order of
the pages; a page that it does not list is an error. A link that leaves `docs/` leads to the file in the repository, if
PROJECT_URL has its address as for a release (hatch_build.py). Without it, the text of the link stays.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from docutils import nodes  # type: ignore[import-untyped]
from sphinx.addnodes import download_reference, pending_xref
from sphinx.application import Sphinx
from sphinx.util import logging

DOCS = Path(__file__).parent
ROOT = DOCS.parent
sys.path.insert(0, str(ROOT))

from reconciler import __version__  # noqa: E402 - the line above makes it importable

PROJECT_URL = os.environ.get("PROJECT_URL", "").rstrip("/")

project = "tunnel-reconciler"
author = "the tunnel-reconciler contributors"
version = release = __version__

extensions = ["myst_parser"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4  # the anchors that a forge makes
nitpicky = True
smartquotes = False  # they would change `--` in texts
suppress_warnings = ["misc.highlighting_failure"]  # a block may be an excerpt; tests run the blocks
exclude_patterns = ["generate"]

_REFERENCE = [f"reference/{name}" for name in ("commands", "environment", "endpoints", "metrics", "reasons", "codes")]
NAVIGATION = (
    ("Start", ("tutorial", "comparison", "upgrading")),
    ("How-to guides", ("how-to/*", "runbook")),
    ("Reference", ("reference", *_REFERENCE, "reference/*", "contract", "glossary")),
    ("Explanation", ("explanation", "explanation/*", "architecture", "shards", "out-of-scope")),
    ("Development", ("modules", "asyncssh")),
)

html_theme = "furo"
html_title = f"{project} {release}"
html_static_path = ["_static"]
html_css_files = ["tables.css"]
html_copy_source = False
html_show_copyright = False
html_show_sphinx = False


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("source-read", _add_navigation)
    app.connect("doctree-read", _resolve_links_to_the_repository)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _add_navigation(app: Sphinx, name: str, source: list[str]) -> None:
    """Append the navigation to the first page: on a forge, directives of Sphinx would be shown as text."""
    if name != app.config.root_doc:
        return
    for caption, patterns in NAVIGATION:
        paths = [path for pattern in patterns for path in sorted(DOCS.glob(f"{pattern}.md"))]
        pages = "\n".join(dict.fromkeys(path.relative_to(DOCS).with_suffix("").as_posix() for path in paths))
        source[0] += f"\n```{{toctree}}\n:caption: {caption}\n:hidden:\n\n{pages}\n```\n"


def _resolve_links_to_the_repository(app: Sphinx, document: nodes.document) -> None:
    """Resolve the links that leave `docs/`. A link to a file that does not exist is a warning, so an error."""
    for link in [*document.findall(pending_xref), *document.findall(download_reference)]:
        page = Path(app.env.doc2path(link["refdoc"]))
        suffix = ".md" if link.get("refdomain") == "doc" else ""  # a target without its suffix
        path = Path(os.path.normpath(page.parent / f"{link['reftarget']}{suffix}".partition("#")[0]))
        if path.is_relative_to(DOCS) or not path.is_relative_to(ROOT):
            continue
        if not path.exists():
            logging.getLogger(__name__).warning("no such file: %s", link["reftarget"], location=link)
        if PROJECT_URL:
            kind = "tree" if path.is_dir() else "blob"
            anchor = f"#{link['reftargetid']}" if link.get("reftargetid") else ""
            address = f"{PROJECT_URL}/{kind}/v{release}/{path.relative_to(ROOT).as_posix()}{anchor}"
            link.replace_self(nodes.reference("", "", *link.children, refuri=address))
        else:
            link.replace_self(link.children)
