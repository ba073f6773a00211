"""The possible places of the control socket on a machine with few writable directories."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from reconciler.report import socket_paths
from support.container import is_entered


@pytest.fixture
def read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulate a container with a read-only root: no /run/tunnels and no writable directory."""
    monkeypatch.setattr(socket_paths, "_SYSTEM", tmp_path / "missing" / "tunnels")
    monkeypatch.setattr(socket_paths, "_temporary", lambda _: [tmp_path / "tmp"])


@pytest.mark.usefixtures("read_only")
def test_commands_look_where_a_socket_could_be(tmp_path: Path) -> None:
    system = str(tmp_path / "missing" / "tunnels" / "tunnels.sock")
    assert socket_paths.socket_paths({}) == (system,)
    assert socket_paths.socket_paths({"XDG_RUNTIME_DIR": "/run/user/7"}) == ("/run/user/7/tunnels.sock", system)


@pytest.mark.usefixtures("read_only")
def test_the_error_names_the_directories_that_were_tried(tmp_path: Path) -> None:
    runtime = str(tmp_path / "none")
    with pytest.raises(OSError, match=r"none of \S+/none, \S+/tunnels, \S+/tmp is writable"):
        socket_paths.place_to_listen({"XDG_RUNTIME_DIR": runtime})


@pytest.mark.usefixtures("read_only")
def test_a_runtime_directory_is_enough(tmp_path: Path) -> None:
    assert socket_paths.place_to_listen({"XDG_RUNTIME_DIR": str(tmp_path)}) == str(tmp_path / "tunnels.sock")
    assert socket_paths.why_no_place({"XDG_RUNTIME_DIR": str(tmp_path)}) == ""


def test_a_socket_is_found_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """tempfile.gettempdir() writes a file to find out whether a directory is usable."""
    monkeypatch.setattr(socket_paths, "_SYSTEM", tmp_path / "missing" / "tunnels")
    environ = {"TMPDIR": str(tmp_path)}
    path = socket_paths.place_to_listen(environ)

    def full(*_: object, **__: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr("tempfile._os.open", full)
    assert path in socket_paths.socket_paths(environ)


@pytest.mark.skipif(is_entered(), reason="needs a writable /tmp")
def test_the_current_directory_is_no_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket_paths, "_SYSTEM", tmp_path / "missing" / "tunnels")
    monkeypatch.chdir(tmp_path)
    path = socket_paths.place_to_listen({"TMPDIR": "relative"})
    assert path == f"/tmp/tunnels-{os.getuid()}/tunnels.sock"
    assert list(tmp_path.iterdir()) == []
