"""The documentation site: it builds without a warning, and every link leads somewhere."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import reconciler

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
URL = "https://git.example.com/team/tunnels"
TAG = f"v{reconciler.__version__}"


def built(source: Path, into: Path, url: str = "") -> subprocess.CompletedProcess[str]:
    """Run the build of `make docs`."""
    command = [sys.executable, "-m", "sphinx", "-E", "-W", "--keep-going", "-q", "-b", "html"]
    environ = {**os.environ, "PROJECT_URL": url}
    environ.pop("PYTHONWARNINGS", None)
    return subprocess.run(
        [*command, "-d", into / "doctrees", source, into / "html"],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )


@dataclass
class Page(HTMLParser):
    """The ids and links of a page, and the addresses that a browser loads with it."""

    ids: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value for name, value in attrs if value is not None}
        if "id" in given:
            self.ids.add(given["id"])
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif address := given.get("src") or (given.get("href") if tag == "link" else None):
            self.loaded.append(address)


def read(path: Path) -> Page:
    page = Page()
    page.feed(path.read_text("utf-8"))
    return page


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Page]:
    """The pages of the site by their paths."""
    directory = tmp_path_factory.mktemp("site")
    done = built(DOCS, directory, URL)
    assert (done.returncode, done.stderr) == (0, "")
    return {path: read(path) for path in sorted((directory / "html").rglob("*.html"))}


def test_every_page_of_the_documentation_is_in_the_site(site: dict[Path, Page]) -> None:
    names = {path.relative_to(DOCS).with_suffix("").as_posix() for path in DOCS.rglob("*.md")}
    assert names <= {path.as_posix().partition("/html/")[2].removesuffix(".html") for path in site}


def test_every_internal_link_leads_to_a_page_and_an_anchor(site: dict[Path, Page]) -> None:
    dead = []
    for path, page in site.items():
        for link in (*page.links, *page.loaded):
            parts = urlsplit(link)
            if parts.scheme:
                continue
            there = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchor = unquote(parts.fragment)
            if not there.exists() or (anchor and there in site and anchor not in site[there].ids):
                dead.append(f"{path.name}: {link}")
    assert dead == []


def test_every_link_into_the_repository_leads_to_a_file(site: dict[Path, Page]) -> None:
    links = {link for page in site.values() for link in page.links if link.startswith(URL)}
    assert f"{URL}/blob/{TAG}/CHANGELOG.md" in links
    form = re.compile(rf"{re.escape(URL)}/(blob|tree)/{re.escape(TAG)}/([^#?]+)(#\S+)?")
    found = [form.fullmatch(link) for link in links]
    assert all(found)
    assert [one[2] for one in found if one is not None and not (ROOT / one[2]).exists()] == []


def test_external_links_have_a_form_that_works_and_a_browser_loads_none(site: dict[Path, Page]) -> None:
    form = re.compile(r"https?://[\w.-]+\.[a-z]{2,}(:\d+)?(/\S*)?|http://(127\.0\.0\.1|localhost)(:\d+)?(/\S*)?")
    external = {link for page in site.values() for link in page.links if urlsplit(link).scheme}
    assert [link for link in external if not form.fullmatch(link)] == []
    assert [address for page in site.values() for address in page.loaded if urlsplit(address).netloc] == []


# --- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A repository with a README and two pages that have no mistake."""
    docs = tmp_path / "docs"
    docs.mkdir()
    shutil.copy(DOCS / "conf.py", docs)
    shutil.copytree(DOCS / "_static", docs / "_static")
    (tmp_path / "README.md").write_text("# Project\n")
    (docs / "index.md").write_text("# Start\n\n[Contract](contract.md#terms), [README](../README.md)\n")
    (docs / "contract.md").write_text("# Contract\n\n## Terms\n\nNone.\n")
    return docs


def test_without_an_address_a_link_into_the_repository_is_text(small: Path, tmp_path: Path) -> None:
    done = built(small, tmp_path / "site")
    assert (done.returncode, done.stderr) == (0, "")
    page = tmp_path / "site/html/index.html"
    assert "contract.html#terms" in read(page).links
    assert [link for link in read(page).links if "README" in link] == []
    assert "README" in page.read_text()


def test_each_mistake_in_a_link_ends_the_build(small: Path, tmp_path: Path) -> None:
    links = "[a](missing.md) [b](contract.md#missing) [c](../MISSING.md) [d](#missing)"
    (small / "index.md").write_text(f"# Start\n\n{links}\n")
    (small / "unlisted.md").write_text("# A page that the navigation lacks\n")
    done = built(small, tmp_path / "site")
    assert done.returncode != 0
    warnings = done.stderr.splitlines()
    for mistake in ("'missing.md'", "doc 'contract': 'missing'", "../MISSING.md", "found: 'missing'", "unlisted.md"):
        assert [one for one in warnings if mistake in one], f"{mistake}: {done.stderr}"
    assert len(warnings) == 5, done.stderr
