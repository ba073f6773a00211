"""SOCKS clients: a minimal one for transfers through a proxy, and the real curl."""

import asyncio
from dataclasses import dataclass
from ipaddress import ip_address

from support.services import MIB, Opening, Streams


class SocksReplyError(ConnectionError):
    """The proxy refused. `code` is its reply (RFC 1928 section 6)."""

    def __init__(self, code: int) -> None:
        super().__init__(f"SOCKS reply {code:02}")
        self.code = code


def by_socks(proxy_port: int) -> Opening:
    """Return an opening that connects through this proxy."""

    async def opening(host: str, port: int) -> Streams:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy_port, limit=MIB)
        try:
            await ask(reader, writer, host, port)
        except BaseException:
            writer.transport.abort()
            raise
        return reader, writer

    return opening


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, port: int) -> None:
    """Make the whole handshake without a login. Raises SocksReplyError."""
    writer.write(b"\x05\x01\x00")
    assert await reader.readexactly(2) == b"\x05\x00"
    writer.write(b"\x05\x01\x00" + _address(host) + port.to_bytes(2))
    answer = await reader.readexactly(10)
    if answer[1]:
        raise SocksReplyError(answer[1])


def _address(host: str) -> bytes:
    try:
        packed = ip_address(host).packed
    except ValueError:
        return bytes((3, len(host))) + host.encode()
    return bytes((1 if len(packed) == 4 else 4,)) + packed


@dataclass(frozen=True, slots=True)
class Curl:
    """The result of curl: exit code (97: the proxy refused), output, and `said`, its standard error."""

    code: int
    body: str
    said: str


async def curl(*arguments: str, within: float = 60.0) -> Curl:
    """Run the real curl."""
    process = await asyncio.create_subprocess_exec(
        "curl",
        *("--silent", "--show-error", "--noproxy", "", *arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(within):
            body, said = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode is not None
    return Curl(process.returncode, body.decode(), said.decode())
