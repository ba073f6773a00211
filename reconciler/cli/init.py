"""`tunnels init`: write a first file, with comments, to edit."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import click

from reconciler.cli.client import CommandError
from reconciler.cli.terminal.table import clean
from reconciler.config.options import UnknownHomeError, absolute

_KEYS = ("~/.ssh/id_ed25519", "~/.ssh/id_ecdsa", "~/.ssh/id_rsa")  # the order in which ssh tries them
_STDOUT = "-"

_TEXT = """\
# SSH tunnels. `tunnels run {file}` opens them and follows edits of this file; `tunnels plan {file}` shows first
# what an edit would do. `tunnels explain FIELD` explains a field.

targets:
  bastion: # a name of your choice
    host: bastion.example.com # the SSH server
    # port: 2222
    # user: deploy # default: the user of the process
    {login}
    # passphrase: {{env: KEY_PASSPHRASE}} # for an encrypted key; {{file: PATH}} reads it from a file

    # The server must be known, as for ssh. Compare the fingerprint that `tunnels trust {file}` shows with the one on
    # the server, then add the key with `tunnels trust {file} --known-hosts`.
    # knownHosts: ~/.ssh/known_hosts

    # An SSH server to go through first.
    # jumpHost: {{host: jump.example.com, user: deploy, agent: true}}

    tunnels:
      # 127.0.0.1:5432 here leads to the port 5432 of db.internal, as the SSH server sees it (ssh -L).
      - name: db
        type: local
        localPort: 5432
        remoteHost: db.internal
        remotePort: 5432
        # health: {{type: tcp}} # the tunnel is up only if the destination accepts connections

      # The port 8080 of the SSH server leads to the port 3000 here (ssh -R).
      # - {{name: preview, type: remote, remotePort: 8080, localHost: 127.0.0.1, localPort: 3000}}

      # A SOCKS proxy on 127.0.0.1:1080 (ssh -D).
      # - {{name: proxy, type: socks, localPort: 1080}}
"""


@click.command("init")
@click.argument("file", default="tunnels.yaml", type=click.Path(readable=False))
def command(file: str) -> None:
    r"""Write a first FILE with comments, to edit. The default is ./tunnels.yaml; - prints it.

    An existing file is left alone.

    \b
    tunnels init
    tunnels init prod.yaml

    Exits 1 if the file exists or cannot be written.
    """
    if file == _STDOUT:
        click.echo(first_file("tunnels.yaml", os.environ), nl=False)
        return
    try:
        with open(file, "x", encoding="utf-8", errors="surrogateescape") as new:  # noqa: PTH123 - the path may hold a NUL
            try:
                new.write(first_file(file, os.environ))
                new.flush()
            except BaseException:
                with suppress(OSError):
                    os.unlink(file)  # noqa: PTH108 - the path may be bytes that are not UTF-8
                raise
    except FileExistsError:
        raise CommandError(f"{clean(file)} exists and is left alone: name another file") from None
    except (OSError, ValueError) as error:
        why = (error.strerror if isinstance(error, OSError) else "") or "the path contains a NUL"
        raise CommandError(f"cannot write {clean(file)}: {why.lower()}") from None
    shown = clean(shlex.quote(file))
    click.echo(f"{clean(file)} is written. Edit `host`, the login and the tunnel in it, then:")
    click.echo(f"  tunnels trust {shown} --known-hosts")
    click.echo(f"  tunnels check --connect {shown}")
    click.echo(f"  tunnels run {shown}")


def first_file(file: str, environ: Mapping[str, str]) -> str:
    """Return the content: valid as it is, with a login that this machine has, if there is one."""
    return _TEXT.format(file=clean(shlex.quote(file)), login=_login(environ))


def _login(environ: Mapping[str, str]) -> str:
    try:
        found = next((key for key in _KEYS if Path(absolute(key, "/", environ)).is_file()), "")
    except UnknownHomeError:
        return "agent: true # or privateKey: /path/of/a/key"
    if not found and environ.get("SSH_AUTH_SOCK"):
        return "agent: true # the keys of the SSH agent; or privateKey: ~/.ssh/id_ed25519"
    if not found:
        return f"privateKey: {_KEYS[0]} # `ssh-keygen -t ed25519` makes one; or agent: true"
    return f"privateKey: {found} # or agent: true"
