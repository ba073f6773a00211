"""A real Redis server in a temporary directory, and its client redis-cli."""

import asyncio
from pathlib import Path

from support.processes import ServerProcess, tied_to_parent
from support.wait import free_port


class Redis(ServerProcess):
    """One server without persistence. `socket_path` is its unix socket."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        super().__init__(directory / "redis.log", ready="Ready to accept connections")
        self.host = "127.0.0.1"
        self.port = free_port()
        self.socket_path = directory / "redis.sock"
        self._directory = directory

    def command(self) -> list[str]:
        server = ["redis-server", "--bind", self.host, "--port", str(self.port)]
        server += ["--unixsocket", str(self.socket_path), "--dir", str(self._directory)]
        return tied_to_parent([*server, "--save", "", "--appendonly", "no", "--daemonize", "no"])


async def redis_cli(*arguments: str, within: float = 60.0) -> str:
    """Run the real redis-cli and return its output."""
    process = await asyncio.create_subprocess_exec(
        "redis-cli", *arguments, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(within):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    return output.decode()
