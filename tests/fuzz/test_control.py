"""Random requests on the control socket of a running program: each gets a response, and none does harm.

Clients of the control socket may pause and restart tunnels, so no request names the unrelated tunnel.
"""

from __future__ import annotations

import contextlib
import json
import socket
from pathlib import Path

from hypothesis import strategies as st

from fuzz.attacked_program import attacked_program
from fuzz.driver import Fuzz
from fuzz.grammar import changed_texts, loose_texts
from fuzz.requests import Sent, request, requests, statuses
from support.sshd import Sshd

_PATHS = [f"/api/v1/{name}" for name in ("status", "events", "connections", "wait", "diagnose", "restart", "pause")]
_PATHS += [f"/api/v1/{name}" for name in ("resume", "reload", "plan", "nothing")]
_IDS = st.sampled_from(
    ["attacked", "attacked/*", "attacked/socks", "no/such", "", "[", "a*" * 200, "?ttacked", "\0", "é"]
)
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
_FILES = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["tunnels.yaml", "", "/", "a\0b", "\ud800"]) | st.text(max_size=5),
        "directory": st.sampled_from(["/", "", ".", "~", "\0"]),
        "text": changed_texts | loose_texts | _VALUES,
    }
)
_BODIES = st.one_of(
    st.fixed_dictionaries(
        {},
        optional={
            "ids": st.lists(_IDS, max_size=3) | _VALUES.filter(lambda value: "*" not in repr(value)),
            "now": _VALUES,
            "seconds": st.sampled_from([0, 0.01, -1, 1e308]) | _VALUES,
            "files": st.lists(_FILES, max_size=2) | _VALUES,
            "strict": _VALUES,
        },
    ),
    _VALUES,
).map(lambda value: json.dumps(value).encode())
_RAW = st.binary(max_size=60) | st.sampled_from([b"[" * 20_000, b'{"ids": ["\\ud800"]}', b"{" * 100, b"1" * 5000])
_QUERIES = st.builds(
    lambda name, value: f"?{name}={value}",
    st.sampled_from(["ids", "id", "timeout", "revision", "follow"]),
    st.sampled_from(
        ["0", "0.01", "nan", "-1", "attacked/socks", "no/such", ",", "%00", "sha256:0", "%ff", "1e400", "[", ""]
    ),
)


def _plan(text: str) -> Sent:
    body = json.dumps({"files": [{"name": "t.yaml", "directory": "/", "text": text}]}).encode()
    return request(f"POST /api/v1/plan HTTP/1.1|Host: x|Content-Length: {len(body)}", body)


_FIRST = [
    _plan("targets: {}"),
    _plan("\ud800"),
    _plan('targets: {a: {host: "\\ud800"}}'),
    request("GET /api/v1/events?follow=1 HTTP/1.1|Host: x", half_closes=True),
    request("GET /api/v1/wait?timeout=0&revision=x HTTP/1.1|Host: x"),
    request("GET /api/v1/diagnose?id=attacked/socks HTTP/1.1|Host: x"),
]


def test_requests_on_the_control_socket_do_no_harm(fuzz: Fuzz, sshd: Sshd, tmp_path: Path) -> None:
    with attacked_program(sshd, tmp_path) as (program, figures):

        def attack(sent: Sent) -> None:
            with contextlib.closing(socket.socket(socket.AF_UNIX)) as client:
                client.connect(str(program.control))
                found = statuses(client, sent)
            assert not [status for status in found if status >= 500]
            program.assert_unharmed()

        fuzz.run(
            requests(_PATHS, _BODIES | _RAW, _QUERIES, ["POST", "POST", "GET"]), attack, examples=150, first=_FIRST
        )
    fuzz.figures += figures
