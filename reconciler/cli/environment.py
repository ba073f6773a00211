"""The environment variables that are no options, each with its meaning. docs/reference/environment.md shows them.

The variables of options are with the options (`envvar`). A test compares the names with those that the source reads.
"""

from __future__ import annotations

READ: dict[str, str] = {
    "TUNNELS_CONFIG": "The file or directory of a command without FILE. It comes before `./tunnels.yaml` and "
    "`$XDG_CONFIG_HOME/tunnels/`.",
    "XDG_CONFIG_HOME": "Its directory `tunnels` is the last default of a command without FILE. Default: `~/.config`.",
    "XDG_RUNTIME_DIR": "Directory of the control socket `tunnels.sock`. Without it: `/run/tunnels`, then "
    "`tunnels-UID` in a directory for temporary files.",
    "TMPDIR": "Directory for temporary files, before `TEMP`, `TMP`, `/tmp` and `/var/tmp`.",
    "TEMP": "As `TMPDIR`.",
    "TMP": "As `TMPDIR`.",
    "HOME": "The home directory that `~` means. Default: that of the passwd entry.",
    "SSH_AUTH_SOCK": "The socket of the SSH agent for `agent: true`.",
    "POD_NAME": "With `--shard N`: the name that ends with the number of the shard. Default: the host name.",
    "PATH": "Where `run -- CMD` and `proxyCommand` find programs.",
    "NO_COLOR": "If not empty: no colour, as with an output that is not a terminal.",
    "TERM": "`dumb`: no colour, and no line that is rewritten.",
    "COLUMNS": "Width of tables. Without it, tables fit the terminal, and are not cut in other outputs.",
    "LINES": "Height of the screen for `tunnels status --watch`. Without it, that of the terminal.",
}

SET_FOR_PROGRAM: dict[str, str] = {
    "TUNNEL_TARGET_NAME_HOST": "Address of the listener of tunnel TARGET/NAME. The name is in upper case, with `_` for "
    "characters other than letters and digits. A wildcard address becomes loopback.",
    "TUNNEL_TARGET_NAME_PORT": "Its port, also if the file says `localPort: 0` or a range.",
}
