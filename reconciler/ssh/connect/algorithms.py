"""The algorithms to offer, best first, and the names that are supported.

asyncssh's defaults put ChaCha20 first (half as fast as AES-GCM on a CPU with AES) and still include SHA-1 key
exchanges, MACs and signatures. The `algorithms` of a target replaces an offer, and may name those again.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from reconciler.core.spec import Algorithms
from reconciler.ssh.internals.keys.algorithm_names import supported

KINDS = ("cipher", "kex", "mac", "hostKey")

_KEX = (
    "mlkem768x25519-sha256",
    "sntrup761x25519-sha512",  # only where liboqs is installed
    "sntrup761x25519-sha512@openssh.com",
    "curve25519-sha256",
    "curve25519-sha256@libssh.org",
    "ecdh-sha2-nistp256",
    "ecdh-sha2-nistp384",
    "ecdh-sha2-nistp521",
    "diffie-hellman-group-exchange-sha256",
    "diffie-hellman-group16-sha512",
    "diffie-hellman-group18-sha512",
    "diffie-hellman-group14-sha256",
)
_AES_GCM = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com")
_CHACHA = ("chacha20-poly1305@openssh.com",)
_AES_CTR = ("aes128-ctr", "aes192-ctr", "aes256-ctr")
_MAC = (
    "umac-128-etm@openssh.com",
    "hmac-sha2-256-etm@openssh.com",
    "hmac-sha2-512-etm@openssh.com",
    "umac-128@openssh.com",
    "hmac-sha2-256",
    "hmac-sha2-512",
    # ssh offers these too, and some servers have no other: unlike its signatures, SHA-1 in an HMAC is not broken.
    "umac-64-etm@openssh.com",
    "hmac-sha1-etm@openssh.com",
    "umac-64@openssh.com",
    "hmac-sha1",
)
_SIGNATURES = (
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
    "ssh-ed448",
    "rsa-sha2-512",
    "rsa-sha2-256",
)


def chosen(algorithms: Algorithms, kind: str) -> tuple[str, ...]:
    """The names of this kind in the file."""
    return dict(zip(KINDS, (algorithms.cipher, algorithms.kex, algorithms.mac, algorithms.host_key), strict=True))[kind]


def unknown(algorithms: Algorithms) -> tuple[str, ...]:
    """The names in `algorithms` that are not supported, as `kind: name`."""
    return tuple(
        f"{kind}: {name}" for kind in KINDS for name in chosen(algorithms, kind) if name not in supported(kind)
    )


def kex_offer(algorithms: Algorithms) -> list[str]:
    return list(algorithms.kex) or _available("kex", _KEX)


def cipher_offer(algorithms: Algorithms, *, strict_kex: bool = True) -> list[str]:
    """The ciphers. With `strict_kex` False, only those that are safe without it, or that the file names."""
    if algorithms.cipher:
        return list(algorithms.cipher)
    if not strict_kex:
        return _available("cipher", (*_AES_GCM, *_AES_CTR))
    fast_first = (*_AES_GCM, *_CHACHA) if cpu_has_aes() else (*_CHACHA, *_AES_GCM)
    return _available("cipher", (*fast_first, *_AES_CTR))


def mac_offer(algorithms: Algorithms, *, strict_kex: bool = True) -> list[str]:
    """The MACs; `strict_kex` as for ciphers. An encrypt-then-MAC needs it if a CBC cipher may be negotiated."""
    if algorithms.mac:
        return list(algorithms.mac)
    unsafe = not strict_kex and any(name.endswith("-cbc") for name in algorithms.cipher)
    return [name for name in _available("mac", _MAC) if not unsafe or "-etm@" not in name]


def signature_offer(algorithms: Algorithms) -> list[str]:
    """Signatures for the login. A server that needs an old one for its own key needs it for the client's key too."""
    old = [name for name in algorithms.host_key if name not in _SIGNATURES and "-cert-v0" not in name]
    return _available("hostKey", (*_SIGNATURES, *old))


def yaml(algorithms: Algorithms, **changed: Sequence[str]) -> str:
    """The field `algorithms` with these kinds changed, as YAML to paste."""
    names = {kind: chosen(algorithms, kind) for kind in KINDS}
    fields = [f"{kind}: [{', '.join(given)}]" for kind, given in (names | changed).items() if given]
    return f"algorithms: {{{', '.join(fields)}}}"


def compression_offer(compress: bool) -> list[str]:
    """The compression. `zlib@openssh.com` comes first, because the first common name is used."""
    return _available("compression", ("zlib@openssh.com", "none")) if compress else ["none"]


def host_key_offer(algorithms: Algorithms, first: tuple[str, ...], certificates: bool) -> list[str]:
    """Host key types. Those in `first` (of known keys) come first, so that a server presents a known key.

    The others stay in the offer: if the key was replaced by one of another type, the server presents that, and the
    message has its fingerprint. Certificates are asked for only if an authority is known.
    """
    plain = list(algorithms.host_key) or _available("hostKey", _SIGNATURES)
    if algorithms.host_key:
        signed = [name for name in plain if "-cert-v0" in name]
        plain = [name for name in plain if name not in signed]
    else:
        signed = _available("hostKey", tuple(_certificate_name(name) for name in _SIGNATURES))
    preferred = [name for name in first if name in plain]
    return (signed if certificates else []) + preferred + [name for name in plain if name not in preferred]


@cache
def cpu_has_aes() -> bool:
    """Return True if the CPU has AES instructions. Linux reports it; elsewhere the architecture decides."""
    try:
        info = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return platform.machine().lower() in {"arm64", "aarch64", "x86_64", "amd64"}
    flags = [line.partition(":")[2].split() for line in info.splitlines() if line.startswith(("flags", "Features"))]
    return bool(flags) and "aes" in flags[0]


def _available(kind: str, names: tuple[str, ...]) -> list[str]:
    return [name for name in names if name in supported(kind)]


def _certificate_name(name: str) -> str:
    """`ssh-ed25519` -> `ssh-ed25519-cert-v01@openssh.com`; the `@openssh.com` of the sk- types stays at the end."""
    return name.removesuffix("@openssh.com") + "-cert-v01@openssh.com"
