"""HTTP clients that send random requests to a running program: no response has a status of 5xx."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

from hypothesis import strategies as st

from fuzz.attacked_program import attacked_program
from fuzz.driver import Fuzz
from fuzz.requests import Sent, request, requests, statuses
from support.sshd import Sshd

_PATHS = [
    *("/metrics", "/livez", "/readyz", "/readyz/beside/echo", "/readyz/no/such", "/", "/page/style.css", "/page/x.js"),
    *("/api/v1/status", "/api/v1/events"),
]
_QUERIES = st.sampled_from(["?", "?a=b", "?%00", "?name[]=up", "?follow=1", "?" + "q" * 9000, "?\xff"])


_LOCAL = "HTTP/1.1|Host: 127.0.0.1"
_FIRST = [
    request(f"GET /metrics {_LOCAL}|Accept: application/openmetrics-text; version=9.9"),
    request(f"GET /metrics {_LOCAL}|Accept: application/openmetrics-text; version=2.0.0"),
    request(f"GET /metrics {_LOCAL}|Accept: application/openmetrics-text; version=abc"),
    request(f"GET /page/{'x' * 300}.css {_LOCAL}"),
    request(f"GET /page/%00 {_LOCAL}"),
    request(f"GET /api/v1/events {_LOCAL}", half_closes=True),
    request(f"GET /api/v1/events {_LOCAL}|Last-Event-ID: \u00b2"),
    request(f"GET /livez {_LOCAL}|Transfer-Encoding: chunked", b"zz\r\n"),
    request(f"GET /page/style.css {_LOCAL}|Range: bytes=9-1"),
]


def test_random_http_requests_do_no_harm(fuzz: Fuzz, sshd: Sshd, tmp_path: Path) -> None:
    with attacked_program(sshd, tmp_path) as (program, figures):

        def attack(sent: Sent) -> None:
            with contextlib.closing(socket.create_connection(("127.0.0.1", program.http))) as client:
                found = statuses(client, sent)
            may_be_unready = b"/readyz" in sent.data
            faults = [status for status in found if status >= 500 and not (status == 503 and may_be_unready)]
            assert not faults
            program.assert_unharmed()

        fuzz.run(
            requests(_PATHS, st.binary(max_size=40), _QUERIES, ["GET", "GET", "GET", "HEAD"]),
            attack,
            examples=150,
            first=_FIRST,
        )
    fuzz.figures += figures
