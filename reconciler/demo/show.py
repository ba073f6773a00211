"""The demo itself: brings up the world, runs the program on its file, and says what to try."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from reconciler.config.load import Config
from reconciler.core.observed import Phase
from reconciler.demo.world import World, world
from reconciler.report.changes import Change
from reconciler.runtime.app import App
from reconciler.ssh.connect.asyncssh_options import name_the_user_for_asyncssh

INTRO = """\
An SSH server, a web service behind it and a file of tunnels are up, all inside this process.

  The file:   {file}
  Try:        curl http://127.0.0.1:{local_port}
  Then edit:  change localPort in the file and save: the tunnel moves there in a moment.
              Take the # away from the second tunnel: it opens, and the first does not notice.
              Make a mistake: it is told with its line, and nothing changes.
  From here:  sed -i s/{local_port}/{moved_port}/ {file}
              curl http://127.0.0.1:{moved_port}

Ctrl-C ends it and removes everything.
"""


class DemoError(Exception):
    """The demo cannot be shown here; the text says what it lacks."""


async def show(say: Callable[[str], None], exit_after: float | None) -> int:
    """Run until Ctrl-C, or for `exit_after` seconds. Returns the exit code: 1 if the tunnel never came up."""
    name_the_user_for_asyncssh()
    try:
        temporary = tempfile.TemporaryDirectory(prefix="tunnels-demo-")
    except OSError as error:
        raise DemoError(f"the demo needs a directory for temporary files: set TMPDIR ({error.strerror})") from None
    with temporary as directory:
        async with world(Path(directory)) as places:
            return await _run(places, say, exit_after)


async def _run(places: World, say: Callable[[str], None], exit_after: float | None) -> int:
    was_up = False

    def on_change(change: Change) -> None:
        nonlocal was_up
        if change.verdict is not None and change.verdict.phase is Phase.PENDING:
            return  # on its way: not worth a line here
        say(f"  {change.sentence()}")
        if change.subject.startswith("tunnel") and change.verdict is not None and change.verdict.phase is Phase.UP:
            if not was_up:
                say("")
                say(INTRO.format(file=places.file, local_port=places.local_port, moved_port=places.moved_port))
            was_up = True

    app = App(Config([places.file], environ=os.environ), on_change=on_change)
    with app.ending.signals():
        async with contextlib.AsyncExitStack() as stack:
            if exit_after is not None:
                stack.callback(asyncio.get_running_loop().call_later(exit_after, app.end).cancel)
            await app.run()
    return 0 if was_up else 1
