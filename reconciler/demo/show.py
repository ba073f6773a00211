"""Runs the demo: starts the servers, runs the program on the demo's file, and prints what to try."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable

from reconciler.config.load import Config
from reconciler.core.observed import Phase
from reconciler.demo.world import World, world
from reconciler.report.changes import Change
from reconciler.runtime.app import App
from reconciler.ssh.connect.asyncssh_options import name_the_user_for_asyncssh
from reconciler.system.temporary_directory import temporary_directory

INTRO = """\
The demo runs an SSH server and a web service behind it, both inside this process.

  The file:   {file}
  Try:        curl http://127.0.0.1:{local_port}
  Then edit:  Change localPort in the file and save: the tunnel moves to the new port.
              Uncomment the second tunnel: it opens, and the first one is not affected.
              Make a mistake: the error names its line, and the tunnels do not change.
  Or run:     sed -i s/{local_port}/{moved_port}/ {file}
              curl http://127.0.0.1:{moved_port}

Press Ctrl-C to stop the demo and delete its files.
"""


async def show(print_line: Callable[[str], None], exit_after: float | None) -> int:
    """Run until Ctrl-C, or for `exit_after` seconds. Returns the exit code: 1 if the tunnel never came up.

    Raises NoTemporaryDirectoryError.
    """
    name_the_user_for_asyncssh()
    with temporary_directory("tunnels-demo-") as directory:
        async with world(directory) as servers:
            return await _run(servers, print_line, exit_after)


async def _run(servers: World, print_line: Callable[[str], None], exit_after: float | None) -> int:
    was_up = False

    def on_change(change: Change) -> None:
        nonlocal was_up
        if change.verdict is not None and change.verdict.phase is Phase.PENDING:
            return  # it will soon be connecting or up
        print_line(f"  {change.sentence()}")
        if change.subject.kind == "tunnel" and change.verdict is not None and change.verdict.phase is Phase.UP:
            if not was_up:
                print_line("")
                print_line(
                    INTRO.format(file=servers.file, local_port=servers.local_port, moved_port=servers.moved_port)
                )
            was_up = True

    app = App(Config([servers.file], environ=os.environ), on_change=on_change)
    with app.shutdown.handle_signals():
        async with contextlib.AsyncExitStack() as stack:
            if exit_after is not None:
                stack.callback(asyncio.get_running_loop().call_later(exit_after, app.end).cancel)
            await app.run()
    return 0 if was_up else 1
