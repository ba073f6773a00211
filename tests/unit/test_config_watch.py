"""Changes of files are noticed soon, in all ways in which people and Kubernetes make them."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from reconciler.config import watch
from reconciler.config.watch import FileChanges, Watcher

NEVER = 3600.0  # an interval so long that only hints can be the reason
WITHIN = 30.0


async def after(watcher: Watcher, edit: Callable[[], object]) -> FileChanges:
    """Make an edit and return the first change that is noticed."""
    edit()
    return await asyncio.wait_for(anext(watcher), WITHIN)


async def hints_arrive(watcher: Watcher) -> None:
    async with asyncio.timeout(WITHIN):
        while not watcher.active:  # noqa: ASYNC110 - an attribute for a gauge; there is no event behind it
            await asyncio.sleep(0.001)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    folder = tmp_path / "config"
    folder.mkdir()
    (folder / "a.yaml").write_text("1")
    return folder


@pytest.fixture
async def watcher(config: Path) -> AsyncIterator[Watcher]:
    async with Watcher([config], interval=NEVER) as watcher:
        await hints_arrive(watcher)
        yield watcher


def changed(*paths: Path) -> FileChanges:
    return FileChanges(frozenset(map(str, paths)), frozenset())


async def test_an_edit_in_place_is_noticed(watcher: Watcher, config: Path) -> None:
    assert await after(watcher, lambda: (config / "a.yaml").write_text("2")) == changed(config / "a.yaml")


async def test_each_edit_by_rename_is_noticed(watcher: Watcher, config: Path) -> None:
    def edit(text: str) -> None:
        (config / ".new").write_text(text)
        (config / ".new").rename(config / "a.yaml")

    for turn in range(2, 5):
        assert await after(watcher, partial(edit, str(turn))) == changed(config / "a.yaml")


async def test_a_created_deleted_and_restored_file_is_noticed(watcher: Watcher, config: Path) -> None:
    new = config / "b.yml"
    for edit in (lambda: new.write_text("1"), new.unlink, lambda: new.write_text("1")):
        assert await after(watcher, edit) == changed(new)


async def test_each_swap_of_a_configmap_data_link_is_noticed(tmp_path: Path) -> None:
    mount = tmp_path / "mount"
    mount.mkdir()

    def publish(version: str) -> None:
        (mount / f"..{version}").mkdir()
        (mount / f"..{version}" / "a.yaml").write_text(version)
        (mount / "..data_tmp").symlink_to(f"..{version}")
        (mount / "..data_tmp").rename(mount / "..data")

    publish("v1")
    (mount / "a.yaml").symlink_to("..data/a.yaml")
    elsewhere = tmp_path / "elsewhere.yaml"
    elsewhere.symlink_to(mount / "a.yaml")
    for path in (mount, mount / "a.yaml", elsewhere):
        async with Watcher([path], interval=NEVER) as watcher:
            await hints_arrive(watcher)
            for turn in range(3):
                change = await after(watcher, partial(publish, f"{path.name}{turn}"))
                assert change == changed(mount / "a.yaml" if path == mount else path)


async def test_a_file_in_a_new_directory_is_noticed(tmp_path: Path) -> None:
    folder = tmp_path / "later" / "still"
    async with Watcher([folder / "a.yaml"], interval=NEVER) as watcher:
        await hints_arrive(watcher)

        def edit() -> None:
            folder.mkdir(parents=True)
            (folder / "a.yaml").write_text("1")

        assert await after(watcher, edit) == changed(folder / "a.yaml")


async def test_the_same_content_again_is_no_change(watcher: Watcher, config: Path) -> None:
    (config / "a.yaml").write_text("1")
    os.utime(config / "a.yaml", (1, 1))
    assert await after(watcher, lambda: (config / "b.yaml").write_text("x")) == changed(config / "b.yaml")


async def test_files_that_the_specs_name_are_watched(watcher: Watcher, tmp_path: Path) -> None:
    key = tmp_path / "keys" / "id"
    key.parent.mkdir()
    key.write_text("old")
    await watcher.watch_also([str(key)])
    assert await after(watcher, lambda: key.write_text("new")) == FileChanges(frozenset(), frozenset({str(key)}))
    await watcher.watch_also([])
    key.write_text("newer")
    change = await after(watcher, lambda: (tmp_path / "config" / "a.yaml").write_text("2"))
    assert change == changed(tmp_path / "config" / "a.yaml")


async def test_without_inotify_changes_are_still_noticed_and_the_log_says_so(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_inotify(*_: object, **__: object) -> Any:
        raise OSError(28, "inotify watch limit reached")

    monkeypatch.setattr(watch, "awatch", no_inotify)
    async with Watcher([config], interval=0.05) as watcher:
        assert await after(watcher, lambda: (config / "a.yaml").write_text("2")) == changed(config / "a.yaml")
        assert not watcher.active


async def test_without_threads_changes_are_still_noticed(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By itself, watchfiles would wait for its thread without end, in the event loop."""

    class Scarce(threading.Thread):
        def start(self) -> None:
            if self.name == "try":  # the others are the event loop's, to read with
                raise RuntimeError("can't start new thread")
            super().start()

    async with Watcher([config], interval=0.05) as watcher:
        await hints_arrive(watcher)
        (config / "other").mkdir()
        monkeypatch.setattr(threading, "Thread", Scarce)
        monkeypatch.setattr(watch, "awatch", pytest.fail)
        await watcher.watch_also([str(config / "other" / "key")])
        async with asyncio.timeout(WITHIN):
            while watcher.active:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.001)
        assert await after(watcher, lambda: (config / "a.yaml").write_text("2")) == changed(config / "a.yaml")


async def test_an_edit_is_noticed_before_the_next_periodic_check(watcher: Watcher, config: Path) -> None:
    async with asyncio.timeout(WITHIN):
        await after(watcher, lambda: (config / "a.yaml").write_text("2"))


async def test_a_half_written_file_is_not_an_edit(
    watcher: Watcher, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "_SETTLE", 0.5)  # far more than the pauses of a slow writer on a busy machine

    async def write_slowly() -> None:
        with (config / "a.yaml").open("w") as file:
            for part in range(10):
                file.write(str(part))
                file.flush()
                await asyncio.sleep(0.01)

    writing = asyncio.create_task(write_slowly())
    await asyncio.wait_for(anext(watcher), WITHIN)
    assert (config / "a.yaml").read_text() == "0123456789"
    await writing


async def test_a_pipe_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    async with Watcher([tmp_path / "pipe.yaml", tmp_path / "a.yaml"], interval=0.05) as watcher:
        assert await after(watcher, lambda: (tmp_path / "a.yaml").write_text("x")) == changed(tmp_path / "a.yaml")


async def test_a_file_name_that_is_not_utf_8_does_not_end_the_watch(config: Path) -> None:
    """The watchfiles library refuses such a path, and fails on an event about one."""
    odd = config / os.fsdecode(b"\xff.yaml")
    odd.write_text("1")
    async with Watcher([config, odd], interval=0.05) as watcher:
        await hints_arrive(watcher)
        for turn in range(2, 5):
            assert await after(watcher, partial(odd.write_text, str(turn))) == changed(odd)
            await hints_arrive(watcher)
            assert await after(watcher, partial((config / "a.yaml").write_text, str(turn))) == changed(
                config / "a.yaml"
            )


async def test_a_directory_name_that_is_not_utf_8_has_no_inotify_and_the_log_says_so(tmp_path: Path) -> None:
    file = tmp_path / os.fsdecode(b"\xff") / "a.yaml"
    file.parent.mkdir()
    async with Watcher([file], interval=0.05) as watcher:
        assert await after(watcher, lambda: file.write_text("1")) == changed(file)
        assert not watcher.active


async def test_a_cancelled_watch_ends_at_once_and_leaves_no_thread(config: Path) -> None:
    ready = asyncio.Event()

    async def run() -> None:
        async with Watcher([config], interval=NEVER) as watcher:
            await hints_arrive(watcher)
            ready.set()
            async for _ in watcher:
                pass

    task = asyncio.create_task(run())
    await ready.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, WITHIN)


def test_no_thread_is_left_after_the_loop_ends(config: Path) -> None:
    async def run() -> None:
        async with Watcher([config]) as watcher:
            await hints_arrive(watcher)

    before = set(threading.enumerate())
    asyncio.run(run())
    for thread in set(threading.enumerate()) - before:
        thread.join(WITHIN)
        assert not thread.is_alive()


async def test_a_file_that_a_load_could_not_read_is_reported_once_more(config: Path) -> None:
    (config / "b.yaml").write_text("2")
    (config / "empty.yaml").write_text("")
    async with Watcher([f"{config}/"], interval=0.01) as watcher:
        watcher.look_again([str(config / "a.yaml"), str(config / "empty.yaml"), str(config / "gone.yaml")])
        assert await asyncio.wait_for(anext(watcher), WITHIN) == changed(config / "a.yaml")
        watcher.look_again([f"{config}/"])
        assert await asyncio.wait_for(anext(watcher), WITHIN) == changed(config / "a.yaml", config / "b.yaml")
        (config / "b.yaml").write_text("3")
        assert await asyncio.wait_for(anext(watcher), WITHIN) == changed(config / "b.yaml")


def test_circular_links_cost_linear_time(tmp_path: Path) -> None:
    links = [f"l{number}" for number in range(30)]
    for name in links:
        (tmp_path / name).symlink_to(".")
    path = tmp_path.joinpath(*links, "key")
    (tmp_path / "key").write_text("a key")
    assert path.read_text() == "a key"
    assert watch._places_of(str(path)) == {str(tmp_path), str(path)}


def test_each_directory_of_a_link_chain_is_watched(tmp_path: Path) -> None:
    for name in ("a", "b/deep", "c"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "c" / "file").write_text("x")
    (tmp_path / "b" / "deep" / "hop").symlink_to("../../c/file")
    (tmp_path / "a" / "directory").symlink_to(tmp_path / "b" / "deep")
    path = tmp_path / "a" / "directory" / "hop"
    places = {str(tmp_path / name) for name in ("a", "b/deep", "c")}
    assert watch._places_of(str(path)) == places | {str(path)}
    (tmp_path / "c" / "file").unlink()
    assert watch._places_of(str(path)) == places
    (tmp_path / "c").rmdir()
    assert watch._places_of(str(path)) == {str(tmp_path / name) for name in ("a", "b/deep", "")}
