"""Decodes private keys, and says why one cannot be used.

Input: the content of a key's source. Output: an asyncssh key, or a `Failure` that never contains parts of the key.
"""

from __future__ import annotations

import asyncssh

from reconciler.core.observed import Failure, Reason
from reconciler.core.text import key_text
from reconciler.ssh.connect.keys.foreign_keys import CHECK_FILE, named
from reconciler.ssh.connect.keys.user_certificates import UnusableError
from reconciler.ssh.errors.failure import DialFailed
from reconciler.ssh.errors.patterns import printable
from reconciler.ssh.internals.keys.key_cost import CostlyKeyError, check_before_decoding, check_decoded
from reconciler.ssh.internals.keys.public_keys import needs_missing_hardware

_UNKNOWN = "Unknown "  # asyncssh's text for a cipher that it does not have


def invalid(what: str, fix: str) -> DialFailed:
    """The error for a credential that can be read and is not what it should be."""
    return DialFailed(Failure(Reason.SECRET_UNREADABLE, what, fix))


def text_of_error(error: ValueError) -> str:
    """The text of asyncssh's error, cut and escaped. It does not contain parts of the key."""
    return printable(str(error))


def decoded(content: bytes, passphrase: str | None, place: str) -> asyncssh.SSHKey:
    """Decode the key. Slow if it is encrypted. Raises DialFailed, or UnusableError if only hardware can use it."""
    restored = key_text.private_key(content)
    if restored is None or b" TSS2 " in restored[:32]:
        what, fix = named(content)
        raise invalid(f"{place} is {what}", fix)
    try:
        check_before_decoding(restored)
        # OpenSSL's check of the primes is skipped, as in ssh: it blocks every thread, for seconds with 4096 bits. A
        # wrong key fails to sign.
        key = asyncssh.import_private_key(restored, passphrase, unsafe_skip_rsa_key_validation=True)
        check_decoded(key)
    except CostlyKeyError as error:
        raise invalid(
            f"the private key {place} takes too long to decode ({error})", "generate another one with ssh-keygen"
        ) from None
    except (ArithmeticError, LookupError, RecursionError, TypeError, ValueError) as error:
        # asyncssh's decoders raise them for malformed input, and for what a wrong passphrase decrypts to.
        if _is_encrypted(restored):
            raise _not_decrypted(passphrase, place, error) from None
        why = text_of_error(error) if isinstance(error, ValueError) else "its numbers are inconsistent"
        raise invalid(f"{place} is not a valid private key ({why})", CHECK_FILE) from None
    if needs_missing_hardware(key):
        raise _hardware(key, place)
    return key


def _is_encrypted(content: bytes) -> bool:
    """Return True if the key cannot be decoded without a passphrase."""
    try:
        asyncssh.import_private_key(content, None, unsafe_skip_rsa_key_validation=True)
    except ValueError as error:
        return "assphrase" in str(error)
    except (ArithmeticError, LookupError, RecursionError, TypeError):
        return False
    return False


def _not_decrypted(passphrase: str | None, place: str, error: Exception) -> DialFailed:
    cause = error.__context__ or error  # asyncssh replaces the error that has the cause
    if passphrase and isinstance(cause, asyncssh.KeyEncryptionError) and str(cause).startswith(_UNKNOWN):
        what = f"the private key {place} is encrypted in a way that this program does not read ({text_of_error(cause)})"
        return invalid(what, "encrypt it in another way (ssh-keygen -p -f KEY)")
    if passphrase:
        return invalid(f"the passphrase does not decrypt the private key {place}", "correct `passphrase`")
    return invalid(f"the private key {place} is encrypted", "give its `passphrase`")


def _hardware(key: asyncssh.SSHKey, place: str) -> UnusableError:
    what = f"{place} ({key.get_algorithm()}) needs its security key (FIDO), which this program does not access"
    fix = "add it to an SSH agent, and select it with its .pub file in `privateKey`"
    return UnusableError(Reason.SECRET_UNREADABLE, what, fix)
