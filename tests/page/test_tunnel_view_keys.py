"""Opening and closing the view of one tunnel: keyboard, address, and a lost connection."""

from __future__ import annotations

import json

from page.browser import Tab
from page.fake import FakeServer
from page.seen import FOCUSED, IS_OPEN, TITLE, opened, part, row, viewed

# --- opening and closing ----------------------------------------------------------------------------------------------


async def test_a_tunnel_is_opened_and_closed_with_the_keyboard(tab: Tab, failing: FakeServer) -> None:
    await tab.size(1280, 700)
    await opened(tab, failing)
    await tab.press("/", text="/")
    await tab.press("ArrowDown", code=40)
    assert await tab.run(FOCUSED) == "search/elastic"
    for _ in range(3):
        await tab.press("ArrowDown", code=40)
    assert await tab.run(FOCUSED) == "prod/replica"
    await tab.press("ArrowUp", code=38)
    assert await tab.run(FOCUSED) == "prod/postgres"
    await tab.press("End", code=35)
    assert await tab.run(FOCUSED) == "edge/logs"
    assert await tab.run("getComputedStyle(document.activeElement).outlineStyle") != "none"
    scrolled = await tab.run("scrollY")
    assert scrolled > 0
    await tab.press("Enter", text="\r", code=13)
    await tab.until(f"{IS_OPEN} && {TITLE} === 'edge/logs'")
    assert await tab.run("location.hash") == "#tunnel=edge/logs"
    assert await tab.run(FOCUSED) == "detail-title"
    assert await tab.run("getComputedStyle(document.activeElement).outlineStyle") != "none"
    assert await tab.run("scrollY") == 0
    assert not await tab.run("document.getElementById('targets').checkVisibility()")
    await tab.press("Escape", code=27)
    await tab.until(f"!{IS_OPEN}")
    assert await tab.run(FOCUSED) == "edge/logs"
    assert await tab.run("scrollY") == scrolled
    box = "document.activeElement.getBoundingClientRect()"
    assert await tab.run(f"{box}.top >= 0 && {box}.bottom <= innerHeight")


async def test_the_focus_leaves_the_view_of_a_tunnel_in_both_directions(tab: Tab, failing: FakeServer) -> None:
    await opened(tab, failing)
    await tab.run(f"{row('prod/postgres')}.querySelector('a.name').focus()")
    await tab.press("Enter", text="\r", code=13)
    await tab.until("document.getElementById('detail-past').checkVisibility()")
    reached = [await tab.run(FOCUSED)]
    while "BODY" not in reached:
        await tab.press("Tab", code=9)
        reached.append(await tab.run(FOCUSED))
        outlined = await tab.run("getComputedStyle(document.activeElement).outlineStyle !== 'none'")
        assert outlined or reached[-1] == "BODY", f"{reached[-1]} does not show that it has the focus"
    assert reached.count("BUTTON") == await tab.run("document.querySelectorAll('#queries button').length")
    assert "events" in reached
    await tab.run("document.getElementById('detail-title').focus()")
    await tab.press("Tab", code=9, modifiers=8)
    assert await tab.run(FOCUSED) == "detail-back"
    await tab.press(" ", text=" ", code=32)
    await tab.until(f"!{IS_OPEN}")
    assert await tab.run(FOCUSED) == "prod/postgres"


async def test_the_address_of_a_tunnel_can_be_shared_and_survives_a_reload(tab: Tab, failing: FakeServer) -> None:
    await viewed(tab, failing, "#q=postgres&tunnel=prod%2Fpostgres")
    await tab.run("void (window.before = true)")
    await tab.call("Page.reload")
    await tab.until(f"window.before === undefined && document.readyState === 'complete' && {IS_OPEN}")
    await tab.until("document.getElementById('detail-past').checkVisibility()")
    assert await tab.run(TITLE) == "prod/postgres"
    assert await tab.run(FOCUSED) == "BODY", "a page that loads leaves the focus alone"
    await tab.press("Escape", code=27)
    await tab.until("document.querySelectorAll('#targets .tunnel').length === 1")
    assert await tab.run("location.hash") == "#q=postgres"


async def test_the_back_button_of_the_browser_closes_the_view(tab: Tab, failing: FakeServer) -> None:
    await opened(tab, failing, "#q=prod")
    await tab.click(f"{row('prod/redis')}.querySelector('a.name')")
    await tab.until(f"{TITLE} === 'prod/redis'")
    assert await tab.run("location.hash") == "#q=prod&tunnel=prod/redis"
    await tab.run("history.back()")
    await tab.until(f"!{IS_OPEN}")
    assert await tab.run(FOCUSED) == "prod/redis"
    assert await tab.run("document.getElementById('filter').value") == "prod"
    await tab.run("history.forward()")
    await tab.until(f"{IS_OPEN} && {TITLE} === 'prod/redis'")
    await tab.call("Page.reload")
    await tab.until(f"document.readyState === 'complete' && document.querySelector('#targets .tunnel') && {IS_OPEN}")
    await tab.press("Escape", code=27)
    await tab.until(f"!{IS_OPEN}")
    assert await tab.run("location.hash") == "#q=prod"
    assert await tab.run(FOCUSED) == "prod/redis"
    assert await tab.run("history.length") == 3, "blank, list, tunnel"


async def test_closing_twice_goes_back_once(tab: Tab, failing: FakeServer) -> None:
    await opened(tab, failing)
    for _ in range(2):
        await tab.click(f"{row('prod/redis')}.querySelector('a.name')")
        await tab.until(f"{TITLE} === 'prod/redis'")
        escape = "dispatchEvent(new KeyboardEvent('keydown', {key: 'Escape', cancelable: true}))"
        await tab.run(f"void ({escape}, {escape}, document.getElementById('detail-back').click())", gesture=True)
        await tab.until(f"document.URL !== 'about:blank' && !{IS_OPEN}")
        assert await tab.run("location.hash") == ""


async def test_the_focus_goes_to_the_list_if_the_tunnel_is_not_in_it(tab: Tab, failing: FakeServer) -> None:
    await viewed(tab, failing, "#q=staging&tunnel=prod/postgres")
    await tab.press("Escape", code=27)
    await tab.until(f"!{IS_OPEN}")
    assert await tab.run(FOCUSED) == "targets"
    await tab.press("ArrowDown", code=40)
    assert await tab.run(FOCUSED) == "staging/web"


async def test_keys_of_the_filter_do_nothing_while_a_tunnel_is_shown(tab: Tab, failing: FakeServer) -> None:
    await viewed(tab, failing, "#q=postgres&tunnel=prod/postgres")
    await tab.press("/", text="/")
    assert await tab.run(FOCUSED) == "BODY"
    assert not await tab.run("document.getElementById('bar').checkVisibility()")
    await tab.press("Escape", code=27)
    await tab.until(f"!{IS_OPEN}")
    assert await tab.run("document.getElementById('filter').value") == "postgres"
    await tab.press("Escape", code=27)
    assert await tab.run("document.getElementById('filter').value") == ""


async def test_the_skip_link_leads_to_what_is_shown(tab: Tab, failing: FakeServer) -> None:
    await viewed(tab, failing)
    await tab.click("document.querySelector('.skip')")
    assert await tab.run(FOCUSED) == "detail-title"
    assert await tab.run("location.hash") == "#tunnel=prod/postgres"


async def test_another_address_shows_another_tunnel_without_old_data(tab: Tab, failing: FakeServer) -> None:
    await viewed(tab, failing)
    await tab.run("void (location.hash = '#tunnel=staging/browse')", gesture=True)
    await tab.until("document.getElementById('detail-place').textContent.endsWith(':31')")
    assert await tab.run("document.querySelectorAll('#clients tr').length") == 5
    assert await tab.run("document.querySelector('#queries code').textContent") == (
        'ssh_tunnel_up{target="staging",tunnel="browse"}'
    )


# --- without a connection ---------------------------------------------------------------------------------------------


async def test_a_lost_connection_keeps_the_last_data_of_a_tunnel_with_its_age(tab: Tab, failing: FakeServer) -> None:
    await viewed(tab, failing)
    sums = await part(tab, "hour-sums")
    await failing.vanish()
    await tab.until("document.getElementById('detail-age').checkVisibility()")
    words = await part(tab, "detail-age")
    assert words.startswith("No connection: this is the state of ")
    await tab.until(f"document.getElementById('detail-age').innerText !== {json.dumps(words)}")
    assert (await part(tab, "hour-sums"))[:4] == sums[:4]
    assert await tab.run("document.querySelectorAll('#clients tr').length") == 7
    await failing.come_back()
    await tab.until("!document.getElementById('detail-age').checkVisibility()")


async def test_a_tunnel_can_be_opened_and_closed_without_a_connection(tab: Tab, failing: FakeServer) -> None:
    await opened(tab, failing)
    await failing.vanish()
    await tab.until("document.getElementById('lost').checkVisibility()")
    await tab.click(f"{row('staging/web')}.querySelector('a.name')")
    await tab.until(f"{IS_OPEN} && {TITLE} === 'staging/web'")
    assert await part(tab, "detail-phase") == "unhealthy"
    assert await part(tab, "detail-missing") == "Waiting for its data."
    assert (await part(tab, "detail-age")).startswith("No connection: ")
    await tab.press("Escape", code=27)
    await tab.until(f"!{IS_OPEN}")
    assert await tab.run(FOCUSED) == "staging/web"
