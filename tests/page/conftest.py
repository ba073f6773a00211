"""One Chromium for the session, a new page for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from page import world as worlds
from page.browser import Chromium, ChromiumMissingError, Tab, new_tab
from page.fake import FakeServer
from support.network_changes import no_changes


@pytest.fixture(scope="session")
def chromium() -> Iterator[Chromium]:
    try:
        browser = Chromium()
    except ChromiumMissingError as missing:
        pytest.skip(str(missing))
    with browser:
        yield browser


@pytest.fixture
async def tab(chromium: Chromium) -> AsyncIterator[Tab]:
    """A page. The test fails if there are errors, warnings or violations of the content policy."""
    with no_changes():
        async with new_tab(chromium) as tab:
            await tab.size(1280, 3000)  # all rows in view: other rows have no innerText
            yield tab
            assert not tab.complaints


@pytest.fixture
async def failing() -> AsyncIterator[FakeServer]:
    async with FakeServer(worlds.some_failing()) as server:
        yield server


@pytest.fixture
async def well() -> AsyncIterator[FakeServer]:
    async with FakeServer(worlds.all_up()) as server:
        yield server
