"""The program that the wheel installs, with pip and with pipx, and the suite run on it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import yaml

import reconciler
from support.packages import ROOT, Packages, install_with_pip, install_with_pipx, once, own_environ, run

# The commands, the page and the Python interface.
SUITE = ("tests/integration/test_http.py", "tests/integration/test_api.py", "tests/unit/test_cli_light.py")
# Runs pytest with the libraries of the tests behind those of the environment, and says which program is tested.
_PYTEST = """
import sys
sys.path.append(sys.argv.pop(1))
import pytest

class Origin:
    def pytest_report_header(self):
        import reconciler
        return f"program: {reconciler.__file__}"

sys.exit(pytest.main(plugins=[Origin()]))
"""


@pytest.fixture(scope="session")
def installed(packages: Packages, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the bin directory of a new environment with the wheel and its dependencies, installed with pip."""
    return once(tmp_path_factory, "pip", lambda directory: install_with_pip(directory, packages.wheel)) / "bin"


@pytest.fixture(scope="session")
def installed_with_pipx(packages: Packages, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory in which pipx put the commands."""
    return once(tmp_path_factory, "pipx", lambda directory: install_with_pipx(directory, packages.wheel)) / "bin"


@pytest.mark.parametrize("way", ["installed", "installed_with_pipx"])
def test_the_installed_program_runs_the_demo(way: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """The demo starts a server, opens tunnels and edits the file: it uses most dependencies."""
    commands: Path = request.getfixturevalue(way)
    for name in ("tunnels", "tunnel-reconciler"):
        assert run(commands / name, "--version") == f"tunnel-reconciler {reconciler.__version__}\n"
    demo = subprocess.Popen(
        [commands / "tunnels", "demo"], env=own_environ(), cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    with demo:
        assert demo.stdout is not None
        assert any("curl" in line for line in demo.stdout)
        demo.terminate()
        demo.communicate()
    assert demo.returncode == 0


def test_the_suite_passes_on_the_installed_program(installed: Path, packages: Packages, tmp_path: Path) -> None:
    """The tests come from the source archive, without the program's source beside them."""
    checkout = tmp_path / "checkout"
    shutil.copytree(packages.unpacked, checkout, ignore=shutil.ignore_patterns("reconciler"))
    libraries = sysconfig.get_path("purelib")
    with TemporaryDirectory() as short:  # the path of a socket has at most 107 bytes
        options = ("-p", "no:cacheprovider", f"--basetemp={short}/t")
        said = run(installed / "python", "-P", "-c", _PYTEST, libraries, *options, *SUITE, cwd=checkout)
    (program,) = re.findall(r"^program: (.*)$", said, re.MULTILINE)
    assert Path(program).is_relative_to(installed.parent)
    assert "site-packages" in Path(program).parts
    assert re.search(r"=== \d\d+ passed in ", said), said


def test_the_installed_program_has_its_schema_and_page(installed: Path) -> None:
    assert json.loads(run(installed / "tunnels", "schema")) == json.loads(
        (ROOT / "schemas/tunnels.schema.json").read_text()
    )
    code = "from importlib.resources import files; print((files('reconciler.report') / 'page/index.html').read_text())"
    served = run(installed / "python", "-c", code, cwd=installed)
    assert served.strip() == (ROOT / "reconciler/report/page/index.html").read_text().strip()


def test_the_wheel_installs_the_man_pages(installed: Path) -> None:
    pages = installed.parent / "share" / "man"
    assert (pages / "man1" / "tunnels.1").read_text() == (ROOT / "docs/man/tunnels.1").read_text()
    assert (pages / "man5" / "tunnels.yaml.5").read_text() == (ROOT / "docs/man/tunnels.yaml.5").read_text()


def test_the_installed_program_checks_the_examples(installed: Path, packages: Packages) -> None:
    checked = run(installed / "tunnels", "check", "examples/tunnels.yaml", cwd=packages.unpacked)
    assert "examples/tunnels.yaml: valid" in checked


def test_pytest_finds_the_fixture_of_the_installed_program(installed: Path) -> None:
    """The program does not depend on pytest."""
    code = (
        "import sys; sys.path.append(sys.argv[1])\n"
        "from importlib.metadata import entry_points\n"
        "(plugin,) = (one for one in entry_points(group='pytest11') if one.name == 'pytest_tunnels')\n"
        "print(plugin.load().__file__)"
    )
    found = run(installed / "python", "-c", code, sysconfig.get_path("purelib"), cwd=installed)
    assert Path(found.strip()).is_relative_to(installed.parent)


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
