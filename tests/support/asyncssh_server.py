"""An SSH server in the test process, for behaviour that sshd does not have: late banners, unanswered channels."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

import asyncssh

from support.keys import KeyPair, Keys
from support.wait import eventually, free_port


@dataclass(frozen=True, slots=True)
class Request:
    """A client's request: `direct-tcpip`, `direct-streamlocal`, `tcpip-forward` or `streamlocal-forward`."""

    kind: str
    address: str  # host:port, or the path of a unix socket


@dataclass(frozen=True, slots=True)
class Refusal:
    """An SSH_MSG_CHANNEL_OPEN_FAILURE (RFC 4254 section 5.1)."""

    reason: int
    text: str


class AsyncsshServer:
    """A server that accepts one key, and a password if given, and all forwards by default. A restart keeps the port."""

    def __init__(
        self, directory: Path, *, password: str | None = None, banner_delay: float = 0.0, client: KeyPair | None = None
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        keys = Keys(directory)
        self.host, self.port, self.user = "127.0.0.1", free_port(), "tester"
        self.password = password
        self.banner_delay = banner_delay
        self.options: dict[str, Any] = {}  # of asyncssh.run_server, for later connections
        self.refuse_listeners = False  # answer requests for remote forwards with failure
        # Answers a packet in place of asyncssh: called with the server's side, the packet's type, its sequence number
        # and its payload, after the type. Returns False to have asyncssh answer.
        self.answer: Callable[[Any, int, int, bytes], bool] | None = None
        self.requests: list[Request] = []
        self.logins = 0
        self.client = client or keys.make("client")
        self.host_key = keys.make("host")
        self.known_hosts = directory / "known_hosts"
        self.known_hosts.write_text(f"[{self.host}]:{self.port} {self.host_public_key}\n")
        self._never_answered: set[str] = set()
        self._refused: dict[str, Refusal] = {}
        self._listening: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._accepted: list[socket.socket] = []  # a transport closes its socket after the connection has ended
        self._connections: set[asyncssh.SSHServerConnection] = set()

    @property
    def client_key(self) -> Path:
        return self.client.private

    @property
    def host_public_key(self) -> str:
        return " ".join(self.host_key.public_line.split()[:2])

    @property
    def connections(self) -> int:
        """Live SSH connections, logins in progress included."""
        return len(self._connections)

    def never_answer_channel(self, address: str) -> None:
        """Do not answer requests for channels to this `host:port` or path."""
        self._never_answered.add(address)

    def refuse_channel(self, address: str, reason: int = asyncssh.OPEN_CONNECT_FAILED, text: str = "refused") -> None:
        """Refuse channels to this `host:port` or path with this reason code and text."""
        self._refused[address] = Refusal(reason, text)

    def answer_normally(self) -> None:
        """Answer all later requests."""
        self._never_answered.clear()
        self._refused.clear()
        self.refuse_listeners = False

    async def start(self) -> None:
        listener = socket.create_server((self.host, self.port), backlog=1024)
        listener.setblocking(False)
        self._listening = asyncio.create_task(self._accept(listener))

    async def stop(self) -> None:
        """Stop listening and drop every connection."""
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.wait([self._listening])
            self._listening = None
        await self.drop_connections()

    async def drop_connections(self) -> None:
        tasks = list(self._tasks)
        for connection in list(self._connections):
            connection.abort()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await eventually(lambda: all(sock.fileno() < 0 for sock in self._accepted))
        self._accepted.clear()

    async def _accept(self, listener: socket.socket) -> None:
        with listener:
            while True:
                sock, _ = await asyncio.get_running_loop().sock_accept(listener)
                self._accepted.append(sock)
                task = asyncio.create_task(self._serve(sock))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _serve(self, sock: socket.socket) -> None:
        try:
            await asyncio.sleep(self.banner_delay)
            connection = await asyncssh.run_server(
                sock,
                server_factory=self.session,
                server_host_keys=[asyncssh.read_private_key(self.host_key.private)],
                **self.options,
            )
        except BaseException as error:
            sock.close()
            if isinstance(error, OSError | asyncssh.Error):
                return  # the test checks the client's side
            raise
        await connection.wait_closed()
        await eventually(lambda: sock.fileno() < 0)  # the transport closes it some turns of the loop later

    def session(self) -> asyncssh.SSHServer:
        """Return asyncssh's callbacks for a new connection."""
        return _Session(self)

    def decide(self, kind: str, address: str) -> Refusal | None:
        """Record a request and return its refusal, or None."""
        self.requests.append(Request(kind, address))
        return self._refused.get(address)

    def is_never_answered(self, address: str) -> bool:
        return address in self._never_answered

    def opened(self, connection: asyncssh.SSHServerConnection) -> None:
        self._connections.add(connection)
        theirs: Any = connection
        process = theirs.process_packet

        def answer(kind: int, number: int, packet: Any) -> Any:
            if self.answer is not None and self.answer(theirs, kind, number, packet.get_full_payload()[1:]):
                return True
            return process(kind, number, packet)

        theirs.process_packet = answer

    def closed(self, connection: asyncssh.SSHServerConnection) -> None:
        self._connections.discard(connection)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()


class _Session(asyncssh.SSHServer):
    """asyncssh's callbacks for one connection."""

    def __init__(self, server: AsyncsshServer) -> None:
        self._server = server
        self._connection: asyncssh.SSHServerConnection
        self._gone = asyncio.Event()

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn
        self._server.opened(conn)

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone.set()
        self._server.closed(self._connection)

    def auth_completed(self) -> None:
        self._server.logins += 1

    def public_key_auth_supported(self) -> bool:
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        return key.get_fingerprint() == self._server.client.fingerprint

    def password_auth_supported(self) -> bool:
        return self._server.password is not None

    def validate_password(self, username: str, password: str) -> bool:
        return password == self._server.password

    def connection_requested(
        self,
        dest_host: str,
        dest_port: int,
        orig_host: str,
        orig_port: int,
    ) -> asyncssh.SSHTCPSession[bytes] | bool:
        session = self._answer("direct-tcpip", f"{dest_host}:{dest_port}")
        # asyncssh accepts an awaitable here, although its types name only a session.
        return cast("asyncssh.SSHTCPSession[bytes]", session) if session else True

    def unix_connection_requested(self, dest_path: str) -> asyncssh.SSHUNIXSession[bytes] | bool:
        session = self._answer("direct-streamlocal", dest_path)
        return cast("asyncssh.SSHUNIXSession[bytes]", session) if session else True

    def _answer(self, kind: str, address: str) -> Awaitable[None] | None:
        refusal = self._server.decide(kind, address)
        if refusal is not None:
            raise asyncssh.ChannelOpenError(refusal.reason, refusal.text)
        return self._never() if self._server.is_never_answered(address) else None

    def server_requested(self, listen_host: str, listen_port: int) -> bool:
        self._server.decide("tcpip-forward", f"{listen_host}:{listen_port}")
        return not self._server.refuse_listeners

    def unix_server_requested(self, listen_path: str) -> bool:
        self._server.decide("streamlocal-forward", listen_path)
        return not self._server.refuse_listeners

    async def _never(self) -> None:
        await self._gone.wait()
        raise asyncssh.ChannelOpenError(asyncssh.OPEN_CONNECT_FAILED, "the connection is gone")
