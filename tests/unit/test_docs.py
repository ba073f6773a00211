"""The documents name the files that exist: every module, every link, every path."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "reconciler"
PAGES = sorted(
    [*ROOT.glob("docs/**/*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"],
)
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]

# Names of the checkout's own files in backticks. A name without a directory is searched for by name.
_PATH = re.compile(r"`([\w./-]+\.(?:py|js|md|json|sh|toml|yml)|(?:\w[\w-]*/)+)`")
_LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
_BASES = (ROOT, PACKAGE, ROOT / "tests", ROOT / "docs")
# Files of other projects, and paths on the user's machine.
_ELSEWHERE = ("asyncio/", "asyncssh/", "tunnels.schema.json")


def _modules() -> set[str]:
    """Return every package and module, as docs/modules.md names them: `core/rules/`, `core/plan.py`."""
    packages = {path.parent for path in PACKAGE.rglob("*.py")} - {PACKAGE}
    top = {package for package in packages if package.parent == PACKAGE}
    files = {path for path in [*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.js")] if path.name != "__init__.py"}
    return {f"{path.relative_to(PACKAGE).as_posix()}/" for path in packages - top} | {
        path.relative_to(PACKAGE).as_posix() for path in files
    }


def _listed() -> list[str]:
    text = (ROOT / "docs/modules.md").read_text()
    return re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE)


def test_modules_md_lists_each_module_once() -> None:
    listed = _listed()
    assert len(listed) == len(set(listed))
    top = {f"{path.name}/" for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert set(listed) - top == _modules()


@pytest.mark.parametrize("name", NAMES)
def test_relative_links_lead_to_files(name: str) -> None:
    page = ROOT / name
    links = [link for link in _LINK.findall(page.read_text()) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("name", NAMES)
def test_links_to_sections_lead_to_headings(name: str) -> None:
    page = ROOT / name
    links = re.findall(r"\]\(([^)#\s]*)#([^)\s]+)\)", page.read_text())
    missing = [
        f"{path}#{anchor}"
        for path, anchor in links
        if "://" not in path and anchor not in _anchors(page.parent / path if path else page)
    ]
    assert missing == []


def _anchors(page: Path) -> set[str]:
    """Return the anchors of the headings, as forges make them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", NAMES)
def test_paths_in_backticks_exist(name: str) -> None:
    text = (ROOT / name).read_text()
    assert [path for path in _PATH.findall(text) if not _exists(path, text)] == []


def test_architecture_draws_the_layers_that_are_enforced() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    text = (ROOT / "docs/architecture.md").read_text()
    drawn = [_drawn(block) for block in re.findall(r"```\n(.*?)```", text, re.DOTALL)]
    for contract in contracts:
        if contract["type"] == "layers":
            assert [_units(layer) for layer in contract["layers"]] in drawn, contract["name"]


def _drawn(block: str) -> list[frozenset[str]]:
    """Return the units of each line of a picture: ` ssh | report      what they do`."""
    return [_units(re.split(r"\s{2,}", line.strip())[0]) for line in block.splitlines()]


def _units(layer: str) -> frozenset[str]:
    return frozenset(part.strip(" ()") for part in layer.split("|"))


def _exists(path: str, text: str) -> bool:
    if path.startswith(_ELSEWHERE):
        return True
    if any((base / path).exists() for base in _BASES):
        return True
    # CONTRIBUTING names files relative to the package in the first column of the same row.
    row = next((line for line in text.splitlines() if f"`{path}`" in line and line.startswith("| `")), "")
    package = re.match(r"\| `([\w/]+/)`", row)
    return package is not None and (PACKAGE / package[1] / path).exists()
