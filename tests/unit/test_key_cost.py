"""Private keys: the numbers in one limit the cost of decoding it, before anything is computed."""

from __future__ import annotations

import base64

import asyncssh
import pytest

from reconciler.ssh.connect.keys.private_keys import decoded
from reconciler.ssh.errors.failure import DialFailed
from reconciler.ssh.internals.keys.key_cost import CostlyKeyError, check_before_decoding, check_decoded
from support.costly_keys import bcrypt_key, pkcs8_key, rsa_key


def armoured(der: bytes, header: bytes = b"") -> bytes:
    kind = b"ENCRYPTED PRIVATE KEY-----\n"
    return b"-----BEGIN " + kind + header + base64.encodebytes(der) + b"-----END " + kind


COSTLY = {
    "openssh": bcrypt_key(2**32 - 1),
    "openssh after a line": b"a line\n" + bcrypt_key(2**32 - 1),
    "openssh with CR LF": bcrypt_key(2**32 - 1).replace(b"\n", b"\r\n"),
    "pkcs8 der": pkcs8_key(2**31 - 1),
    "pkcs8 pem": armoured(pkcs8_key(2**31 - 1)),
    "pkcs8 pem with a header": armoured(pkcs8_key(2**31 - 1), b"Comment: a key\n"),
}


@pytest.mark.parametrize("form", COSTLY)
def test_a_key_encrypted_with_too_many_rounds_is_refused(form: str) -> None:
    with pytest.raises(CostlyKeyError, match=r"hashed [0-9]+ times"):
        check_before_decoding(COSTLY[form])


@pytest.mark.parametrize("form", ["openssh", "pkcs8-pem", "pkcs8-der", "pkcs1-pem", "pkcs1-der"])
@pytest.mark.parametrize("kind", ["ssh-rsa", "ecdsa-sha2-nistp256", "ssh-ed25519"])
@pytest.mark.parametrize("passphrase", [None, "secret"])
def test_ordinary_keys_of_every_form_pass(form: str, kind: str, passphrase: str | None) -> None:
    key = asyncssh.generate_private_key(kind)
    try:
        content = key.export_private_key(form, passphrase=passphrase, rounds=50)  # bcrypt warns below 50
    except asyncssh.KeyExportError:
        pytest.skip("there is no such form of it")
    check_before_decoding(content)
    check_decoded(asyncssh.import_private_key(content, passphrase))


def test_an_rsa_key_larger_than_ssh_reads_is_refused() -> None:
    key = asyncssh.import_private_key(rsa_key(9689, 9941), unsafe_skip_rsa_key_validation=True)
    with pytest.raises(CostlyKeyError, match="at most 16384"):
        check_decoded(key)


def nested(depth: int) -> bytes:
    """A DER sequence in a sequence, and so on."""
    made = b""
    for _ in range(depth):
        size = len(made).to_bytes(4)
        made = b"\x30\x84" + size + made
    return made


@pytest.mark.parametrize("content", [nested(3000), armoured(nested(3000)), pkcs8_key(2**32 - 2048)])
def test_a_key_with_invalid_numbers_is_not_a_valid_key(content: bytes) -> None:
    with pytest.raises(DialFailed, match="is not a valid private key"):
        decoded(content, "secret", "the key")
