"""`tunnels import` with any input: no traceback, and any output is a valid file."""

from __future__ import annotations

import re

from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.cli.import_ import command
from reconciler.config.load import load_text
from reconciler.config.options import Options

_WORDS = re.findall(
    r"\S+",
    """ssh autossh -L -R -D -J -p -i -l -o -N -fN -W -M -g -C -- - && | 1:h:2 h u@h ssh://u@h:99999 ssh://[::1]:22
    a,b,c 2222 abc Port=x ServerAliveInterval=x ConnectTimeout=0 Ciphers= UserKnownHostsFile="a $HOST ${X} $(id) ::1
    -L$P:db:1 fe80::1%eth0 *:1:h:2 /a:/b [::1]:1:[::2]:2 0:h:1 1-3:h:1 IdentityFile=%h/x IdentityAgent=none key
    HostName=%h.x LocalForward=$P -oUser= HostKeyAlias= StrictHostKeyChecking=NO CertificateFile=c""",
)
_PHRASES = ["'ProxyCommand=nc -x \"p\" %h'", "'ProxyCommand=ssh -W %h:%p g'", "'LocalForward 1 h:2'", "é", "\x00"]


@settings(deadline=None)
@given(words=st.lists(st.sampled_from(_WORDS + _PHRASES), max_size=8), commands=st.booleans())
def test_any_line_gives_a_valid_file_or_an_error(words: list[str], commands: bool) -> None:
    line = " ".join(["ssh", *words])
    result = CliRunner().invoke(command, ["--allow-commands"] if commands else [], input=line)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    if result.stdout:
        loaded = load_text(result.stdout, options=Options(allow_commands=commands), environ={})
        assert loaded.errors == ()
    else:
        assert result.exit_code == 1


@given(text=st.text(max_size=80))
def test_any_text_is_read_or_refused(text: str) -> None:
    result = CliRunner().invoke(command, [], input=text)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception


def test_an_endless_input_is_refused() -> None:
    result = CliRunner().invoke(command, input="# a comment\n" * 100_000)
    assert result.exit_code == 1
    assert "larger than" in result.output
