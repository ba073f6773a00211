"""Names what was given in place of a private key: another kind of key, an encrypted file, or a damaged one.

`ssh` cannot read these either. Each is recognized by text that only it contains.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from reconciler.core.text.key_text import text_of

_HEAD = 1 << 16  # bytes that are searched
CHECK_FILE = "check that it is the file as ssh-keygen wrote it, or name another"
_DECRYPT = "decrypt it first, and name the result"
_PRIVATE = "name the private key"
_BY_AGENT = "add it to an SSH agent, and select it with a .pub file in `privateKey`"
_TYPE = r"(?:ssh|ecdsa|sk-ssh|sk-ecdsa)-[a-z0-9@.-]+"
_BEGIN, _END = (re.compile(rf"-----{word} [A-Z0-9 ]*PRIVATE KEY-----") for word in ("BEGIN", "END"))


@dataclass(frozen=True, slots=True)
class _Kind:
    pattern: re.Pattern[str]
    what: str
    fix: str


def _kind(pattern: str, what: str, fix: str) -> _Kind:
    return _Kind(re.compile(pattern, re.MULTILINE), what, fix)


_KINDS = (
    _kind(r"^PuTTY-User-Key-File", "a PuTTY key", "convert it (puttygen KEY -O private-openssh)"),
    _kind(r"\A(?:\x7fELF|pkcs11:|PKCS11:)", "on a hardware token (PKCS #11)", f"{_BY_AGENT} (ssh-add -s LIBRARY)"),
    _kind(r"\A\0\0\0[\x07-\x20](?:ssh|ecdsa)-", "a Dropbear key", "convert it (dropbearconvert dropbear openssh)"),
    _kind(r"-----BEGIN TSS2 PRIVATE KEY", "a key that only its TPM can use", _BY_AGENT),
    _kind(r"^\$ANSIBLE_VAULT;", "encrypted by Ansible Vault", _DECRYPT),
    _kind(r"^age-encryption\.org/|-----BEGIN AGE ENCRYPTED FILE", "encrypted by age", _DECRYPT),
    _kind(r"-----BEGIN PGP ", "encrypted by PGP, or a PGP key", _DECRYPT),
    _kind(r"\bENC\[AES256_GCM,", "encrypted by SOPS", _DECRYPT),
    _kind(r"\A\0GITCRYPT\0", "encrypted by git-crypt", "unlock the repository (git-crypt unlock)"),
    _kind(r"\Aversion https://git-lfs", "a Git LFS pointer", "fetch the file itself (git lfs pull)"),
    _kind(r"\A(?:op|vault|ref)://?\S+\s*\Z", "a reference to a secret", "resolve it, and name the result"),
    _kind(r"\ASSH PRIVATE KEY FILE FORMAT 1", "a key of SSH version 1", "generate another one with ssh-keygen"),
    _kind(r"---- BEGIN SSH2 ENCRYPTED PRIVATE KEY", "a key in the format of SSH.com", "convert it with ssh-keygen -i"),
    _kind(rf"\A\s*{_TYPE}-cert-v01@openssh\.com\s", "a certificate", f"{_PRIVATE}, and this as `certificate`"),
    _kind(rf"\A\s*{_TYPE}\s+\S", "a public key", _PRIVATE),
    _kind(rf"\A[^\s#]+ {_TYPE} AAAA", "a known_hosts or authorized_keys file", _PRIVATE),
    _kind(r"-{4,5} ?BEGIN [A-Z0-9 ]*PUBLIC KEY", "a public key", _PRIVATE),
    _kind(r"-----BEGIN [A-Z0-9 ]*CERTIFICATE", "an X.509 certificate", _PRIVATE),
    _kind(r"\A\s*\{[\s\S]*\"kty\"", "a JSON web key", "convert it to PEM"),
    _kind(r"\A\s*<", "a document in XML or HTML", CHECK_FILE),
)


def named(content: bytes) -> tuple[str, str]:
    """Return what the content is ("not a valid private key" if nothing better is known), and what to do."""
    text = text_of(content[:_HEAD])
    if not text.strip():
        return "empty", "put the private key there"
    found = next((kind for kind in _KINDS if kind.pattern.search(text)), None)
    if found is not None:
        return found.what, found.fix
    if bool(begins := _BEGIN.search(text)) != bool(_END.search(text)):
        side = "end (-----END ...-----)" if begins else "beginning (-----BEGIN ...-----)"
        return f"a private key without its {side}", "copy the whole file"
    return "not a valid private key", CHECK_FILE
