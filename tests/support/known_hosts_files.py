"""Hypothesis strategies for known_hosts files, ordinary and malformed."""

from __future__ import annotations

import base64
import hmac

import asyncssh
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import strategies as st


def _key(byte: bytes) -> asyncssh.SSHKey:
    """Return the same key in each run, so that Hypothesis can generate the same files again."""
    key = Ed25519PrivateKey.from_private_bytes(byte * 32)
    return asyncssh.import_private_key(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))


def hashed(name: str) -> str:
    salt = b"0123456789" * 2
    digest = hmac.digest(salt, name.encode(), "sha1")
    return f"|1|{base64.b64encode(salt).decode()}|{base64.b64encode(digest).decode()}"


HOST = "h.example"
PRIVATE = _key(b"a")  # the key of the server
KEY = b" ".join(PRIVATE.export_public_key().split()[:2])
_OTHER = _key(b"b").export_public_key().split()[1]
_TEXT = KEY.split()[1]
_OURS = base64.b64encode(b"s" * 20)

_ODD = [b"\x0b", b"\x0c", b"\x1c", b"\x1d", b"\x1e", b"\xc2\x85", b"\xe2\x80\xa8", b"\r", b"\xff", b"\x00"]
_SPACE = st.sampled_from([b" ", b"\t", b"  ", b" \t", b"\t\t", b"\x0b", b"\x0c", b"\xc2\xa0", b""])
_NAMES = st.sampled_from(
    [
        *(b"h.example", b"H.EXAMPLE", b"*", b"*.example", b"h.*", b"?.example", b"h?example", b"h.example.", b"h"),
        *(b"!h.example", b"!*", b"!", b"", b"other", b"[h.example]:22", b"[h.example]", b"@h.example", b"#h.example"),
        *(b"h.example" + odd for odd in _ODD),
        *(odd + b"h.example" for odd in _ODD),
        *(b"*" * 40 + b"x", b"a" * 1100, b"a" * 1022, b"a" * 1023, b"!" + b"a" * 1022, b"h." + b"*" * 1021, b"|1|x|y"),
        *(
            hashed(HOST).encode(),
            hashed("other").encode(),
            hashed(HOST).encode()[:-1],
            hashed(HOST).encode() + b",x",
            b"|1|" + _OURS + b"|" + _OURS,
        ),
    ]
)
_PATTERNS = st.lists(_NAMES, min_size=1, max_size=3).map(b",".join)
_MARKERS = st.sampled_from(
    [
        b"",
        b"",
        b"",
        b"@revoked",
        b"@cert-authority",
        b"@Revoked",
        b"@foo",
        b"@",
        b"@revoked @revoked",
        b"@revoked\xc2\xa0",
    ]
)
_KEY_TEXTS = st.sampled_from(
    [
        *(_TEXT, _TEXT, _TEXT, _OTHER, _TEXT + b"=", _TEXT + b"\r", _TEXT[:-4]),
        *(_TEXT[:20] + b"\x0b" + _TEXT[20:], _TEXT + b"!", b"#" + _TEXT, b"", _TEXT + b"AAAA"),
        _TEXT + b"\x00junk",
    ]
)
_TYPES = st.sampled_from([b"ssh-ed25519"] * 4 + [b"ssh-rsa", b"ED25519", b"#ssh-ed25519", b"ssh-ed25519\x0b", b""])
_COMMENTS = st.sampled_from([b"", b"", b" comment", b" # x", b"\tme@laptop", b"\r", b" \xe2\x80\xa8", b" x\x1cy"])


@st.composite
def _line(draw: st.DrawFn) -> bytes:
    head = draw(st.sampled_from([b"", b"", b"", b" ", b"\t", b"#", b"# ", b"\x0b", b"\x00", b"\xef\xbb\xbf"]))
    marker = draw(_MARKERS)
    fields = [*([marker, draw(_SPACE)] if marker else []), draw(_PATTERNS), draw(_SPACE), draw(_TYPES), draw(_SPACE)]
    return b"".join([head, *fields, draw(_KEY_TEXTS), draw(_COMMENTS)])


_ENDS = st.sampled_from([b"\n"] * 5 + [b"\r\n", b"\r", b"\x0b", b"\x1c", b"\xe2\x80\xa8", b"\x00", b"\n\n"])


@st.composite
def contents(draw: st.DrawFn) -> bytes:
    made = b"".join(draw(_line()) + draw(_ENDS) for _ in range(draw(st.integers(0, 4))))
    for _ in range(draw(st.integers(0, 2))):  # change a few places
        at = draw(st.integers(0, len(made)))
        made = made[:at] + draw(st.sampled_from([*_ODD, b"\n", b" ", b"\t", b",", b"*", b"!", b"@", b"|"])) + made[at:]
    return made
