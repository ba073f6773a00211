"""The view of one tunnel on the status page, in a real browser, against made-up status."""

from __future__ import annotations

import json
import re
from itertools import pairwise

import pytest

from page import world as worlds
from page.browser import Tab
from page.details import client, detail, failure, hour
from page.fake import FakeServer
from page.seen import (
    CONTRAST,
    IS_OPEN,
    TITLE,
    check_that_nothing_is_too_wide,
    opened,
    painted,
    part,
    row,
    shown,
    text,
    viewed,
)
from page.world import ATTACK, KEEPALIVE, REFUSED, World, tunnel
from support.wait import eventually

# --- what it shows ----------------------------------------------------------------------------------------------------


async def test_the_page_shows_the_instance_and_its_version(tab: Tab, well: FakeServer) -> None:
    await opened(tab, well)
    assert await text(tab, "document.querySelector('h1')") == f"tunnels gate-1 127.0.0.1:{well.port}"
    assert await part(tab, "version") == "1.4.0"


async def test_a_tunnel_shows_its_state_and_where_it_is_defined(tab: Tab, failing: FakeServer) -> None:
    await viewed(tab, failing)
    assert await part(tab, "detail-title") == "prod/postgres"
    assert await part(tab, "detail-phase") == "down"
    assert await part(tab, "detail-note") == "local · PostgreSQL · team=data"
    assert (await part(tab, "detail-why")).startswith(f"refused {REFUSED}"), "also if it is the target's failure"
    assert await part(tab, "detail-place") == "/etc/tunnels/tunnels.yaml:12"
    assert await part(tab, "detail-live") == "0 clients, 7 held"
    assert await tab.run("document.querySelectorAll('#detail-route [data-broken]').length") == 2
    assert await tab.run("document.title") == "7 problems · prod/postgres · tunnels"


async def test_the_last_hour_is_a_strip_with_sums_and_the_times_it_was_down(tab: Tab, well: FakeServer) -> None:
    off = {f"m{ago}": (0.0, 0.0, 60.0, 0, 0) for ago in range(50, 60)}
    stopped = {f"m{ago}": (0.0, 0.0, 0.0, 0, 0) for ago in range(45, 50)}
    lost = {
        "m30": (50.0, 10.0, 0, 2, 1),
        "m29": (0, 60.0, 0, 0, 0),
        "m28": (55.5, 4.5, 0, 0, 1),
        "m3": (59.7, 0.3, 0, 1, 1),
    }
    well.world.details["prod/postgres"] = detail("prod/postgres", history=hour(**off, **stopped, **lost))
    await viewed(tab, well)
    sums = await part(tab, "hour-sums")
    assert sums.startswith("up ")
    assert ", down 1 min 15 s, off 10 min · 97." in sums
    rest = sums.partition(" · 97.")[2]
    assert re.fullmatch(
        r". % of the time that it should be up · 3 losses, 3 reconnects · no record of 5 min( \d+ s)?", rest
    )
    times = (
        "[...document.querySelectorAll('#hour-downs li')].map(line => line.textContent.replace(/[0-9]+:[0-9]+/g, 'T'))"
    )
    assert await tab.run(times) == ["T: down 0.3 s, 1 loss", "T to T: down 1 min 15 s, 2 losses"]
    bars = "Object.fromEntries(['up', 'down', 'off'].map(state => [state, document.getElementById('hour-' + state)"
    counts = await tab.run(f"{bars}.getAttribute('d').split('M').length - 1]))")
    assert counts == {"up": 44, "down": 4, "off": 10}
    height = "document.getElementById('hour-{}').getBBox().height"
    heights = [await tab.run(height.format(state)) for state in ("off", "up", "down")]
    assert heights == sorted(set(heights)), "colour alone is not enough"


async def test_a_tunnel_that_is_lost_in_every_minute_has_one_line(tab: Tab, well: FakeServer) -> None:
    minutes = {f"m{ago}": (59.0, 1.0, 0, 9, 9) for ago in range(60)}
    well.world.details["prod/postgres"] = detail("prod/postgres", history=hour(**minutes))
    await viewed(tab, well)
    assert await tab.run("document.querySelectorAll('#hour-downs li').length") == 1
    every_other = {f"m{ago}": (59.0, 1.0, 0, 1, 1) for ago in range(0, 60, 2)}
    well.world.details["prod/postgres"] = detail("prod/postgres", history=hour(**every_other))
    await tab.until("document.querySelector('#hour-downs').lastChild.textContent === 'and 18 earlier times'")


async def test_a_tunnel_without_failures_and_clients_says_so(tab: Tab, well: FakeServer) -> None:
    well.world.find("prod/postgres")["connections"] = 0
    await viewed(tab, well)
    assert await part(tab, "no-failures") == "None since the process started."
    assert await part(tab, "clients-note") == "No clients."
    assert "100 % of the time that it should be up · 0 losses, 0 reconnects" in await part(tab, "hour-sums")


async def test_failures_are_shown_with_time_count_and_advice(tab: Tab, failing: FakeServer) -> None:
    await viewed(tab, failing)
    texts = await tab.run(
        "[...document.querySelectorAll('#failures li')].map(one => one.innerText.replace(/\\s+/g, ' '))"
    )
    assert [words.split()[1] for words in texts] == ["refused", "keepalive", "closed_by_server"]
    assert "3 times since" in texts[1]
    assert KEEPALIVE in texts[1]
    failing.world.details["prod/postgres"]["failures"].insert(0, failure(0, "dns", "no such name: correct `host`"))
    await tab.until("document.querySelector('#failures .reason').textContent === 'dns'")


async def test_clients_are_shown_with_source_age_and_bytes(tab: Tab, well: FakeServer) -> None:
    clients = [client("[2001:db8::1]:40112", 610, 882_000, 91_400_000), client(None, 30, state="held")]
    well.world.details["prod/postgres"] = detail("prod/postgres", clients=clients)
    well.world.find("prod/postgres").update(connections=240, held=1)
    await viewed(tab, well)
    texts = "[...document.querySelectorAll('#clients tr')].map(one => one.innerText.replace(/\\s+/g, ' ').trim())"
    first, second = await tab.run(texts)
    assert first == "[2001:db8::1]:40112 10 min ↑ sent 861 KiB ↓ received 87.2 MiB"
    assert second.startswith("unix socket (held) 3")
    assert await part(tab, "clients-note") == "The newest 2 of 241."
    clients.pop(0)
    await tab.until("document.querySelectorAll('#clients tr').length === 1")


async def test_the_last_client_without_a_connection_is_shown(tab: Tab, failing: FakeServer) -> None:
    await viewed(tab, failing, "#tunnel=staging/browse")
    words = await part(tab, "client-failure")
    assert words.startswith("Last client without a connection: 10.20.4.17:61019 at ")
    assert words.endswith(": dial_failed: wiki.internal:443 refuses connections: start the service there")
    failing.world.find("staging/browse")["lastClientFailure"] = None
    await tab.until("!document.getElementById('client-failure').checkVisibility()")


async def test_a_query_is_copied_to_the_clipboard(tab: Tab, well: FakeServer) -> None:
    await viewed(tab, well)
    await tab.call("Page.bringToFront")
    button = "[...document.querySelectorAll('#queries button')].find(one => one.ariaLabel === 'Copy the query: Up')"
    await tab.run(f"{button}.focus()")
    await tab.press("Enter", text="\r", code=13)
    await tab.until(f"{button}.textContent === 'Copied'")
    await tab.press("Escape", code=27)
    await tab.run("document.getElementById('filter').focus()")
    await tab.call("Input.dispatchKeyEvent", type="rawKeyDown", key="v", modifiers=2, commands=["paste"])
    assert await tab.run("document.getElementById('filter').value") == 'ssh_tunnel_up{target="prod",tunnel="postgres"}'


async def test_without_a_clipboard_the_query_is_selected(tab: Tab, well: FakeServer) -> None:
    source = "Object.defineProperty(navigator, 'clipboard', {value: undefined})"
    await tab.call("Page.addScriptToEvaluateOnNewDocument", source=source)
    await viewed(tab, well)
    await tab.click("document.querySelector('#queries button')")
    await tab.until('getSelection().toString() === \'ssh_tunnel_up{target="prod",tunnel="postgres"}\'')
    assert await tab.run("document.querySelector('#queries button').textContent") == "Selected"


async def test_names_are_escaped_in_queries(tab: Tab, well: FakeServer) -> None:
    await tab.open(well.url)
    query = await tab.run(
        "import('./page/queries.js').then(({queriesOf}) => queriesOf({target: 'a\"b', name: 'c\\\\d\\ne'})[0][1])"
    )
    assert query == r'ssh_tunnel_up{target="a\"b",tunnel="c\\d\ne"}'


async def test_markup_from_outside_stays_text_in_the_view_of_a_tunnel(tab: Tab) -> None:
    async with FakeServer(worlds.hostile()) as server:
        await opened(tab, server)
        await tab.click("document.querySelector('#targets a.name')")
        await tab.until("document.getElementById('detail-past').checkVisibility()")
        assert await tab.run(TITLE) == f"{ATTACK}/{ATTACK}"
        assert await tab.run("window.broken === undefined")
        assert await tab.run("document.querySelectorAll('img, script:not([src])').length") == 0
        places = "#instance, #detail *"
        texts = await tab.run(f"[...document.querySelectorAll({json.dumps(places)})].map(node => node.textContent)")
        assert sum(ATTACK in one for one in texts) >= 9
        await tab.run("location.reload()")
        await tab.until(f"document.readyState === 'complete' && {TITLE} === {json.dumps(f'{ATTACK}/{ATTACK}')}")
        assert await tab.run("window.broken === undefined")


async def test_an_address_of_an_unknown_tunnel_says_so(tab: Tab, well: FakeServer) -> None:
    await opened(tab, well)
    for unknown in ("prod/none", ATTACK, "javascript:alert(1)", "a%00b", "%FF", "%", "/", "a" * 3000):
        await tab.run(f"void (location.hash = {json.dumps(f'#tunnel={unknown}')})", gesture=True)
        await tab.until("document.getElementById('detail-missing').textContent.startsWith('There is no tunnel ')")
        assert await tab.run("window.broken === undefined")
        assert not await tab.run("document.getElementById('detail-state').checkVisibility()")
        await check_that_nothing_is_too_wide(tab)
        await tab.press("Escape", code=27)
        await tab.until(f"!{IS_OPEN}")
    assert len(await shown(tab)) == 8


async def test_an_address_that_is_too_long_for_a_request_is_no_lost_connection(tab: Tab, well: FakeServer) -> None:
    await opened(tab, well, f"#tunnel={'a' * 20_000}")
    asked = well.asked
    await eventually(lambda: well.asked >= asked + 2, message="two polls")
    assert not await tab.run("document.getElementById('lost').checkVisibility()")
    assert (await part(tab, "detail-missing")).startswith("There is no tunnel aaa")


async def test_a_tunnel_that_is_removed_while_it_is_shown_is_reported(tab: Tab, well: FakeServer) -> None:
    await viewed(tab, well)
    well.world.tunnels = [one for one in well.world.tunnels if one["id"] != "prod/postgres"]
    await tab.until("document.getElementById('detail-missing').checkVisibility()")
    assert await part(tab, "detail-missing") == (
        "There is no tunnel prod/postgres: it was renamed or removed, or the address is wrong."
    )
    well.world.ending = True
    await tab.until("document.getElementById('detail-missing').textContent.startsWith('The process is ending')")


# --- looks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [320, 360, 768, 1280])
@pytest.mark.parametrize("case", ["some_failing", "hostile"])
async def test_the_view_of_a_tunnel_does_not_scroll_sideways(tab: Tab, width: int, case: str) -> None:
    world: World = getattr(worlds, case)()
    if case == "hostile":
        world.tunnels.append(tunnel(ATTACK, "x" * 300, "y" * 300, "z" * 300))
    async with FakeServer(world) as server:
        await tab.size(width, 844, phone=width < 500)
        await opened(tab, server)
        for link in ("a.name", ".target:last-child li:last-child a.name"):
            await tab.click(f"document.querySelector('#targets {link}')")
            await tab.until("document.getElementById('detail-past').checkVisibility()")
            await check_that_nothing_is_too_wide(tab)
            await tab.click("document.getElementById('detail-back')")
            await tab.until(f"!{IS_OPEN}")


async def test_everything_that_a_finger_touches_has_44_pixels(tab: Tab, failing: FakeServer) -> None:
    await tab.size(360, 800, phone=True)
    await opened(tab, failing)
    small = """[...document.querySelectorAll('button, input')].filter(one => one.checkVisibility())
        .filter(one => one.getBoundingClientRect().height < 44 || one.getBoundingClientRect().width < 44)
        .map(one => one.id || one.textContent)"""
    assert await tab.run(small) == []
    # A row is the link: also where its text is not.
    await tab.run(f"{row('staging/web')}.scrollIntoView()")
    await painted(tab)
    box = await tab.run(f"{row('staging/web')}.getBoundingClientRect().toJSON()")
    assert box["height"] >= 44
    touch = {"x": box["right"] - 12, "y": box["bottom"] - 12, "button": "left", "clickCount": 1}
    for kind in ("mousePressed", "mouseReleased"):
        await tab.call("Input.dispatchMouseEvent", type=kind, **touch)
    await tab.until(f"{IS_OPEN} && {TITLE} === 'staging/web'")
    await tab.until("document.getElementById('detail-past').checkVisibility()")
    assert await tab.run(small) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_the_view_of_a_tunnel_has_enough_contrast(tab: Tab, failing: FakeServer, scheme: str) -> None:
    await tab.media(prefers_color_scheme=scheme, prefers_reduced_motion="reduce")
    await viewed(tab, failing)
    found = await tab.run(CONTRAST)
    assert found["low"] == {}
    assert found["pairs"] > 12
    await failing.vanish()
    await tab.until("document.getElementById('detail-age').checkVisibility()")
    assert (await tab.run(CONTRAST))["low"] == {}


async def test_the_view_of_a_tunnel_respects_reduced_motion(tab: Tab, failing: FakeServer) -> None:
    await viewed(tab, failing, "#tunnel=staging/debug")
    assert await tab.run("document.getAnimations().length") > 0
    await tab.media(prefers_reduced_motion="reduce")
    await tab.until("document.getAnimations().length === 0")


async def test_the_view_of_a_tunnel_is_accessible(tab: Tab, failing: FakeServer) -> None:
    await viewed(tab, failing)
    nodes = (await tab.call("Accessibility.getFullAXTree"))["nodes"]
    named = [(one["role"]["value"], one["name"]["value"]) for one in nodes if not one["ignored"] and "name" in one]
    assert ("article", "prod/postgres") in named
    assert ("button", "All tunnels") in named
    assert ("table", "Live clients") in named
    assert {name for role, name in named if role == "columnheader"} == {"Source", "For", "Traffic"}
    assert {name for role, name in named if role == "region"} >= {
        "Last hour",
        "Last failures",
        "Live clients",
        "Metrics",
    }
    assert not [role for role, name in named if role in ("button", "link", "region", "article", "table") and not name]
    copies = [name for role, name in named if role == "button" and name.startswith("Copy")]
    assert len(copies) == len(set(copies)) > 10
    heads = (
        "[...document.querySelectorAll('h1, h2, h3')].filter(one => one.checkVisibility()).map(one => +one.tagName[1])"
    )
    assert all(after <= before + 1 for before, after in pairwise(await tab.run(heads)))
    assert await tab.run('document.querySelectorAll(\'[tabindex]:not([tabindex="0"], [tabindex="-1"])\').length') == 0


async def test_an_update_keeps_focus_and_selection(tab: Tab, failing: FakeServer) -> None:
    await viewed(tab, failing)
    await tab.run("document.querySelectorAll('#queries button')[3].focus()")
    await tab.run("getSelection().selectAllChildren(document.querySelector('#failures .message'))")
    asked = failing.asked
    await eventually(lambda: failing.asked >= asked + 2, message="two polls")
    assert await tab.run("document.activeElement === document.querySelectorAll('#queries button')[3]")
    assert await tab.run("getSelection().toString()") == REFUSED
