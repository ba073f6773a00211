"""The finder of `tunnels import` reads any text: commands and messages, never an exception, and never a password."""

from __future__ import annotations

from pathlib import Path

from hypothesis import strategies as st

from fuzz.driver import Fuzz
from reconciler.cli.ssh_import.sources.find import find_commands

_DIRECTORY = Path(__file__).parents[1] / "configs" / "import" / "sources"
_SECRET = "battery-staple"
_FILES = [path.read_text() for path in sorted(_DIRECTORY.iterdir()) if ".found." not in path.name]
_LINES = sorted({line for text in _FILES for line in text.split("\n")})
_SIGNS = "` $( $(( ${ ${A[@]} ${A%%*} ${A/b/c} << <<E E ;; [[ ]] )) ) } ' \" \\ && || | <( A=( <<: *a &a %% $' {1..9}"
_WORDS = sorted({word for line in (*_LINES, _SIGNS) for word in line.split()})
_SPACES = st.sampled_from([" ", " ", " ", "\n", "\n  ", "\t", " \\\n", "\0", "\u2028", "\r\n"])
_TEXTS = st.one_of(
    st.lists(st.sampled_from(_LINES), max_size=12).map("\n".join),
    st.lists(st.tuples(st.sampled_from(_WORDS), _SPACES), max_size=25).map(
        lambda pairs: "".join(word + space for word, space in pairs)
    ),
    st.text(max_size=80),
)
_PASSWORDS = st.sampled_from(
    [
        f"sshpass -p {_SECRET} ssh -N -D 1 h",
        f"SSHPASS={_SECRET} sshpass -e ssh -N -D 1 h",
        f"export PW='{_SECRET}'; sshpass -p\"$PW\" ssh -N -L $PORT:h:1 h",
    ]
)


def assert_found_or_named(text: str) -> None:
    """Any text that is not empty gives a command or a message."""
    found, messages = find_commands(text, "", {"HOME": "/home/me"})
    assert found or messages or not text.replace("\0", "").removeprefix("\ufeff").strip()
    assert all(isinstance(word, str) for command in found for word in command.arguments)


def test_any_text_gives_commands_or_messages(fuzz: Fuzz) -> None:
    fuzz.run(_TEXTS, assert_found_or_named, examples=300)


def test_a_password_in_any_text_stays_there(fuzz: Fuzz) -> None:
    def assert_hidden(parts: tuple[str, str, str]) -> None:
        found, messages = find_commands("\n".join(parts), "")
        assert all(_SECRET not in message for message in messages)
        assert all(_SECRET not in note for command in found for note in command.notes)

    fuzz.run(st.tuples(_TEXTS, _PASSWORDS, _TEXTS), assert_hidden, examples=200)
