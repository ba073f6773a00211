"""AEAD ciphers for whole SSH packets, without a copy: AES-GCM (RFC 5647) and OpenSSH's chacha20-poly1305.

A codec opens or seals the packets of one direction under one key, into memory of the caller. The nonce of AES-GCM
stands in asyncssh's cipher object, and that of ChaCha20 is the sequence number. So asyncssh and a codec may take turns:
`begin` loads the nonce for a series of packets to open, and `end` stores it before asyncssh uses the cipher again. Both
nonces count packets, so within a series they follow from the sequence number.

asyncssh creates an AESGCM object for each packet, and joins and slices bytes; this costs more than AES itself.

A frame is a packet as it is sent: 4 bytes of length, the body, 16 bytes of tag. A body is the padding's length, the
payload and the padding (RFC 4253 section 6).
"""

from __future__ import annotations

import struct
from typing import Any, Protocol

from asyncssh.crypto import ChachaCipher, GCMCipher
from asyncssh.encryption import ChachaEncryption, Encryption, GCMEncryption
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from cryptography.hazmat.primitives.poly1305 import Poly1305

from reconciler.ssh.internals.seam import Seam

LENGTH, TAG = 4, 16  # bytes before and after the body
SEQ_MASK = 0xFFFFFFFF  # of sequence numbers
BODY_MAX = 256 << 10  # bytes: OpenSSH's PACKET_MAX_SIZE, and asyncssh's default
PADDING_MIN = 4
_NONCE = struct.Struct(">4sQ")  # of AES-GCM (RFC 5647 section 7.1): a fixed part, and a count
_COUNT_MASK = 0xFFFFFFFFFFFFFFFF
_UINT32 = struct.Struct(">I")
_UINT64 = struct.Struct(">Q")
_BLOCK_ZERO = bytes(64)  # ChaCha20's block 0 makes the key of Poly1305, and the body begins with block 1
_COUNTER_ZERO = bytes(8)
SEAMS = (
    Seam(GCMEncryption, "_cipher"),
    Seam(GCMCipher, "_key"),
    Seam(GCMCipher, "_iv"),
    Seam(ChachaEncryption, "_cipher"),
    Seam(ChachaCipher, "_key"),
    Seam(ChachaCipher, "_adkey"),
    # Of cryptography, from version 45 on.
    Seam(AESGCM, "encrypt_into"),
    Seam(AESGCM, "decrypt_into"),
    Seam(CipherContext, "reset_nonce"),
)


class Codec(Protocol):
    """One direction of a connection under one key."""

    block: int  # the body's length is a multiple of it

    def begin(self, seq: int) -> None:
        """Begin to open packets: take the nonce for the packet of this number over from asyncssh."""

    def end(self, seq: int) -> None:
        """End it: give the nonce for the packet of this number back to asyncssh."""

    def length(self, seq: int, data: memoryview, at: int) -> int:
        """Return the length of the body, not authenticated yet, of the frame that starts at `at`."""

    def open(self, seq: int, data: memoryview, at: int, body: memoryview) -> bool:
        """Write the decrypted body of the frame at `at` to `body`, which has its exact size.

        `seq`: the packet's number. It counts on from that of `begin`, beyond 2^32. Return False for a wrong tag. The
        caller may leave this packet to asyncssh, which decrypts it again.
        """

    def seal(self, seq: int, body: memoryview, frame: memoryview) -> None:
        """Write the frame of a body to `frame`, which has its exact size, and advance the nonce."""


class GcmCodec:
    """aes128-gcm@openssh.com and aes256-gcm@openssh.com. The length is sent in the clear and authenticated."""

    block = 16

    def __init__(self, cipher: Any) -> None:
        """`cipher`: asyncssh's `GCMCipher`, with the key and the nonce."""
        self._cipher = cipher
        aead = AESGCM(cipher._key)  # noqa: SLF001 - asyncssh gives no access to the key and the nonce
        self._decrypt, self._encrypt = aead.decrypt_into, aead.encrypt_into
        self._fixed, self._offset = b"", 0  # the second part of the nonce is the sequence number plus the offset

    def begin(self, seq: int) -> None:
        self._fixed, count = _NONCE.unpack(self._cipher._iv)  # noqa: SLF001 - as above
        self._offset = count - seq

    def end(self, seq: int) -> None:
        self._cipher._iv = _NONCE.pack(self._fixed, self._offset + seq & _COUNT_MASK)  # noqa: SLF001 - as above

    def length(self, seq: int, data: memoryview, at: int) -> int:
        length: int = _UINT32.unpack_from(data, at)[0]
        return length

    def open(self, seq: int, data: memoryview, at: int, body: memoryview) -> bool:
        start = at + LENGTH
        nonce = _NONCE.pack(self._fixed, self._offset + seq & _COUNT_MASK)  # modulo 2^64: RFC 5647 section 7.1
        try:
            self._decrypt(nonce, data[start : start + len(body) + TAG], data[at:start], body)
        except InvalidTag:
            return False
        return True

    def seal(self, seq: int, body: memoryview, frame: memoryview) -> None:
        _UINT32.pack_into(frame, 0, len(body))
        cipher = self._cipher
        nonce = cipher._iv  # noqa: SLF001 - as above
        self._encrypt(nonce, body, frame[:LENGTH], frame[LENGTH:])
        fixed, count = _NONCE.unpack(nonce)
        cipher._iv = _NONCE.pack(fixed, count + 1 & _COUNT_MASK)  # noqa: SLF001 - as above


class ChachaCodec:
    """chacha20-poly1305@openssh.com (OpenSSH's PROTOCOL.chacha20poly1305). A second key encrypts the length."""

    block = 8

    def __init__(self, cipher: Any) -> None:
        """`cipher`: asyncssh's `ChachaCipher`, with both keys."""
        self._body = _stream(cipher._key)  # noqa: SLF001 - asyncssh gives no access to the keys
        self._length = _stream(cipher._adkey)  # noqa: SLF001 - as above

    def length(self, seq: int, data: memoryview, at: int) -> int:
        self._length.reset_nonce(_nonce(seq))
        return int.from_bytes(self._length.update(data[at : at + LENGTH]))

    def open(self, seq: int, data: memoryview, at: int, body: memoryview) -> bool:
        key = self._begin_body(seq)
        end = at + LENGTH + len(body)
        try:
            Poly1305.verify_tag(key, data[at:end], bytes(data[end : end + TAG]))
        except InvalidSignature:
            return False
        self._body.update_into(data[at + LENGTH : end], body)
        return True

    def begin(self, seq: int) -> None:
        """Do nothing: the nonce is the sequence number."""

    def end(self, seq: int) -> None:
        """Do nothing: see `begin`."""

    def seal(self, seq: int, body: memoryview, frame: memoryview) -> None:
        self._length.reset_nonce(_nonce(seq))
        self._length.update_into(_UINT32.pack(len(body)), frame[:LENGTH])
        key = self._begin_body(seq)
        self._body.update_into(body, frame[LENGTH:-TAG])
        frame[-TAG:] = Poly1305.generate_tag(key, frame[:-TAG])

    def _begin_body(self, seq: int) -> bytes:
        """Set the stream to the start of a body, and return the key of its tag."""
        self._body.reset_nonce(_nonce(seq))
        key: bytes = self._body.update(_BLOCK_ZERO)[:32]
        return key


def codec_for(encryption: Encryption | None) -> Codec | None:
    """Return a codec that shares the key and the nonce of asyncssh's object, None for another cipher."""
    if type(encryption) is GCMEncryption:
        return GcmCodec(encryption._cipher)  # noqa: SLF001 - see above
    if type(encryption) is ChachaEncryption:
        return ChachaCodec(encryption._cipher)  # noqa: SLF001 - see above
    return None


def padding(codec: Codec, payload: int) -> int:
    """Return how many bytes of padding follow a payload of this length."""
    needed = -(1 + payload) % codec.block
    return needed if needed >= PADDING_MIN else needed + codec.block


def _nonce(seq: int) -> bytes:
    return _COUNTER_ZERO + _UINT64.pack(seq & SEQ_MASK)


def _stream(key: bytes) -> Any:
    """Return a ChaCha20 stream that can be set to another nonce. Any: cryptography's types do not show reset_nonce."""
    return Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor()
