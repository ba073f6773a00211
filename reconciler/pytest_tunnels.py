"""A pytest plugin. Its fixtures open the tunnels of a file while tests run.

    def test_the_database_answers(tunnels):
        psycopg.connect(host="127.0.0.1", port=tunnels.port("prod/postgres"))

`tunnels` is open while the session runs. `function_tunnels` is open during one test, which may pause and change it.
The option `--tunnels-config` names the file, else the setting `tunnels_config` in the ini file does. Tests may define a
fixture `tunnels_config` instead, which returns a path, the text of a file, or its content as a mapping. The report of a
failed test has the tunnels that are not up, and what changed during the test.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from reconciler import Source
    from reconciler.blocking import BlockingEvents, BlockingTunnels

_FIXTURES = ("tunnels", "function_tunnels")
_events = pytest.StashKey[dict[int, "BlockingEvents"]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    about = "File or directory with the tunnels that the fixtures `tunnels` and `function_tunnels` open."
    parser.getgroup("tunnels").addoption("--tunnels-config", metavar="PATH", default="", help=about)
    parser.addini("tunnels_config", f"{about} Relative to the ini file.", type="string", default="")


@pytest.fixture(scope="session")
def tunnels_config(pytestconfig: pytest.Config) -> Source:
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
def tunnels(tunnels_config: Source, pytestconfig: pytest.Config) -> Iterator[BlockingTunnels]:
    """Open the tunnels of `tunnels_config` until the session ends. Fails if the file is invalid or one is not up."""
    yield from _opened(tunnels_config, pytestconfig)


@pytest.fixture
def function_tunnels(tunnels_config: Source, pytestconfig: pytest.Config) -> Iterator[BlockingTunnels]:
    """Open the tunnels of `tunnels_config` for one test. Beside the fixture `tunnels` they need `localPort: 0`."""
    yield from _opened(tunnels_config, pytestconfig)


def _opened(source: Source, config: pytest.Config) -> Iterator[BlockingTunnels]:
    # Every session of pytest imports this module, and few need the rest of the program.
    from reconciler.blocking import TunnelsError, open_tunnels  # noqa: PLC0415

    with contextlib.ExitStack() as block:
        try:
            opened = block.enter_context(open_tunnels(source))
        except TunnelsError as error:
            pytest.fail(str(error), pytrace=False)
        events = config.stash.setdefault(_events, {})
        events[id(opened)] = opened.events(within=0)
        yield opened
        del events[id(opened)]


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, None]:
    """Add the tunnels that are not up, and the events of the test, to the report of a failed test."""
    outcome = yield
    if call.when != "call":
        return
    for name in _FIXTURES:
        opened = getattr(item, "funcargs", {}).get(name)
        events = item.config.stash.get(_events, {}).get(id(opened))
        if opened is None or events is None:
            continue
        happened = [f"{event}" for event in events]  # read after each test, so that the next one does not get them
        report = outcome.get_result()
        down = [f"{one}" for one in opened.all() if not one.is_up]
        if report.failed and (down or happened):
            report.sections.append((f"{name}: not up", "\n".join(down) or "none"))
            report.sections.append((f"{name}: events of this test", "\n".join(happened) or "none"))
