"""Sets `readme` and `urls` in the metadata of the wheel and the source archive.

Input: README.md, which has links relative to the repository, and the environment variable PROJECT_URL, the address of
the repository. The release workflow sets PROJECT_URL, so that a release names the repository that made it.
Output: a README for readers outside the repository. Its links lead to the files of the release. Without PROJECT_URL,
the text of each link stays and the link is removed.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

# Code is matched first, so that links in code do not change.
_LINK = re.compile(
    r"(?P<code>^```.*?^```$|`[^`\n]+`)|(?P<image>!?)\[(?P<text>[^\]]*)\]\((?P<path>(?!#|[a-z]+:)[^)\s]+)\)",
    re.MULTILINE | re.DOTALL,
)


class Metadata(MetadataHookInterface):
    """Called by hatchling for each build."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set `readme` and `urls` unless they are set. In a source archive, PKG-INFO sets those with a value."""
        # A source archive that was made without an address has a `readme`, and gets no address.
        url = "" if "readme" in metadata else os.environ.get("PROJECT_URL", "").rstrip("/")
        tag = f"v{metadata['version']}"
        text = Path(self.root, "README.md").read_text("utf-8")
        metadata.setdefault("readme", {"content-type": "text/markdown", "text": for_index(text, url, tag)})
        metadata.setdefault("urls", addresses(url, tag) if url else {})


def addresses(url: str, tag: str) -> dict[str, str]:
    return {
        "Repository": url,
        "Documentation": f"{url}/tree/{tag}/docs",
        "Changelog": f"{url}/blob/{tag}/CHANGELOG.md",
        "Issues": f"{url}/issues",
    }


def for_index(text: str, url: str, tag: str) -> str:
    """Return the README with links to the files of the tag; without `url`, with the texts of the links alone."""

    def replaced(found: re.Match[str]) -> str:
        if found["code"]:
            return found[0]
        if not url:
            return found["text"]
        kind = "raw" if found["image"] else "blob"
        return f"{found['image']}[{found['text']}]({url}/{kind}/{tag}/{found['path'].removeprefix('./')})"

    return _LINK.sub(replaced, text)
