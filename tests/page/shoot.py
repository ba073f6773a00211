"""Takes the screenshots in docs/screenshots:  PYTHONPATH=tests python -m page.shoot [DIRECTORY [NAME...]]."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Collection
from pathlib import Path

from page import world as worlds
from page.browser import Chromium, new_tab
from page.fake import FakeServer
from page.world import World

SHOTS = Path(__file__).parents[2] / "docs" / "screenshots"

_FAILING, _ONE, _BUSY = "some_failing", "#tunnel=prod/postgres", "#tunnel=staging/browse"
# name, world, view, width, height, phone, scheme
PICTURES = (
    ("all-up", "all_up", "", 1440, 800, False, "light"),
    ("some-failing", _FAILING, "", 1440, 1120, False, "light"),
    ("dark", _FAILING, "", 1440, 1120, False, "dark"),
    ("phone", _FAILING, "", 390, 1400, True, "light"),
    ("lost-contact", "all_up", "", 1440, 500, False, "light"),
    ("tunnel", _FAILING, _ONE, 1440, 1260, False, "light"),
    ("tunnel-dark", _FAILING, _BUSY, 1440, 1160, False, "dark"),
    ("tunnel-phone", _FAILING, _BUSY, 360, 1500, True, "light"),
    ("tunnel-phone-dark", _FAILING, _ONE, 360, 1500, True, "dark"),
)


async def shoot(chromium: Chromium, into: Path, wanted: Collection[str]) -> None:
    for name, case, view, width, height, phone, scheme in PICTURES:
        if wanted and name not in wanted:
            continue
        world: World = getattr(worlds, case)()
        async with FakeServer(world, 9722) as server, new_tab(chromium) as tab:
            await tab.size(width, height, phone=phone, scale=2 if phone else 1)
            await tab.call("Emulation.setScrollbarsHidden", hidden=True)
            await tab.media(prefers_color_scheme=scheme, prefers_reduced_motion="reduce")
            await tab.open(server.url + view)
            await tab.until("document.querySelectorAll('.tunnel').length > 5")
            for factor in (1.0, 1.0001, 0.9999, 1.00015, 1.0, 1.0):  # a visible traffic graph
                world.rates = {one: (sent * factor, got * factor) for one, (sent, got) in world.rates.items()}
                await asyncio.sleep(2.1)
            if name == "lost-contact":
                await server.vanish()
                await tab.until("document.getElementById('contact').innerText.includes('3 s')")
            await tab.shoot(into / f"{name}.png")
            print(name, (into / f"{name}.png").stat().st_size)


if __name__ == "__main__":
    with Chromium() as _chromium:
        asyncio.run(shoot(_chromium, Path(sys.argv[1]) if len(sys.argv) > 1 else SHOTS, sys.argv[2:]))
