"""What a test sees on the page: expressions, texts, and checks of the layout."""

from __future__ import annotations

import json

from page.browser import Tab
from page.fake import FakeServer

ROW = "[...document.querySelectorAll('#targets .tunnel')].find(row => row.querySelector('.name').title === {})"
TITLE = "document.getElementById('detail-title').textContent"
IS_OPEN = "document.getElementById('detail').checkVisibility()"
FOCUSED = "document.activeElement.id || document.activeElement.title || document.activeElement.tagName"


def row(tunnel_id: str) -> str:
    return ROW.format(json.dumps(tunnel_id))


async def opened(tab: Tab, server: FakeServer, view: str = "") -> None:
    await tab.open(server.url + view)
    await tab.until("document.querySelectorAll('.tunnel').length > 0")
    await painted(tab)


async def painted(tab: Tab) -> None:
    """Wait for a frame: until then, rows have no layout and no innerText."""
    await tab.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))")


async def shown(tab: Tab) -> list[str]:
    found: list[str] = await tab.run("[...document.querySelectorAll('.tunnel .name')].map(name => name.title)")
    return found


async def text(tab: Tab, expression: str) -> str:
    await painted(tab)
    found: str = await tab.run(f"({expression}).innerText.replace(/\\s+/g, ' ').trim()")
    return found


async def viewed(tab: Tab, server: FakeServer, view: str = "#tunnel=prod/postgres") -> None:
    """Open the page at a tunnel, and wait until its history is shown."""
    await tab.open(server.url + view)
    await tab.until("document.getElementById('detail-past').checkVisibility()")


async def part(tab: Tab, name: str) -> str:
    return await text(tab, f"document.getElementById({json.dumps(name)})")


async def check_that_nothing_is_too_wide(tab: Tab) -> None:
    too_wide = await tab.run(
        """[...document.querySelectorAll('body *')].filter(node => node.checkVisibility()
        && !node.closest('.unseen, .skip, pre') && node.getBoundingClientRect().right > innerWidth + 0.5)
        .map(node => `${node.tagName}.${node.className}`)"""
    )
    assert too_wide == []
    assert await tab.run("document.scrollingElement.scrollWidth <= innerWidth")


# Pairs of colours with too little contrast, as rendered (WCAG 2.2 AA: 4.5:1 for text, 3:1 for shapes and borders).
CONTRAST = """(() => {
  const context = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const parse = colour => {
    context.clearRect(0, 0, 1, 1);
    context.fillStyle = colour;
    context.fillRect(0, 0, 1, 1);
    return [...context.getImageData(0, 0, 1, 1).data];
  };
  const luminance = ([r, g, b]) => [r, g, b].map(value => value / 255)
    .map(value => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4)
    .reduce((sum, value, index) => sum + value * [0.2126, 0.7152, 0.0722][index], 0);
  const ground = node => {
    for (let at = node; at !== null; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      if (colour[3] === 255) return colour;
    }
    return parse('white');
  };
  const ratio = (one, other) => {
    const [high, low] = [luminance(one), luminance(other)].sort((a, b) => b - a);
    return (high + 0.05) / (low + 0.05);
  };
  const low = new Map();
  let pairs = new Set();
  const check = (node, colour, behind, least, what) => {
    const found = ratio(parse(colour), behind);
    pairs.add(`${colour} on ${behind}`);
    if (found < least) low.set(`${what} ${node.tagName}.${node.className}: ${colour} on ${behind}`, found.toFixed(2));
  };
  for (const node of document.querySelectorAll('body *')) {
    if (!node.checkVisibility() || node.closest('template')) continue;
    const style = getComputedStyle(node);
    const hasText = [...node.childNodes].some(child => child.nodeType === 3 && child.data.trim());
    if (hasText) check(node, style.color, ground(node), 4.5, 'text');
    if (node.matches('.shape, .beat')) {
      const filled = style.backgroundColor !== 'rgba(0, 0, 0, 0)';
      check(node, filled ? style.backgroundColor : style.borderLeftColor, ground(node.parentElement), 3, 'shape');
    }
    if (node.matches('button, input')) check(node, style.borderTopColor, ground(node.parentElement), 3, 'edge');
    if (node.matches('path')) check(node, style.stroke === 'none' ? style.fill : style.stroke, ground(node), 3, 'line');
  }
  const input = document.getElementById('filter');
  check(input, getComputedStyle(input, '::placeholder').color, ground(input), 4.5, 'placeholder');
  return {low: Object.fromEntries(low), pairs: pairs.size};
})()"""
