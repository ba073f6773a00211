"""The wheel and the source archive, built without an index, and the program that the wheel installs."""

from __future__ import annotations

import email.message
import email.policy
import importlib.util
import json
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from markdown_it import MarkdownIt

import reconciler

ROOT = Path(__file__).parents[2]
URL = "https://git.example.com/team/tunnels"
TAG = f"v{reconciler.__version__}"
_PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--isolated"]
_OFFLINE = ["--no-index", "--no-deps"]


def run(*command: str | Path, url: str = "", cwd: Path = ROOT) -> str:
    """Run a command without the variables that lead Python to this checkout, and return its output."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "TUNNELS_"))}
    environ["PROJECT_URL"] = url
    done = subprocess.run(command, env=environ, cwd=cwd, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@dataclass(frozen=True, slots=True)
class Packages:
    """The wheel and source archive of this checkout, the unpacked archive, and the wheel that is built from it."""

    wheel: Path
    archive: Path
    unpacked: Path
    rebuilt: Path


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Packages:
    """Build as a release does: with the address of a repository, which the second wheel has from the archive."""
    directory = tmp_path_factory.mktemp("packages")
    run(sys.executable, "-m", "hatchling", "build", "--directory", directory, url=URL)
    (wheel,), (archive,) = directory.glob("*.whl"), directory.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        opened.extractall(directory, filter="data")
    run(*_PIP, "wheel", "--no-build-isolation", *_OFFLINE, "--wheel-dir", directory / "rebuilt", archive)
    (rebuilt,) = (directory / "rebuilt").glob("*.whl")
    return Packages(wheel, archive, directory / archive.name.removesuffix(".tar.gz"), rebuilt)


@pytest.fixture(scope="module")
def installed(packages: Packages, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the bin directory of a new environment with the wheel and, by a .pth file, the libraries of this one."""
    directory = tmp_path_factory.mktemp("environment")
    venv.create(directory, symlinks=True)
    python = directory / "bin" / "python"
    run(*_PIP, "--python", python, "install", *_OFFLINE, packages.wheel)
    libraries = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    # An editable install of this checkout stays out: .pth files of a directory that a .pth file names are not read.
    Path(libraries, "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return directory / "bin"


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


# --- the installed program --------------------------------------------------------------------------------------------


def test_the_installed_program_is_the_wheels(installed: Path, packages: Packages) -> None:
    code = "import reconciler; print(reconciler.__file__)"
    assert Path(run(installed / "python", "-c", code, cwd=packages.unpacked.parent).strip()).is_relative_to(
        installed.parent
    )
    assert run(installed / "tunnels", "--version") == run(installed / "tunnel-reconciler", "--version")
    assert reconciler.__version__ in run(installed / "tunnels", "--version")


def test_the_installed_program_has_its_schema_and_page(installed: Path) -> None:
    assert json.loads(run(installed / "tunnels", "schema")) == json.loads(
        (ROOT / "schemas/tunnels.schema.json").read_text()
    )
    code = "from importlib.resources import files; print((files('reconciler.report') / 'page/index.html').read_text())"
    served = run(installed / "python", "-c", code, cwd=installed)
    assert served.strip() == (ROOT / "reconciler/report/page/index.html").read_text().strip()


def test_the_installed_program_checks_the_examples_and_explains_the_demo(installed: Path, packages: Packages) -> None:
    checked = run(installed / "tunnels", "check", "examples/tunnels.yaml", cwd=packages.unpacked)
    assert "examples/tunnels.yaml: valid" in checked
    assert "--exit-after" in run(installed / "tunnels", "demo", "--help")


def test_pytest_finds_the_fixture_of_the_installed_program(installed: Path) -> None:
    code = (
        "from importlib.metadata import entry_points\n"
        "(plugin,) = (one for one in entry_points(group='pytest11') if one.name == 'pytest_tunnels')\n"
        "print(plugin.load().__file__)"
    )
    assert Path(run(installed / "python", "-c", code, cwd=installed).strip()).is_relative_to(installed.parent)


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


# --- the hook for pre-commit ------------------------------------------------------------------------------------------


def test_the_pre_commit_hook_fails_for_an_invalid_file_among_valid_ones(installed: Path, tmp_path: Path) -> None:
    """pre-commit appends the names of the files that match to the entry."""
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    program, *arguments = hook["entry"].split()
    valid = "targets: {prod: {host: a, tunnels: [{type: local, localPort: 5432, remotePort: 5432}]}}\n"
    (tmp_path / "a.yaml").write_text(valid)
    (tmp_path / "b.yaml").write_text(valid)
    assert run(installed / program, *arguments, "a.yaml", "b.yaml", cwd=tmp_path).count(": valid") == 2
    (tmp_path / "a.yaml").write_text("targets: []\n")
    with pytest.raises(AssertionError, match=r"a\.yaml:1"):
        run(installed / program, *arguments, "a.yaml", "b.yaml", cwd=tmp_path)


@pytest.mark.parametrize(
    ("path", "is_checked"),
    [
        ("tunnels.yaml", True),
        ("deploy/tunnels.yml", True),
        ("tunnels/prod.yaml", True),
        ("teams/a/tunnels/prod.yml", True),
        ("my-tunnels.yaml", False),
        ("tunnels/README.md", False),
        ("compose.yaml", False),
    ],
)
def test_the_pre_commit_hook_selects_tunnels_files(path: str, is_checked: bool) -> None:
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    assert bool(re.search(hook["files"], path)) == is_checked
