"""The control client: finding the running process, and the errors if there is none."""

from __future__ import annotations

import errno
import json
import os
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from reconciler.cli import client
from reconciler.cli.client import CommandError, Control, NotRunningError, RequestRefusedError
from reconciler.cli.main import main
from reconciler.report import socket_paths
from reconciler.report.socket_paths import place_to_listen, trusted_uids
from support.other_user import NOBODY, needs_root, other_user, shared_directory


@contextmanager
def answering(path: Path, answer: bytes) -> Iterator[None]:
    """Serve a control socket that sends this response to each request."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    _read_request(connection)
                    connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def _read_request(connection: socket.socket) -> None:
    head, _, body = connection.recv(65536).partition(b"\r\n\r\n")
    length = re.search(rb"Content-Length: (\d+)", head)
    while length is not None and len(body) < int(length[1]):
        body += connection.recv(65536)


def http(status: str, body: object) -> bytes:
    text = body if isinstance(body, str) else json.dumps(body)
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(text)}\r\nConnection: close\r\n\r\n{text}".encode()


def run(monkeypatch: pytest.MonkeyPatch, paths: list[Path], *arguments: str) -> Result:
    """Run a command that searches for the process at these paths."""
    monkeypatch.setattr(client, "socket_paths", lambda _: tuple(map(str, paths)))
    monkeypatch.delenv("TUNNELS_CONTROL", raising=False)
    return CliRunner().invoke(main, list(arguments))


def test_the_first_socket_with_a_listener_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stale, live = tmp_path / "stale", tmp_path / "live"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(stale))
    with answering(live, http("200 OK", {"done": ["a/b"]})):
        result = run(monkeypatch, [tmp_path / "none", stale, live], "restart", "--all")
    assert (result.exit_code, result.stdout) == (0, "a/b: restarted\n")


def test_without_a_listener_the_error_names_the_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stale = tmp_path / "stale"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(stale))
    result = run(monkeypatch, [tmp_path / "none", stale], "status")
    assert result.exit_code == 3
    assert f"{tmp_path}/none (no such socket), {stale} (its process has ended)" in result.stderr
    assert "--control or $TUNNELS_CONTROL" in result.stderr


def test_plan_without_a_process_shows_a_fresh_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "tunnels.yaml"
    file.write_text('targets: {a: {host: b.example.com, user: u, agent: true, tunnels: [{local: "1:h:2"}]}}')
    result = run(monkeypatch, [tmp_path / "none"], "plan", str(file))
    assert result.exit_code == 0
    assert "no running process found: showing what a fresh start would do\n" in result.stderr
    assert [line.split()[:3] for line in result.stdout.splitlines()] == [
        ["+", "dial", "a"],
        ["+", "open", "a/local-1"],
        [],
        ["1", "tunnel", "to"],
    ]


def test_a_refused_request_keeps_its_message(tmp_path: Path) -> None:
    with answering(tmp_path / "s", http("404 Not Found", {"error": "no tunnel is called x"})):
        with pytest.raises(RequestRefusedError, match="no tunnel is called x") as refused:
            Control(str(tmp_path / "s")).post("/api/v1/pause", {"ids": ["x"]})
    assert refused.value.status == 404


def test_a_long_detail_of_a_step_fits_the_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    detail = f"0.0.0.0:25020 ({'word ' * 20}end)"
    steps = [{"step": "listen on the server", "ok": True, "detail": detail, "fix": None}]
    answer = {"tunnels": [{"id": "a/b"}], "config": {"files": []}, "steps": steps}
    with answering(tmp_path / "s", http("200 OK", answer)):
        result = run(monkeypatch, [tmp_path / "s"], "diagnose", "a/b")
    first, *rest = result.stdout.splitlines()[1:]
    assert len(first) <= 60
    assert rest
    assert all(len(line) <= 60 and line.startswith("  ") for line in rest)
    assert " ".join(map(str.strip, [first, *rest])) == f"✓ listen on the server: {detail}"


def test_a_silent_event_stream_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_STREAM_TIMEOUT", 0.1)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        following = Control(str(tmp_path / "s")).follow("/api/v1/events")
        with pytest.raises(CommandError, match=r"no response .* within 0\.1 s: it is busy or stopped"):
            next(iter(following))


def test_control_characters_in_responses_are_escaped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evil = "\x1b]0;owned\x07\x9b31m"
    answer = {"valid": False, "revision": evil, "errors": [evil], "actions": [], "warnings": [evil], "error": evil}
    (tmp_path / "tunnels.yaml").write_text("targets: {}")
    for status in ("200 OK", "400 Bad Request"):
        with answering(tmp_path / "s", http(status, answer)):
            for command in (["reload"], ["plan", str(tmp_path / "tunnels.yaml")]):
                result = run(monkeypatch, [tmp_path / "s"], *command)
                assert result.exit_code in (1, 2)
                assert r"error: \x1b]0;owned\x07\x9b31m" in result.stderr
                assert not [c for c in result.output if not c.isprintable() and c != "\n"]
        (tmp_path / "s").unlink()


@pytest.mark.parametrize("answer", [b"", b"nonsense\r\n\r\n", http("200 OK", "no JSON"), http("500 Oh", "<html>")])
def test_an_invalid_response_is_an_error_message(tmp_path: Path, answer: bytes) -> None:
    with answering(tmp_path / "s", answer):
        with pytest.raises(CommandError):
            Control(str(tmp_path / "s")).get("/api/v1/status")


def test_a_process_with_a_full_backlog_counts_as_running(tmp_path: Path) -> None:
    """A stopped process must not be reported as absent: its listen backlog is full."""
    path = tmp_path / "c.sock"
    with socket.socket(socket.AF_UNIX) as listener, ExitStack() as line:
        listener.bind(str(path))
        listener.listen(0)
        code = 0
        while not code:
            one = line.enter_context(socket.socket(socket.AF_UNIX))
            one.setblocking(False)
            code = one.connect_ex(str(path))
        assert code == errno.EAGAIN
        with pytest.raises(CommandError, match="accepts no connections: it is busy or stopped") as raised:
            Control(str(path)).get("/api/v1/status")
        assert not isinstance(raised.value, NotRunningError)


def test_a_path_too_long_for_a_socket_is_reported(tmp_path: Path) -> None:
    with pytest.raises(NotRunningError, match="too long"):
        Control(str(tmp_path / ("x" * 200))).get("/api/v1/status")


def test_events_are_yielded_one_by_one(tmp_path: Path) -> None:
    lines = 'id: 1\ndata: {"a": 1}\n\n: keepalive\n\nid: 2\ndata: {"a": 2}\n\n'
    with answering(tmp_path / "s", http("200 OK", lines)):
        assert list(Control(str(tmp_path / "s")).follow("/api/v1/events", follow="1")) == [{"a": 1}, {"a": 2}]


# Prints what the other user's process received, so that the test can check that it is nothing.
LISTEN = """
sock = socket.socket(socket.AF_UNIX)
sock.bind(sys.argv[1])
os.chmod(sys.argv[1], 0o777)
sock.listen()
print("ready", flush=True)
for _ in range(3):
    client, _ = sock.accept()
    client.settimeout(20)
    received = client.recv(65536)
    print(received, flush=True)
    client.sendall(b'HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\nConnection: close\\r\\n\\r\\n{}')
    client.close()
"""


@needs_root
@pytest.mark.parametrize(
    ("command", "code"),
    [(["status"], 1), (["restart", "--all"], 1), (["reload"], 1), (["plan", "FILE"], 2), (["events", "--follow"], 1)],
)
def test_nothing_is_sent_to_another_users_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str], code: int
) -> None:
    config = tmp_path / "tunnels.yaml"
    config.write_text('targets: {a: {host: b.example.com, user: u, agent: true, tunnels: [{local: "1:h:2"}]}}')
    with shared_directory() as directory, other_user(LISTEN, directory / "s") as theirs:
        arguments = [str(config) if word == "FILE" else word for word in command]
        result = run(monkeypatch, [tmp_path / "none", directory / "s"], *arguments)
        assert result.exit_code == code, result.output
        assert f"the process that listens at {directory}/s belongs to uid {NOBODY}" in result.stderr
        assert "nothing was sent" in result.stderr
        assert theirs.stdout is not None
        assert theirs.stdout.readline() == b"b''\n"


@needs_root
def test_a_named_socket_of_another_user_is_refused_too(monkeypatch: pytest.MonkeyPatch) -> None:
    with shared_directory() as directory, other_user(LISTEN, directory / "s") as theirs:
        result = run(monkeypatch, [], "status", "--control", str(directory / "s"))
        assert result.exit_code == 1
        assert "expected uid 0 (root): nothing was sent" in result.stderr
        assert theirs.stdout is not None
        assert theirs.stdout.readline() == b"b''\n"


@needs_root
def test_our_process_is_found_after_another_users_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with shared_directory() as directory, other_user(LISTEN, directory / "s"):
        with answering(tmp_path / "ours", http("200 OK", {"done": ["a/b"]})):
            result = run(monkeypatch, [directory / "s", tmp_path / "ours"], "restart", "--all")
    assert (result.exit_code, result.stdout) == (0, "a/b: restarted\n")


@needs_root
def test_root_trusts_the_owner_of_a_named_directory() -> None:
    """A service that runs as its own user: root made the directory of its socket, or names it."""
    with shared_directory(0o755, NOBODY) as directory, other_user(LISTEN, directory / "s"):
        assert Control(str(directory / "s")).get("/api/v1/status") == {}


def test_only_root_trusts_the_owner_of_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    assert trusted_uids(str(tmp_path / "s"), is_named=True) == {0, 4711}


@needs_root
def test_root_trusts_the_user_of_the_runtime_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only root can make a directory in /run; that of a systemd service belongs to the service's user."""
    with shared_directory(0o755, NOBODY) as directory:
        monkeypatch.setattr(socket_paths, "_SYSTEM", directory)
        assert trusted_uids(str(directory / "tunnels.sock"), is_named=False) == {0, NOBODY}


@needs_root
def test_root_does_not_trust_the_owner_of_an_unnamed_directory() -> None:
    with shared_directory(0o755, NOBODY) as directory:
        assert trusted_uids(str(directory / "s"), is_named=False) == {0}


@needs_root
def test_no_control_socket_is_made_in_another_users_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with shared_directory(0o755, NOBODY) as theirs:
        monkeypatch.setattr(socket_paths, "_SYSTEM", theirs)
        environ = {"XDG_RUNTIME_DIR": str(theirs), "TMPDIR": str(tmp_path)}
        assert place_to_listen(environ) == f"{tmp_path}/tunnels-{os.getuid()}/tunnels.sock"
        assert f"not using {theirs} for the control socket: it belongs to uid {NOBODY}" in caplog.text
        (tmp_path / f"tunnels-{os.getuid()}").rmdir()
        (tmp_path / f"tunnels-{os.getuid()}").symlink_to(theirs)
        with pytest.raises(PermissionError, match="belongs to another user"):
            place_to_listen(environ)
