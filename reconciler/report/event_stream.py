"""Server-sent events: streams events to subscribers, and limits how many subscribers there are."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from aiohttp import web

from reconciler.report.events import Event, Events
from reconciler.system.redaction import redact_json

KEEPALIVE_INTERVAL = 15.0  # seconds between two comments that keep proxies from closing an idle stream
WRITE_TIMEOUT = 10.0  # seconds: a subscriber that does not read is disconnected
SUBSCRIBERS_MAX = 32  # each one holds a connection that is never idle; other requests need connections too


@dataclass(slots=True)
class Subscribers:
    """The connections of an application's subscribers, at most `limit`.

    `half_closed`: the HTTP connections that the client will send no more requests on.
    """

    half_closed: Collection[asyncio.BaseProtocol]
    limit: int = SUBSCRIBERS_MAX
    connections: set[asyncio.BaseProtocol] = field(default_factory=set)


SUBSCRIBERS = web.AppKey("event subscribers", Subscribers)


async def stream(request: web.Request, events: Events[Event]) -> web.StreamResponse:
    """Send the events that are kept (those after Last-Event-ID, if the client sends it), then each new one."""
    known = request.app[SUBSCRIBERS]
    subscribers, limit = known.connections, min(known.limit, SUBSCRIBERS_MAX)
    if len(subscribers) >= limit:
        reason = f"too many event subscribers (limit {limit}): try again when one of them has left"
        raise web.HTTPServiceUnavailable(reason=reason)
    subscribers.add(request.protocol)
    try:
        return await _follow(request, events)
    finally:
        subscribers.discard(request.protocol)


async def _follow(request: web.Request, events: Events[Event]) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
    last = request.headers.get("Last-Event-ID", "")
    number = int(last) if last.isascii() and last.isdecimal() and len(last) < 16 else 0
    try:
        await response.prepare(request)
        while True:
            number, new = events.since(number)
            await _write(response, _lines(number - len(new) + 1, new))
            if request.protocol in request.app[SUBSCRIBERS].half_closed:
                break  # the client may have left: it gets only the events that are kept
            try:
                async with asyncio.timeout(KEEPALIVE_INTERVAL):
                    if not await events.more(number):
                        break
            except TimeoutError:
                await _write(response, b": keepalive\n\n")
    except (ConnectionError, TimeoutError):
        return response  # the client left, or does not read
    await response.write_eof()
    return response


def _lines(first: int, events: Iterable[Event]) -> bytes:
    numbered = ((number, json.dumps(redact_json(event.to_json()))) for number, event in enumerate(events, first))
    return b"".join(f"id: {number}\ndata: {data}\n\n".encode() for number, data in numbered)


async def _write(response: web.StreamResponse, data: bytes) -> None:
    if data:
        async with asyncio.timeout(WRITE_TIMEOUT):
            await response.write(data)
