"""Strategies for texts of tunnels.yaml: valid ones from a grammar, mutated ones, and random ones."""

from __future__ import annotations

import json
import re
from functools import partial
from typing import Any

import yaml
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

_Fields = dict[str, Any]

_NAMES = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,7}", fullmatch=True)
_HOSTS = st.sampled_from(["a.example", "10.0.0.7", "::1", "db.internal", "xn--bcher-kva.example", "localhost"])
_PORTS = st.integers(1, 65535)
_DURATIONS = st.sampled_from(["500ms", "10s", "5m", "1h", "1s"])
_SOURCES = st.sampled_from(["10.0.0.0/8", "192.0.2.7", "2001:db8::/32", "::1", "127.0.0.0/8"])
_DESTINATIONS = st.sampled_from(["*.internal:443", "10.0.0.0/8:*", "[2001:db8::/32]:80,443", "*:*", "db.internal:1-9"])
_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ/aQqCWJvE7tzBVuIcXgKYFy0AZGq5Lw7hZrDTCkGm5"
_KEY_OR_FILE = st.sampled_from(["~/.ssh/id_ed25519", {"file": "/run/key"}, {"env": "KEY"}])


def _optional(fields: dict[str, SearchStrategy[Any]], **required: SearchStrategy[Any]) -> SearchStrategy[_Fields]:
    """Return a strategy for mappings with these fields. Only the `required` ones are always present."""
    return st.fixed_dictionaries(dict(required), optional=fields)


_HEALTH = st.one_of(
    _optional({"interval": _DURATIONS, "timeout": st.just("5s")}, type=st.just("tcp")),
    _optional({"path": st.sampled_from(["/", "/health"])}, type=st.just("http")),
)
_POLICY: dict[str, SearchStrategy[Any]] = {
    "description": st.text(max_size=12),
    "labels": st.dictionaries(st.sampled_from(["team", "env"]), st.sampled_from(["data", "x y", ""]), max_size=2),
    "allow": st.lists(_SOURCES, max_size=3),
    "deny": st.lists(_SOURCES, max_size=3),
    "maxConnections": st.integers(1, 1000),
    "holdTimeout": _DURATIONS,
    "idleTimeout": _DURATIONS,
    "drainTimeout": _DURATIONS,
    "bandwidthLimit": st.sampled_from(["10MiB/s", "1KiB/s", "5MB/s"]),
    "critical": st.booleans(),
    "audit": st.booleans(),
    "expiresAt": st.sampled_from(["2027-01-31T00:00:00Z", "2020-01-01T00:00:00+02:00"]),
    "enabled": st.booleans(),
}
_LOCAL = _optional(
    {**_POLICY, "name": _NAMES, "localHost": _HOSTS, "remoteHost": _HOSTS, "health": _HEALTH},
    type=st.just("local"),
    localPort=_PORTS | st.sampled_from([0, "15000-15100", "${PORT}"]),
    remotePort=_PORTS,
)
_REMOTE = _optional(
    {**_POLICY, "name": _NAMES, "remoteHost": _HOSTS, "onConflict": st.sampled_from(["retry", "standby"])},
    type=st.just("remote"),
    remotePort=st.integers(0, 65535),
    localPort=_PORTS,
)
_USER = st.fixed_dictionaries({"username": _NAMES, "password": st.sampled_from([{"env": "PW"}, {"file": "/pw"}])})
_SOCKS = _optional(
    {
        **_POLICY,
        "name": _NAMES,
        "auth": _USER | st.lists(_USER, min_size=1, max_size=2),
        "allowDestinations": st.lists(_DESTINATIONS, max_size=3),
        "denyDestinations": st.lists(_DESTINATIONS, max_size=3),
    },
    type=st.just("socks"),
    port=_PORTS,
)
_SHORT = st.one_of(
    st.builds(lambda first, host, last: {"local": f"{first}:{host}:{last}"}, _PORTS, st.just("db.internal"), _PORTS),
    st.builds(lambda port: {"socks": port}, _PORTS),
    st.builds(lambda first, last: {"remote": f"{first}:localhost:{last}"}, _PORTS, _PORTS),
)
_HOP = _optional({"user": _NAMES, "port": _PORTS, "privateKey": _KEY_OR_FILE}, host=_HOSTS)
_TARGET = _optional(
    {
        "port": _PORTS,
        "user": _NAMES,
        "privateKey": _KEY_OR_FILE | st.lists(_KEY_OR_FILE, min_size=1, max_size=2),
        "passphrase": st.sampled_from([{"env": "PW"}, "${PW}"]),
        "password": st.sampled_from([{"env": "PW"}, "${PW}", "literal"]),
        "agent": st.sampled_from([True, False, "/run/agent"]),
        "knownHosts": st.sampled_from(["~/.ssh/known_hosts", ["a", "/b"]]),
        "hostKeys": st.lists(st.sampled_from([_KEY, f"@cert-authority {_KEY}", f"@revoked {_KEY}"]), max_size=2),
        "hostKeyAlias": _NAMES,
        "strictHostKeyChecking": st.sampled_from([True, False, "accept-new"]),
        "jumpHost": _HOP | _NAMES,
        "jumpHosts": st.lists(_HOP | _NAMES, min_size=1, max_size=3),
        "addressFamily": st.sampled_from(["any", "inet", "inet6"]),
        "bindAddress": st.sampled_from(["127.0.0.2", "::1"]),
        "proxyCommand": st.just(["nc", "%h", "%p"]),
        "connectTimeout": _DURATIONS,
        "keepaliveInterval": _DURATIONS,
        "keepaliveCountMax": st.integers(0, 9),
        "compress": st.booleans(),
        "connect": st.sampled_from(["always", "onDemand"]),
        "sshConnections": st.integers(1, 16),
        "reconnect": st.just({"initial": "250ms", "max": "30s", "factor": 2}),
        "algorithms": st.just({"cipher": ["aes128-gcm@openssh.com"]}),
        "logLevel": st.sampled_from(["debug", "info"]),
        "enabled": st.booleans(),
        "x-note": st.text(max_size=5),
    },
    host=_HOSTS,
    tunnels=st.lists(_LOCAL | _REMOTE | _SOCKS | _SHORT, max_size=4),
)
_DOCUMENT = _optional(
    {
        "version": st.just(1),
        "defaults": _optional({"target": st.just({"user": "deploy"}), "tunnel": st.just({"maxConnections": 200})}),
        "x-anything": st.just({"a": [1]}),
    },
    targets=st.dictionaries(_NAMES, _TARGET, max_size=3),
)

# Hard cases for a YAML parser and for scalars, variables, ports and names.
_ODD_WORDS = r"""
    ~ null yes 022 8022:22 1e9 .inf 0x1F 2027-01-31 !!python/object:os.system !pw &a *a [ ] { } [[ {{ " ' | > # - ?
    << : , % @ ` ${ ${X ${X} ${X:-y} ${X:-${Y}} $$ $ 0 -1 65536 99999999999999999999 1.5 true \ \x00 a@b:c
    targets: tunnels: host: --- ... %YAML %TAG "\u0000"
"""
_ODD = [
    *_ODD_WORDS.split(),
    *(" ", "\n", "\t", "\r", "\0", "\x1b[31m", "\x85", "\u2028", "\u202e", "\ufeff", "\ud7ff", "é", "\U0001f600"),
    *("a" * 300, "[" * 40, "- " * 40, "{a: " * 30, ": ", "? ", "- ", "<<: *a", "&a [*a]", "! ", "!!str "),
]
odd = st.sampled_from(_ODD) | st.text(max_size=6)


@st.composite
def _written(draw: DrawFn) -> str:
    """A valid document in one of the usual YAML styles."""
    document = draw(_DOCUMENT)
    if draw(st.booleans()):
        return json.dumps(document, indent=draw(st.sampled_from([None, 2])), ensure_ascii=draw(st.booleans()))
    return str(yaml.safe_dump(document, sort_keys=False, allow_unicode=draw(st.booleans())))


def _insert(text: str, at: int, what: str) -> str:
    return text[:at] + what + text[at:]


@st.composite
def _changed(draw: DrawFn) -> str:
    """A valid document with some lines, words or characters changed."""
    text = draw(_written())
    for _ in range(draw(st.integers(1, 3))):
        text = _change(draw, text)
    return text


def _change(draw: DrawFn, text: str) -> str:
    at = draw(st.integers(0, len(text)))
    match draw(st.integers(0, 6)):
        case 0:
            return _insert(text, at, draw(odd))
        case 1:
            return text[:at]
        case 2:
            return text[:at] + text[at + draw(st.integers(1, 8)) :]
        case 3:  # another value after a colon or dash
            places = [found.end() for found in re.finditer(r"[:-] ", text)] or [at]
            begin = draw(st.sampled_from(places))
            end = min((index for index in (text.find(c, begin) for c in "\n,}]") if index >= 0), default=len(text))
            return text[:begin] + draw(odd) + text[end:]
        case 4:  # a line is repeated elsewhere
            lines = text.splitlines(keepends=True) or [""]
            lines.insert(draw(st.integers(0, len(lines))), draw(st.sampled_from(lines)))
            return "".join(lines)
        case 5:  # a line is removed
            lines = text.splitlines(keepends=True) or [""]
            del lines[draw(st.integers(0, len(lines) - 1))]
            return "".join(lines)
        case _:  # a word is replaced
            words = sorted(set(re.findall(r"\w+", text))) or [""]
            return text.replace(draw(st.sampled_from(words)), draw(st.sampled_from(words) | odd), 1)


_encoded = partial(str.encode, errors="surrogatepass")

valid_texts = _written()
changed_texts = _changed()
# Words of the grammar in random order, as in an unfinished file.
loose_texts = st.lists(odd | st.sampled_from(["  ", "\n", "\n  ", "a: ", "- b"]), max_size=30).map("".join)
documents: SearchStrategy[bytes] = st.one_of(
    valid_texts.map(_encoded),
    changed_texts.map(_encoded),
    changed_texts.map(_encoded),
    loose_texts.map(_encoded),
    st.binary(max_size=200),
)
