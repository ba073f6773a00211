"""A real Prometheus scrapes the running process and answers queries."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from support.endpoints import Client, client_of, whole
from support.services import EchoServer, connected
from support.sshd import Sshd
from support.tunnels import file, local
from support.wait import eventually, free_port

SERIES = '{target="server",tunnel="echo"}'


@contextlib.asynccontextmanager
async def prometheus(directory: Path, address: str) -> AsyncIterator[Client]:
    """Run Prometheus. It scrapes the address four times a second."""
    if shutil.which("prometheus") is None:
        pytest.skip("prometheus is not installed (Debian: prometheus)")
    config, port = directory / "prometheus.yml", free_port()
    config.write_text(
        "global: {scrape_interval: 250ms}\n"
        f"scrape_configs: [{{job_name: tunnels, static_configs: [{{targets: ['{address}']}}]}}]\n"
    )
    with (directory / "prometheus.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            "prometheus",
            f"--config.file={config}",
            f"--storage.tsdb.path={directory / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            stdout=log,
            stderr=log,
        )
    try:
        async with client_of(address=f"127.0.0.1:{port}") as client:
            yield client
    finally:
        process.kill()
        await process.wait()


async def value(client: Client, query: str) -> float | None:
    """Return the value of an instant query with one series; None without a series or a response."""
    try:
        answer: Any = await client.get("/api/v1/query", query=query)
    except (aiohttp.ClientError, AssertionError):
        return None
    found = answer["data"]["result"]
    return float(found[0]["value"][1]) if len(found) == 1 else None


async def test_prometheus_sees_that_a_tunnel_is_up_and_transfers_data(
    sshd: Sshd, echo: EchoServer, tmp_path: Path
) -> None:
    port = free_port()
    text = file(sshd, local("echo", port, echo.port))
    async with whole(tmp_path, text) as it, prometheus(tmp_path, it.served.listen) as asked:
        await it.tunnels.all_up()
        async with connected("127.0.0.1", port) as (reader, writer):

            async def flows(direction: str) -> bool:
                writer.write(b"x" * 4096)
                await reader.readexactly(4096)
                rate = f'rate(ssh_tunnel_bytes_total{{target="server",tunnel="echo",direction="{direction}"}}[1m])'
                return (await value(asked, rate) or 0) > 0

            await eventually(partial(is_one, asked, f"ssh_tunnel_up{SERIES}"), within=60, every=0.1)
            for direction in ("sent", "received"):
                await eventually(partial(flows, direction), within=60, every=0.1)
            await eventually(partial(is_one, asked, f"ssh_tunnel_active_connections{SERIES}"), every=0.1)
        await eventually(partial(is_one, asked, 'up{job="tunnels"}'), every=0.1)


async def is_one(client: Client, query: str) -> bool:
    """Return the result of the last scrape, ignoring scrapes that timed out."""
    return await value(client, query) == 1
