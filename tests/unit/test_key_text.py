"""Keys and known_hosts from secrets: what their way there changed is undone, and nothing else is."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from urllib.parse import quote

import asyncssh
import pytest

from reconciler.core.text import key_text
from reconciler.ssh.internals.keys.public_keys import encoded

Change = Callable[[str], bytes]


def indented(text: str) -> str:
    return "".join(f"    {line}\n" for line in text.splitlines())


CHANGES: dict[str, Change] = {
    "nothing": str.encode,
    "no last line end": lambda text: text.rstrip().encode(),
    "line ends as spaces": lambda text: text.replace("\n", " ").encode(),
    "no line ends": lambda text: text.replace("\n", "").encode(),
    "line ends escaped": lambda text: text.replace("\n", "\\n").encode(),
    "line ends escaped twice": lambda text: text.replace("\n", "\\\\n").encode(),
    "line ends escaped as CR LF": lambda text: text.replace("\n", "\\r\\n").encode(),
    "CR LF": lambda text: text.replace("\n", "\r\n").encode(),
    "CR": lambda text: text.replace("\n", "\r").encode(),
    "empty lines": lambda text: text.replace("\n", "\n\n").encode(),
    "quotes": lambda text: f'"{text.strip()}"\n'.encode(),
    "quotes and escapes": lambda text: json.dumps(text).encode(),
    "single quotes": lambda text: f"'{text}'".encode(),
    "JSON": lambda text: json.dumps({"key": text}).encode(),
    "indentation": lambda text: indented(text).encode(),
    "YAML": lambda text: f"key: |\n{indented(text)}".encode(),
    "a mark of UTF-8": lambda text: text.encode("utf-8-sig"),
    "UTF-16": lambda text: text.encode("utf-16"),
    "UTF-16 without a mark": lambda text: text.encode("utf-16-le"),
    "UTF-16 of the other order": lambda text: text.encode("utf-16-be"),
    "base64": lambda text: base64.b64encode(text.encode()),
    "base64 in lines": lambda text: base64.encodebytes(text.encode()),
    "base64 for addresses": lambda text: base64.urlsafe_b64encode(text.encode()).rstrip(b"="),
    "base64 twice": lambda text: base64.b64encode(base64.b64encode(text.encode())),
    "base64 of UTF-16": lambda text: base64.b64encode(text.encode("utf-16")),
    "base64 in quotes": lambda text: f'"{base64.b64encode(text.encode()).decode()}"'.encode(),
    "percent-encoding": lambda text: quote(text).encode(),
    "percent-encoding without the last line end": lambda text: quote(text.rstrip()).encode(),
    "text before": lambda text: f"Bag Attributes\n    localKeyID: 01\nKey Attributes: <No Attributes>\n{text}".encode(),
}


def forms() -> dict[str, tuple[str, bytes]]:
    """Keys as text, each with its public part."""
    key = asyncssh.generate_private_key("ssh-rsa", key_size=1024)
    passphrase = {"pkcs1-pem encrypted": "secret", "openssh": None, "pkcs8-pem": None}
    return {
        name: (key.export_private_key(name.split()[0], passphrase=secret).decode(), encoded(key))
        for name, secret in passphrase.items()
    }


FORMS = forms()


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("form", FORMS)
def test_a_changed_private_key_is_restored(form: str, change: str) -> None:
    text, public = FORMS[form]
    restored = key_text.private_key(CHANGES[change](text))
    assert restored is not None
    assert encoded(asyncssh.import_private_key(restored, "secret" if "encrypted" in form else None)) == public


def test_a_key_without_its_first_and_last_line_is_restored() -> None:
    text, public = FORMS["openssh"]
    for body in ("".join(text.splitlines()[1:-1]), "\n".join(text.splitlines()[1:-1])):
        restored = key_text.private_key(body.encode())
        assert restored is not None
        assert encoded(asyncssh.import_private_key(restored)) == public


def test_other_text_is_not_turned_into_a_private_key() -> None:
    text, _ = FORMS["openssh"]
    cut = text.replace("-----END", "")
    for content in (b"", b"x", b"word " * 99, cut.encode(), text.replace("END OPENSSH", "END RSA").encode()):
        assert key_text.private_key(content) is None


PUBLIC = asyncssh.generate_private_key("ssh-ed25519", comment="me").export_public_key().decode()


@pytest.mark.parametrize("change", sorted(CHANGES.keys() - {"YAML", "JSON"}))
def test_a_changed_public_key_is_restored(change: str) -> None:
    assert asyncssh.import_public_key(key_text.public_key(CHANGES[change](PUBLIC))) == asyncssh.import_public_key(
        PUBLIC
    )


# ssh reads the first host, and the others as its comment.
AMBIGUOUS = {"line ends as spaces", "no line ends", "CR", "YAML", "JSON", "text before"}
AMBIGUOUS |= {"percent-encoding", "percent-encoding without the last line end"}
KNOWN = f"a.example {PUBLIC}# a comment\n@cert-authority *.b.example {PUBLIC}[c.example]:2222,10.0.0.1 {PUBLIC}"


@pytest.mark.parametrize("change", sorted(CHANGES.keys() - AMBIGUOUS))
def test_changed_known_hosts_are_restored(change: str) -> None:
    lines = [line.split()[:3] for line in key_text.known_hosts(CHANGES[change](KNOWN)).splitlines() if line.strip()]
    assert lines == [line.encode().split()[:3] for line in KNOWN.splitlines()]


def test_known_hosts_as_ssh_reads_them_are_left_alone() -> None:
    for text in (
        KNOWN,
        f"\n\n{KNOWN}",
        f"# a comment\n{KNOWN}",
        f"a.example {PUBLIC}",
        KNOWN.replace("\n", "\r\n"),
        "",
    ):
        assert key_text.known_hosts(text.encode()) == text.encode()
    for line in (f"# b.example {PUBLIC}", f"a.example {PUBLIC.strip()} # b.example {PUBLIC}", f"a\rb {PUBLIC}"):
        assert key_text.known_hosts(line.encode()) == line.encode()
