"""Server-sent events: what happens, as it happens, to one reader; and how many readers there may be."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from aiohttp import web

from reconciler.report.events import Event, Events
from reconciler.system.redaction import redact_json

STILL_HERE = 15.0  # seconds between two signs of life, so that proxies and readers know
WRITE_WITHIN = 10.0  # a reader that does not read is let go
MOST = 32  # readers at once: each keeps a connection that is never idle, and probes need some too


@dataclass(slots=True)
class Readers:
    """The connections of an application's readers, at most `most`.

    `half_closed`: those whose clients have ended their side.
    """

    half_closed: Collection[asyncio.BaseProtocol]
    most: int = MOST
    connections: set[asyncio.BaseProtocol] = field(default_factory=set)


READERS = web.AppKey("readers of events", Readers)


async def stream(request: web.Request, events: Events) -> web.StreamResponse:
    """Tell the events that are kept (those after Last-Event-ID, if the reader comes back) and then each new one."""
    known = request.app[READERS]
    readers, most = known.connections, min(known.most, MOST)
    if len(readers) >= most:
        said = f"too many event subscribers (limit {most}): try again when one of them has left"
        raise web.HTTPServiceUnavailable(reason=said)
    readers.add(request.protocol)
    try:
        return await _follow(request, events)
    finally:
        readers.discard(request.protocol)


async def _follow(request: web.Request, events: Events) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
    last = request.headers.get("Last-Event-ID", "")
    number = int(last) if last.isascii() and last.isdecimal() and len(last) < 16 else 0
    try:
        await response.prepare(request)
        while True:
            number, news = events.since(number)
            await _write(response, _lines(number - len(news) + 1, news))
            if request.protocol in request.app[READERS].half_closed:  # it may have left: it gets what is kept
                break
            try:
                async with asyncio.timeout(STILL_HERE):
                    if not await events.more(number):
                        break
            except TimeoutError:
                await _write(response, b": still here\n\n")
    except (ConnectionError, TimeoutError):
        return response  # it left, or does not read
    await response.write_eof()
    return response


def _lines(first: int, events: Iterable[Event]) -> bytes:
    told = ((number, json.dumps(redact_json(event.to_json()))) for number, event in enumerate(events, first))
    return b"".join(f"id: {number}\ndata: {data}\n\n".encode() for number, data in told)


async def _write(response: web.StreamResponse, data: bytes) -> None:
    if data:
        async with asyncio.timeout(WRITE_WITHIN):
            await response.write(data)
