"""The wheel and the source archive, built without an index, and the README as an index shows it."""

from __future__ import annotations

import email.message
import email.policy
import importlib.util
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import readme_renderer.markdown
from markdown_it import MarkdownIt

import reconciler
from support.packages import ROOT, URL, Packages

TAG = f"v{reconciler.__version__}"


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def metadata(wheel: Path) -> email.message.EmailMessage:
    (text,) = (data for name, data in contents(wheel).items() if name.endswith(".dist-info/METADATA"))
    parsed = email.message_from_bytes(text, policy=email.policy.EmailPolicy(utf8=True))
    assert isinstance(parsed, email.message.EmailMessage)
    return parsed


def test_both_packages_have_the_version_of_the_program(packages: Packages) -> None:
    assert packages.wheel.name == f"tunnel_reconciler-{reconciler.__version__}-py3-none-any.whl"
    assert packages.archive.name == f"tunnel_reconciler-{reconciler.__version__}.tar.gz"
    assert metadata(packages.wheel)["Version"] == reconciler.__version__


def test_the_wheel_has_the_schema_the_page_and_the_types_and_nothing_else(packages: Packages) -> None:
    names = set(contents(packages.wheel))
    page = {path.relative_to(ROOT).as_posix() for path in (ROOT / "reconciler" / "report" / "page").iterdir()}
    assert (
        page
        | {"reconciler/schemas/tunnels.schema.json", "reconciler/schemas/policy.schema.json", "reconciler/py.typed"}
        <= names
    )
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"reconciler", "tunnel_reconciler"}


def test_the_source_archive_has_every_file_of_the_repository(packages: Packages) -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    if not tracked:
        pytest.skip("this is no git checkout: its files are those of a source archive")
    missing = [name for name in tracked if (ROOT / name).exists() and not (packages.unpacked / name).exists()]
    assert missing == []
    assert {"docs/contract.md", "examples/tunnels.yaml"} <= set(tracked)


def test_a_wheel_built_from_the_source_archive_is_the_same(packages: Packages) -> None:
    assert contents(packages.rebuilt) == contents(packages.wheel)


# --- the README on an index -------------------------------------------------------------------------------------------


def _links(text: str) -> Iterator[tuple[str, str]]:
    """Yield the kind and address of each link and image of a Markdown text, as a parser finds them."""
    for block in MarkdownIt("commonmark").enable("table").parse(text):
        for token in block.children or []:
            if token.type == "link_open":
                yield "blob", str(token.attrs["href"])
            elif token.type == "image":
                yield "raw", str(token.attrs["src"])


def test_every_link_of_the_packaged_readme_leads_to_a_file_of_the_release(packages: Packages) -> None:
    described = metadata(packages.wheel)
    assert described["Description-Content-Type"] == "text/markdown"
    links = list(_links(described.get_content()))
    assert {kind for kind, _ in links} == {"blob", "raw"}
    for kind, link in links:
        path = link.removeprefix(f"{URL}/{kind}/{TAG}/")
        assert path != link, f"{link} leads nowhere from outside the repository"
        assert (ROOT / path).exists(), link


def test_an_index_renders_the_packaged_readme(packages: Packages) -> None:
    """The renderer of the Python index, which removes what it does not allow. None would be a refusal."""
    rendered = readme_renderer.markdown.render(metadata(packages.wheel).get_content())
    assert rendered is not None
    for tag, least in (("<h2 ", 6), ("<table>", 2), ("<img ", 1), ("<pre", 4), (f'<a href="{URL}/', 10)):
        assert rendered.count(tag) >= least, tag


def test_the_packages_name_the_repository_that_released_them(packages: Packages) -> None:
    urls = dict(one.split(", ") for one in metadata(packages.wheel).get_all("Project-URL") or ())
    assert urls["Repository"] == URL
    assert (ROOT / urls["Changelog"].removeprefix(f"{URL}/blob/{TAG}/")).exists()
    assert (ROOT / urls["Documentation"].removeprefix(f"{URL}/tree/{TAG}/")).is_dir()


@pytest.fixture(scope="module")
def hook() -> ModuleType:
    """Load the build hook, which is no part of the package."""
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_readme_without_a_repository_keeps_the_texts_of_its_links(hook: ModuleType) -> None:
    text = (ROOT / "README.md").read_text()
    assert [link for _, link in _links(text) if ":" not in link], "the README links to files"
    plain = hook.for_index(text, "", TAG)
    assert [link for _, link in _links(plain) if ":" not in link] == []
    assert "docs/reference.md" in plain


@pytest.mark.parametrize(
    ("text", "becomes"),
    [
        ("[a](docs/a.md#b), [c](./c)", f"[a]({URL}/blob/v1/docs/a.md#b), [c]({URL}/blob/v1/c)"),
        ("![a\nb](a.png)", f"![a\nb]({URL}/raw/v1/a.png)"),
        ("[`x`](a.md)", f"[`x`]({URL}/blob/v1/a.md)"),
        ("[a](#a) [b](https://b.example/c) [d](mailto:e@f.example)", None),
        ("`[a](b)`", None),
        ("```\n[a](b)\n```", None),
    ],
)
def test_links_to_files_change_and_code_and_other_links_do_not(
    hook: ModuleType, text: str, becomes: str | None
) -> None:
    assert hook.for_index(text, URL, "v1") == (becomes or text)
