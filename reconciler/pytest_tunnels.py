"""A pytest plugin. Its fixture `tunnels` opens the tunnels of a file while the tests of the session run.

    def test_the_database_answers(tunnels):
        psycopg.connect(host="127.0.0.1", port=tunnels.port("prod/postgres"))

The option `--tunnels-config` names the file, else the setting `tunnels_config` in the ini file does. Tests may define a
fixture `tunnels_config` instead, which returns a path, or the content of a file as a mapping.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from reconciler.blocking import BlockingTunnels


def pytest_addoption(parser: pytest.Parser) -> None:
    about = "File or directory with the tunnels that the fixture `tunnels` opens."
    parser.getgroup("tunnels").addoption("--tunnels-config", metavar="PATH", default="", help=about)
    parser.addini("tunnels_config", f"{about} Relative to the ini file.", type="string", default="")


@pytest.fixture(scope="session")
def tunnels_config(pytestconfig: pytest.Config) -> str | Path | Mapping[str, object]:
    """Return the path of the option, else that of the ini file."""
    option: str = pytestconfig.getoption("tunnels_config")
    setting: str = pytestconfig.getini("tunnels_config")
    if option:
        return pytestconfig.invocation_params.dir / option
    if setting:
        ini = pytestconfig.inipath
        return (ini.parent if ini is not None else pytestconfig.rootpath) / setting
    pytest.fail(
        "no tunnels file: give --tunnels-config FILE, set `tunnels_config` in the ini file, or define a fixture "
        "`tunnels_config`",
        pytrace=False,
    )


@pytest.fixture(scope="session")
def tunnels(tunnels_config: str | Path | Mapping[str, object]) -> Iterator[BlockingTunnels]:
    """Open the tunnels of `tunnels_config` until the session ends. Fails if the file is invalid or one is not up."""
    # Every session of pytest imports this module, and few need the rest of the program.
    from reconciler.blocking import ConfigError, TunnelsNotUpError, open_tunnels  # noqa: PLC0415

    with contextlib.ExitStack() as block:
        try:
            opened = block.enter_context(open_tunnels(tunnels_config))
        except (ConfigError, TunnelsNotUpError) as error:
            pytest.fail(str(error), pytrace=False)
        yield opened
