"""The status page in a real browser, against made-up status."""

from __future__ import annotations

import json
import time
from itertools import pairwise

import pytest

from page import world as worlds
from page.browser import Tab
from page.details import stamp
from page.fake import CSP, FakeServer
from page.seen import CONTRAST, check_that_nothing_is_too_wide, opened, row, shown, text
from page.world import ATTACK, PROBE, REFUSED, World, tunnel
from reconciler.core.observed import Phase
from support.wait import eventually

# --- what it shows ----------------------------------------------------------------------------------------------------


async def test_every_tunnel_is_under_its_target_with_its_phase(tab: Tab, failing: FakeServer) -> None:
    await opened(tab, failing)
    for one in failing.world.tunnels:
        assert await tab.run(f"{row(one['id'])}.querySelector('.word').textContent") == one["phase"]
        assert await tab.run(f"{row(one['id'])}.closest('.target').querySelector('.name').textContent") == one["target"]


async def test_every_phase_has_a_shape_of_its_own(tab: Tab, well: FakeServer) -> None:
    """Colour alone is not enough: one man in twelve is colour-blind."""
    for index, phase in enumerate(Phase):
        well.world.tunnels.append(
            tunnel("prod", f"phase-{index}", f"127.0.0.1:{7000 + index}", "x:1", phase=phase.value)
        )
    await opened(tab, well)
    shapes: dict[str, list[str]] = {}
    for phase in Phase:
        style = await tab.run(
            f"""(() => {{
            const shape = document.querySelector('.tunnel .phase[data-phase={phase}] .shape');
            const style = getComputedStyle(shape);
            const filled = style.backgroundColor !== 'rgba(0, 0, 0, 0)';
            const closed = style.borderRightColor === style.borderLeftColor;
            return [style.clipPath, style.borderRadius, style.height, filled, closed].join();
            }})()"""
        )
        shapes.setdefault(style, []).append(phase)
    assert len(shapes) == len(Phase), shapes


async def test_a_problem_shows_its_reason_message_and_next_try(tab: Tab, failing: FakeServer) -> None:
    await opened(tab, failing)
    shown_text = await text(tab, f"{row('staging/web')}.querySelector('.why')")
    assert shown_text == f"probe {PROBE}"
    shown_text = await text(tab, f"{row('prod/redis')}.querySelector('.why')")
    assert shown_text.startswith("local_port_in_use 127.0.0.1:6379 is in use by redis-server")
    assert "next try in" in shown_text or "trying now" in shown_text


async def test_invisible_characters_are_shown_as_escapes(tab: Tab, failing: FakeServer) -> None:
    hidden = "a\u202eb\u200bc\U000e0041d"
    next(one for one in failing.world.tunnels if one["id"] == "prod/postgres")["description"] = hidden
    await opened(tab, failing)
    shown_text = await text(tab, f"{row('prod/postgres')}.querySelector('.note')")
    assert r"a\u202eb\u200bc\U000e0041d" in shown_text


async def test_a_failure_of_a_target_is_shown_once(tab: Tab, failing: FakeServer) -> None:
    await opened(tab, failing)
    page: str = await text(tab, "document.getElementById('targets')")
    assert page.count(REFUSED) == 1
    assert (await text(tab, f"{row('prod/postgres')}.querySelector('.since')")).startswith("refused for")


async def test_failures_that_need_action_are_marked(tab: Tab, failing: FakeServer) -> None:
    await opened(tab, failing)
    marked = await tab.run(
        "[...document.querySelectorAll('.target .action')].filter(mark => mark.checkVisibility())"
        ".map(mark => mark.closest('.target').querySelector('.name').textContent)"
    )
    assert marked == ["search"]


async def test_a_countdown_runs_between_polls(tab: Tab, failing: FakeServer) -> None:
    failing.world.retries["prod/redis"] = 500.0
    await opened(tab, failing)
    words = f"{row('prod/redis')}.querySelector('.next').textContent"
    before = await tab.run(words)
    assert before.startswith("next try in 8 min")
    failing.world.retries["prod/redis"] = 30.0
    before = await tab.until(f"({words}).endsWith(' s') && {words}")
    await tab.until(f"{words} !== {json.dumps(before)}")


async def test_the_route_is_drawn_from_the_listener_to_the_destination(tab: Tab, well: FakeServer) -> None:
    await opened(tab, well)
    assert (await tab.run(f"{row('prod/postgres')}.querySelector('.route').textContent")).split(" → ") == [
        "127.0.0.1:5432",
        "jump.example.com:22",
        "bastion.eu.example.com:22",
        "db.internal:5432",
    ]
    # Reverse direction: the server listens, the destination is here.
    assert await tab.run(f"{row('edge/webhook')}.querySelector('.route').textContent") == (
        "127.0.0.1:8080 on edge → here → localhost:3000"
    )


@pytest.mark.parametrize(
    ("tunnel_id", "broken"),
    [
        ("prod/redis", ["127.0.0.1:6379", "✕", "✕"]),  # the target is down too
        ("staging/web", ["✕", "web.internal:80"]),
        ("prod/replica", ["✕", "✕"]),
        ("staging/browse", []),
        ("prod/disabled", ["✕", "✕"]),
        ("staging/disabled", []),
    ],
)
async def test_the_broken_part_of_a_route_is_marked(
    tab: Tab, failing: FakeServer, tunnel_id: str, broken: list[str]
) -> None:
    for target in ("prod", "staging"):
        failing.world.tunnels.append(
            tunnel(target, "disabled", "127.0.0.1:5999", "x:1", phase="off", reason="disabled")
        )
    await opened(tab, failing)
    marked = f"[...{row(tunnel_id)}.querySelectorAll('.route [data-broken]')].map(part => part.textContent)"
    assert await tab.run(marked) == broken


async def test_a_status_without_jump_hosts_or_configured_hosts_still_draws_a_route(
    tab: Tab, failing: FakeServer
) -> None:
    for target in failing.world.targets:
        del target["via"], target["hosts"]
    await opened(tab, failing)
    assert await tab.run(f"{row('prod/replica')}.querySelector('.route').textContent") == (
        "127.0.0.1:5433 ✕ prod → db-2.internal:5432"
    )


async def test_rates_are_differences_of_the_counters(tab: Tab, well: FakeServer) -> None:
    well.world.rates["prod/postgres"] = (3 * 1024**2, 0.0)
    await opened(tab, well)
    sent = f"{row('prod/postgres')}.querySelector('.sent').textContent"
    await tab.until(f"/^[0-9.]+ MiB.s$/.test({sent})")
    well.world.rates["prod/postgres"] = (0.0, 0.0)  # the counter decreases: a new process
    await tab.until(f"{sent} === '0'")


async def test_live_and_held_clients_are_counted_separately(tab: Tab, failing: FakeServer) -> None:
    await opened(tab, failing)
    assert await text(tab, f"{row('prod/postgres')}.querySelector('.clients')") == "0 clients 7 held"
    assert await text(tab, f"{row('staging/browse')}.querySelector('.clients')") == "5 clients"


async def test_an_invalid_file_is_shown_with_its_errors(tab: Tab, failing: FakeServer) -> None:
    await opened(tab, failing)
    files = await text(tab, "document.getElementById('files')")
    assert "tunnels.yaml valid" in files
    assert "search.yaml invalid" in files
    assert "did you mean `localPort`?" in files
    assert await text(tab, "document.getElementById('converged')") == "converging…"
    assert await text(tab, "document.getElementById('revision')") == "8c1f0a92d4e6"


async def test_events_are_shown_newest_first_and_once(tab: Tab, well: FakeServer) -> None:
    await opened(tab, well)
    await tab.until("document.querySelectorAll('#events li').length === 4")
    newest = "document.querySelector('#events li')"
    assert "tunnel staging/browse" in await text(tab, newest)
    event = well.world.turn("staging/web", "unhealthy", "probe", PROBE)
    well.tell(event)
    well.tell(event)
    await tab.until(f"{newest}.innerText.includes('up → unhealthy')")
    assert PROBE in await text(tab, newest)
    assert await tab.run("document.querySelectorAll('#events li').length") == 5


# --- what comes from elsewhere is text --------------------------------------------------------------------------------


async def test_markup_in_names_addresses_and_messages_stays_text(tab: Tab) -> None:
    async with FakeServer(worlds.hostile()) as server:
        await opened(tab, server)
        await tab.until("document.querySelectorAll('#events li').length > 0")
        assert await tab.run("window.broken === undefined")
        assert await tab.run("document.querySelectorAll('img, script:not([src])').length") == 0
        places = "h2 .name, .host, .tunnel h3, .stop, .tunnel .message, .note, .files code, .files pre, .subject"
        texts = await tab.run(f"[...document.querySelectorAll({json.dumps(places)})].map(node => node.textContent)")
        assert sum(ATTACK in one for one in texts) >= 9
        assert await tab.run(f"document.querySelector('.target h2 .name').textContent === {json.dumps(ATTACK)}")


async def test_the_page_needs_nothing_that_the_content_policy_refuses(tab: Tab, failing: FakeServer) -> None:
    """The fixture checks the console. This test checks that the policy is sent and enforced."""
    await opened(tab, failing)
    assert await tab.run("fetch('').then(answer => answer.headers.get('Content-Security-Policy'))") == CSP
    await tab.run("document.body.append(Object.assign(document.createElement('script'), {text: 'window.inline = 1'}))")
    assert await tab.run("window.inline === undefined")
    await eventually(lambda: tab.complaints, message="the policy's refusal is in the console")
    tab.complaints.clear()


# --- it lives ---------------------------------------------------------------------------------------------------------


async def test_a_change_updates_only_its_row(tab: Tab, well: FakeServer) -> None:
    well.world.rates.clear()
    await opened(tab, well)
    await tab.run("void (window.mark = document.querySelector('.tunnel'))")
    await tab.run(
        f"""void (window.touched = [], new MutationObserver(all => touched.push(...all.map(one =>
            (one.target.closest ?? (() => null)).call(one.target, '.tunnel')?.querySelector('.name').title)))
            .observe({row("staging/web")}.parentNode,
                {{subtree: true, childList: true, attributes: true, characterData: true}}))"""
    )
    well.tell(well.world.turn("staging/web", "unhealthy", "probe", PROBE))
    await tab.until(f"{row('staging/web')}.querySelector('.word').textContent === 'unhealthy'")
    assert set(await tab.run("touched")) == {"staging/web"}
    assert await tab.run("window.mark === document.querySelector('.tunnel')")


async def test_added_tunnels_appear_in_the_order_of_the_file(tab: Tab, well: FakeServer) -> None:
    await opened(tab, well)
    well.world.tunnels = [one for one in well.world.tunnels if one["id"] != "prod/replica"]
    well.world.tunnels.insert(0, tunnel("prod", "first", "127.0.0.1:5000", "db.internal:5000"))
    well.world.targets.reverse()
    await tab.until("document.querySelector('.target .name').textContent === 'edge'")
    prod = [one for one in await shown(tab) if one.startswith("prod/")]
    assert prod == ["prod/first", "prod/postgres", "prod/redis", "prod/docker"]


async def test_an_event_triggers_a_poll(tab: Tab, well: FakeServer) -> None:
    await opened(tab, well)
    await eventually(lambda: well.listeners, message="the page listens to events")
    asked = well.asked
    well.tell(well.world.turn("staging/web", "down", "refused", REFUSED))
    await eventually(lambda: well.asked > asked)


async def test_the_page_polls_without_events(tab: Tab, well: FakeServer) -> None:
    await opened(tab, well)
    well.world.turn("staging/web", "unhealthy", "probe", PROBE)
    await tab.until(f"{row('staging/web')}.querySelector('.word').textContent === 'unhealthy'")


async def test_changes_are_announced_to_screen_readers(tab: Tab, well: FakeServer) -> None:
    await opened(tab, well)
    assert await tab.run("document.getElementById('announce').ariaLive ?? 'polite'") == "polite"
    well.tell(well.world.turn("staging/web", "unhealthy", "probe", PROBE))
    shown_text = "document.getElementById('announce').textContent"
    await tab.until(f"{shown_text} === 'tunnel staging/web is unhealthy. 1 tunnel with problems'")


async def test_a_lost_connection_is_shown_until_it_is_restored(tab: Tab, well: FakeServer) -> None:
    await opened(tab, well)
    assert await tab.run("document.title") == "no problems · tunnels"
    await well.vanish()
    await tab.until("document.getElementById('lost').checkVisibility()")
    shown_text = await text(tab, "document.getElementById('lost')")
    assert shown_text.startswith(f"No connection to 127.0.0.1:{well.port}: no response. The page shows the status of ")
    assert await tab.run("document.title") == "disconnected · tunnels"
    await tab.until("/^disconnected for/.test(document.getElementById('contact').innerText.trim())")
    assert len(await shown(tab)) == 8  # the last status stays visible
    well.world.turn("staging/web", "down", "refused", REFUSED)
    await well.come_back()
    await tab.until("!document.getElementById('lost').checkVisibility()")
    assert await tab.run(f"{row('staging/web')}.querySelector('.word').textContent") == "down"
    assert await tab.run("document.title") == "1 problem · tunnels"


async def test_a_lost_connection_names_the_time_of_the_last_status(tab: Tab, well: FakeServer) -> None:
    """The page was hidden for two days, as on a laptop that sleeps: the first poll after that fails."""
    await opened(tab, well)
    await well.vanish()
    await tab.run("void (now = Date.now(), Date.now = () => now + 2 * 86_400_000)")
    await tab.until("document.getElementById('lost').checkVisibility()")
    date = await tab.run("new Date(now).toLocaleDateString()")
    assert f"The page shows the status of {date} " in await text(tab, "document.getElementById('lost')")


async def test_a_process_that_is_ending_says_so(tab: Tab, well: FakeServer) -> None:
    await opened(tab, well)
    well.world.ending, well.world.targets = True, []
    well.world.tunnels = [tunnel("prod", "db", "127.0.0.1:5000", "db:5000", phase="draining", connections=2)]
    await tab.until("document.title === 'ending · tunnels'")
    shown_text = await text(tab, "document.getElementById('nothing')")
    assert shown_text == "The process is ending: it accepts no new clients, and 2 clients may finish."
    assert await text(tab, "document.getElementById('converged')") == "ending"


async def test_an_error_response_counts_as_a_lost_connection(tab: Tab, well: FakeServer) -> None:
    await opened(tab, well)
    well.status_code = 503
    await tab.until("document.getElementById('lost').innerText.includes('the server answered 503')")
    tab.complaints.clear()


# --- finding ----------------------------------------------------------------------------------------------------------


async def test_slash_focuses_the_filter_which_matches_all_words(tab: Tab, failing: FakeServer) -> None:
    await opened(tab, failing)
    await tab.press("/", text="/")
    assert await tab.run("document.activeElement.id") == "filter"
    await tab.type("team=data")
    await tab.until("document.querySelectorAll('.tunnel').length === 2")
    assert await shown(tab) == ["prod/postgres", "prod/replica"]
    await tab.type(" 5433")
    await tab.until("document.querySelectorAll('.tunnel').length === 1")
    await tab.press("Escape", code=27)
    await tab.until(f"document.querySelectorAll('.tunnel').length === {len(failing.world.tunnels)}")
    await tab.type("nothing like it")
    await tab.until("document.getElementById('nothing').checkVisibility()")


async def test_only_problems_shows_what_is_down_or_unhealthy(tab: Tab, failing: FakeServer) -> None:
    await opened(tab, failing)
    await tab.run("document.getElementById('problems').click()")
    trouble = [one["id"] for one in failing.world.tunnels if one["phase"] in ("down", "unhealthy")]
    assert sorted(await shown(tab)) == sorted(trouble)
    assert await tab.run("document.getElementById('problems').ariaPressed") == "true"
    failing.tell(failing.world.turn("staging/web", "up"))
    await tab.until(f"document.querySelectorAll('.tunnel').length === {len(trouble) - 1}")


async def test_the_title_counts_what_only_problems_shows(tab: Tab, failing: FakeServer) -> None:
    await opened(tab, failing)
    trouble = [one["id"] for one in failing.world.tunnels if one["phase"] in ("down", "unhealthy")]
    assert await tab.run("document.getElementById('problem-count').textContent") == str(len(trouble))
    assert await tab.run("document.title") == f"{len(trouble)} problems · tunnels"


async def test_a_failed_target_without_a_failed_tunnel_is_one_problem(tab: Tab, well: FakeServer) -> None:
    for one in well.world.tunnels:
        if one["target"] == "staging":
            one["phase"] = "off"
    await opened(tab, well)
    assert await tab.run("document.title") == "no problems · tunnels"
    well.world.turn("staging", "down", "refused", REFUSED)
    await tab.until("document.title === '1 problem · tunnels'")
    assert await tab.run("document.getElementById('problem-count').textContent") == "1"
    announced = "document.getElementById('announce').textContent"
    await tab.until(f"{announced} === 'target staging is down. 1 target with problems'")


async def test_a_filter_is_in_the_url(tab: Tab, failing: FakeServer) -> None:
    await opened(tab, failing, "#q=edge&phase=standby")
    assert await shown(tab) == ["edge/leader"]
    await tab.press("Escape", code=27)
    await tab.until("location.hash === ''")


async def test_the_page_says_that_there_are_no_problems(tab: Tab, well: FakeServer) -> None:
    await tab.open(well.url + "#problems=1")
    await tab.until("document.getElementById('nothing').innerText === 'No problems: 8 tunnels.'")


async def test_everything_can_be_reached_and_used_with_the_keyboard(tab: Tab, failing: FakeServer) -> None:
    await opened(tab, failing)
    reached: list[str] = []
    while "BODY" not in reached:
        await tab.press("Tab", code=9)
        reached.append(
            await tab.run(
                "document.activeElement.id || document.activeElement.className || document.activeElement.tagName"
            )
        )
        outlined = await tab.run("getComputedStyle(document.activeElement).outlineStyle !== 'none'")
        assert outlined or reached[-1] in ("BODY", "targets"), f"{reached[-1]} does not show that it has the focus"
        if reached[-1] == "problems":
            await tab.press(" ", text=" ", code=32)
    assert reached[:3] == ["skip", "filter", "problems"]
    assert reached.count("chip") == len({one["phase"] for one in failing.world.tunnels})
    assert {"PRE", "events"} <= set(reached)  # scrollable elements
    assert await tab.run("document.getElementById('problems').ariaPressed") == "true"


# --- looks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
@pytest.mark.parametrize("case", ["some_failing", "hostile"])
async def test_nothing_scrolls_sideways(tab: Tab, width: int, case: str) -> None:
    world: World = getattr(worlds, case)()
    async with FakeServer(world) as server:
        await tab.size(width, 844, phone=width < 500)
        await opened(tab, server)
        await tab.until("document.querySelectorAll('#events li').length > 0")
        await check_that_nothing_is_too_wide(tab)


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_every_text_and_shape_has_enough_contrast(tab: Tab, failing: FakeServer, scheme: str) -> None:
    """WCAG 2.2 AA: 4.5:1 for text, 3:1 for shapes and for the borders of controls; measured as rendered."""
    await tab.media(prefers_color_scheme=scheme, prefers_reduced_motion="reduce")
    await tab.size(1280, 6000)  # tall enough that content-visibility skips no row
    await opened(tab, failing)
    await tab.until("document.querySelectorAll('#events li').length > 0")
    found = await tab.run(CONTRAST)
    assert found["low"] == {}
    assert found["pairs"] > 15
    await failing.vanish()
    await tab.until("document.getElementById('lost').checkVisibility()")
    assert (await tab.run(CONTRAST))["low"] == {}
    tab.complaints.clear()


async def test_reduced_motion_stops_all_animations(tab: Tab, failing: FakeServer) -> None:
    await opened(tab, failing)
    assert await tab.run("document.getAnimations().length") > 0
    await tab.media(prefers_reduced_motion="reduce")
    await tab.until("document.getAnimations().length === 0")


async def test_the_document_is_accessible(tab: Tab, failing: FakeServer) -> None:
    """Each control has a name, headings do not skip a level, ids are unique."""
    await opened(tab, failing)
    nodes = (await tab.call("Accessibility.getFullAXTree"))["nodes"]
    roles = {"button", "searchbox", "link", "region", "alert", "group", "search", "main", "complementary"}
    nameless = [
        one
        for one in nodes
        if one.get("role", {}).get("value") in roles - {"main", "complementary", "alert", "region"}
        and not one["ignored"]
        and not one["name"]["value"]
    ]
    assert not nameless
    levels = await tab.run("[...document.querySelectorAll('h1, h2, h3')].map(head => Number(head.tagName[1]))")
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    ids = await tab.run("[...document.querySelectorAll('[id]')].map(node => node.id)")
    assert len(ids) == len(set(ids))


# --- size -------------------------------------------------------------------------------------------------------------


async def test_a_thousand_tunnels_that_all_change_are_updated(tab: Tab) -> None:
    """Rows out of view have no layout."""
    async with FakeServer(worlds.thousand()) as server:
        await opened(tab, server)
        assert await tab.run("document.querySelectorAll('.tunnel').length") == 1000
        sent = f"{row('site-00/service-00')}.querySelector('.sent').textContent"
        await tab.until(f"/.B.s$/.test({sent})")
        shown = await tab.run(sent)
        await tab.until(f"{sent} !== '{shown}'")
        assert await tab.run(
            f"!{row('site-49/service-19')}.querySelector('.name').checkVisibility({{contentVisibilityAuto: true}})"
        )


async def test_filtering_a_thousand_tunnels(tab: Tab) -> None:
    async with FakeServer(worlds.thousand()) as server:
        await opened(tab, server)
        await tab.run(
            """(() => { const input = document.getElementById('filter'); input.value = 'site-49';
            input.dispatchEvent(new Event('input')); })()"""
        )
        assert await tab.run("document.querySelectorAll('.tunnel').length") == 20


async def test_formats_of_numbers_and_times(tab: Tab, well: FakeServer) -> None:
    await tab.open(well.url)
    words = {
        "bytes(0)": "0 B",
        "bytes(1023)": "1.00 KiB",
        "bytes(1536)": "1.50 KiB",
        "bytes(15 * 1024 ** 2)": "15.0 MiB",
        "bytes(2 ** 40)": "1.00 TiB",
        "rate(0.4)": "0",
        "span(59_400)": "59 s",
        "span(125 * 60_000)": "2 h 5 min",
        "span(49 * 3600_000)": "2 d 1 h",
        "roundTrip(0.0042)": "4.2 ms",
        "count(1, 'tunnel')": "1 tunnel",
        "clock(NaN)": "",
        "duration(0.3)": "0.3 s",
        "duration(9.96)": "10 s",
        "duration(59.6)": "1 min",
        "duration(70.2)": "1 min 10 s",
        "moment(0, 60_000) === clock(0)": True,
        "moment(0, 3 * 86_400_000) === `${new Date(0).toLocaleDateString()} ${clock(0)}`": True,
        "millis(1.5)": 1500,
        "millis('2027-01-31T00:00:00Z')": 1_801_353_600_000,
        "Number.isNaN(millis(null))": True,
        "listening({type: 'local', listen: '127.0.0.1:5432', target: 'prod'})": "127.0.0.1:5432",
        "listening({type: 'local', listen: '[::1]:0', target: 'prod'})": "[::1]:(any port)",
        "listening({type: 'remote', listen: '127.0.0.1:5432', target: 'prod'})": "127.0.0.1:5432 on prod",
    }
    names = "bytes, rate, span, roundTrip, count, clock, duration, moment, millis, listening"
    shown_text = await tab.run(f"import('./page/format.js').then(({{{names}}}) => [{', '.join(words)}])")
    assert dict(zip(words, shown_text, strict=True)) == words


async def test_a_wrong_browser_clock_does_not_affect_the_countdown(tab: Tab, well: FakeServer) -> None:
    """The clock of the browser is an hour late; the Date header corrects it."""
    await tab.call(
        "Page.addScriptToEvaluateOnNewDocument",
        source="const real = Date.now; Date.now = () => real() - 3600_000;",
    )
    well.world.turn("staging/web", "down", "refused", REFUSED)
    well.world.find("staging/web")["nextTryAt"] = stamp(time.time() + 45 * 60)
    await opened(tab, well)
    shown_text = await tab.run(f"{row('staging/web')}.querySelector('.next').textContent")
    assert shown_text in ("next try in 45 min", "next try in 44 min")
