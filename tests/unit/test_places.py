"""The possible places of the control socket on a machine with few writable directories."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.report import socket_paths


@pytest.fixture
def read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulate a container with a read-only root: no /run/tunnels and no temporary directory."""

    def none() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp', '/var/tmp', '/usr/tmp', '/']")

    monkeypatch.setattr(socket_paths, "_SYSTEM", tmp_path / "missing" / "tunnels")
    monkeypatch.setattr("tempfile.gettempdir", none)


@pytest.mark.usefixtures("read_only")
def test_commands_look_where_a_socket_could_be(tmp_path: Path) -> None:
    system = str(tmp_path / "missing" / "tunnels" / "tunnels.sock")
    assert socket_paths.socket_paths({}) == (system,)
    assert socket_paths.socket_paths({"XDG_RUNTIME_DIR": "/run/user/7"}) == ("/run/user/7/tunnels.sock", system)


@pytest.mark.usefixtures("read_only")
def test_the_error_names_the_directories_that_were_tried(tmp_path: Path) -> None:
    runtime = str(tmp_path / "none")
    with pytest.raises(OSError, match=r"none of \S+/none, \S+/tunnels, /tmp is writable"):
        socket_paths.place_to_listen({"XDG_RUNTIME_DIR": runtime})


@pytest.mark.usefixtures("read_only")
def test_a_runtime_directory_is_enough(tmp_path: Path) -> None:
    assert socket_paths.place_to_listen({"XDG_RUNTIME_DIR": str(tmp_path)}) == str(tmp_path / "tunnels.sock")
