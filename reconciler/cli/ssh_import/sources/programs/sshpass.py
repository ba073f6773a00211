"""The options of sshpass(1). The password itself is not returned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from reconciler.cli.ssh_import.found import PasswordSource
from reconciler.cli.ssh_import.sources.programs.ssh_arguments import needed
from reconciler.cli.ssh_import.sources.values import Argument

VARIABLE = "SSHPASS"


def sshpass(
    words: Sequence[Argument], environment: Mapping[str, Argument], environ: Mapping[str, Argument]
) -> tuple[Sequence[Argument], PasswordSource | None, dict[str, Argument]]:
    """Return the command that sshpass runs, where its password comes from, and the variables without the password.

    The source is None if sshpass asks on its input. `environ` has the variables that the text does not set.
    """
    secret = ""
    source: PasswordSource | None = None
    at = 0
    while at < len(words) and words[at].text.startswith("-") and len(words[at].text) > 1:
        word = words[at]
        at += 1
        letter, value = word.text[1], Argument(word.text[2:], word.unknown)
        if letter in "pfdP" and not value.text and at < len(words):
            value = words[at]
            at += 1
        if letter == "p":
            source, secret = password(value), value.text
        elif letter == "f":
            source = PasswordSource("file", value.text) if value.unknown is None else password(value)
        elif letter == "e":
            name = value.text or VARIABLE
            given = environment.get(name, environ.get(name))
            source = password(given) if name in environment and given is not None else PasswordSource("env", name)
            secret = given.text if given is not None else ""
        elif word.text == "--":
            break
    safe = {name: one for name, one in environment.items() if not secret or one.text != secret}
    rest = words[at:]
    start = 1 + sum(1 for _ in needed(rest[1:]))  # of the command on the server, such as `echo PASSWORD | sudo -S ...`
    hidden = (Argument("...") if secret and secret in word.text else word for word in rest[start:])
    return [*rest[:start], *hidden], source, safe


def password(value: Argument) -> PasswordSource:
    """Return the source of a password that a text gives as `value`."""
    if value.unknown is None:
        return PasswordSource("literal")
    if value.unknown.file:
        return PasswordSource("file", value.unknown.file)
    variable = value.unknown.variable
    is_whole = value.text in (f"${{{variable}}}", f"${variable}", f"$({variable})")
    return PasswordSource("env", variable) if variable.isidentifier() and is_whole else PasswordSource("literal")
