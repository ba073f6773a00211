"""Reading a path that a configuration names, whatever kind of file it is."""

import hashlib
import os
import socket
import tracemalloc
from pathlib import Path

import pytest

from reconciler.system.read_file import (
    FileTooLargeError,
    NotRegularFileError,
    digest_regular,
    open_regular,
    read_regular,
)


def open_descriptors() -> int:
    return len(list(Path("/dev/fd").iterdir()))


def test_a_regular_file_and_a_link_to_it_are_read(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"content")
    link = tmp_path / "link"
    link.symlink_to(file)
    assert read_regular(str(file), 7) == b"content"
    assert read_regular(str(link), 7) == b"content"


def test_one_byte_over_the_limit_is_too_large(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x" * 1025)
    with pytest.raises(FileTooLargeError, match="larger than 1 KiB"):
        read_regular(str(file), 1024)


def test_a_sparse_file_is_not_read_to_its_end(tmp_path: Path) -> None:
    file = tmp_path / "sparse"
    with file.open("wb") as made:
        made.truncate(1 << 40)
    with pytest.raises(FileTooLargeError, match="larger than 1 MiB"):
        read_regular(str(file), 1 << 20)


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/ptmx", "/dev/null", "/dev/tty"])
def test_a_device_is_not_opened(path: str) -> None:
    if not Path(path).exists():
        pytest.skip(f"there is no {path}")
    before = open_descriptors()
    with pytest.raises(NotRegularFileError, match="it is a device"):
        read_regular(path, 1024)
    assert open_descriptors() == before


def test_pipes_sockets_and_directories_are_named_and_leave_no_descriptor(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        before = open_descriptors()
        for name, kind in (("pipe", "a pipe"), ("socket", "a socket"), (".", "a directory")):
            with pytest.raises(NotRegularFileError, match=kind):
                read_regular(str(tmp_path / name), 1024)
        assert open_descriptors() == before


def test_a_file_that_becomes_a_pipe_after_the_check_does_not_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    regular = tmp_path / "regular"
    regular.touch()
    status = regular.stat()
    monkeypatch.setattr(Path, "stat", lambda _self: status)
    before = open_descriptors()
    with pytest.raises(NotRegularFileError, match="a pipe"):
        open_regular(str(pipe))
    assert open_descriptors() == before


def test_a_missing_file_raises_file_not_found(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_regular(str(tmp_path / "missing"), 10)


def test_a_digest_is_that_of_the_content_without_keeping_it(tmp_path: Path) -> None:
    file = tmp_path / "file"
    content = b"content" * (1 << 20)
    file.write_bytes(content)
    expected = hashlib.sha256(content).digest()
    tracemalloc.start()
    try:
        assert digest_regular(str(file), len(content)) == expected
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    with pytest.raises(FileTooLargeError, match="larger than"):
        digest_regular(str(file), len(content) - 1)
