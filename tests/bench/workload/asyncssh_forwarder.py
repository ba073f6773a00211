"""The plainest forwarder that asyncssh makes: it logs in and asks for the forwards, nothing else.

Its argument is a JSON list of targets: login fields, cipher, and forwards as [kind, port, destination port].
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import asyncssh


async def forward(target: dict[str, Any]) -> asyncssh.SSHClientConnection:
    options: dict[str, Any] = {"encryption_algs": [target["cipher"]]} if target["cipher"] else {}
    connection = await asyncssh.connect(
        target["host"],
        target["port"],
        username=target["user"],
        client_keys=[target["key"]],
        known_hosts=target["known_hosts"],
        config=None,
        agent_path=None,
        **options,
    )
    for kind, port, to in target["forwards"]:
        if kind == "local":
            await connection.forward_local_port("127.0.0.1", port, "127.0.0.1", to)
        elif kind == "remote":
            await connection.forward_remote_port("127.0.0.1", port, "127.0.0.1", to)
        else:
            await connection.forward_socks("127.0.0.1", port)
    return connection


async def main() -> None:
    connections = await asyncio.gather(*map(forward, json.loads(sys.argv[1])))
    await asyncio.gather(*(connection.wait_closed() for connection in connections))


if __name__ == "__main__":
    asyncio.run(main())
