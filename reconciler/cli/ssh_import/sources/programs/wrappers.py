"""Programs that take another program as their last arguments, and the options and operands before it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from reconciler.cli.ssh_import.sources.values import Argument

ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=.*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Wrapper:
    """A program that starts the program in its arguments.

    values       letters of options that take a value
    names        long options that take the next word as value
    operands     words before the program, such as the duration of `timeout`
    user         options that name the user that the program runs as; `operand` for the first operand
    assignments  NAME=VALUE words may come before the program
    """

    values: str = ""
    names: frozenset[str] = frozenset()
    operands: int = 0
    user: frozenset[str] = frozenset()
    assignments: bool = False


def long_options(names: str) -> frozenset[str]:
    """Return `--NAME` for each name in a text."""
    return frozenset(f"--{name}" for name in names.split())


_USER = frozenset({"-u", "--user", "--reuid", "--chuid", "-c"})
WRAPPERS: dict[str, Wrapper] = {
    "nohup": Wrapper(),
    "setsid": Wrapper(),
    "exec": Wrapper("a"),
    "command": Wrapper(),
    "builtin": Wrapper(),
    "time": Wrapper("fo"),
    "env": Wrapper("uC", long_options("unset chdir"), assignments=True),
    "sudo": Wrapper(
        "ughpCrtTRDU",
        long_options("user group host prompt chdir role type command-timeout chroot close-from other-user"),
        user=frozenset({"-u", "--user"}),
        assignments=True,
    ),
    "doas": Wrapper("uC", user=frozenset({"-u"})),
    "timeout": Wrapper("sk", long_options("signal kill-after"), operands=1),
    "nice": Wrapper("n", long_options("adjustment")),
    "ionice": Wrapper("cn", long_options("class classdata")),
    "chrt": Wrapper("T", operands=1),
    "taskset": Wrapper(operands=1),
    "stdbuf": Wrapper("ioe", long_options("input output error")),
    "unbuffer": Wrapper(),
    "chpst": Wrapper("uUbe/nlLmdopfct", user=frozenset({"-u"})),
    "setpriv": Wrapper(
        names=long_options(
            "reuid ruid euid regid rgid egid groups inh-caps ambient-caps bounding-set securebits pdeathsig"
        ),
        user=frozenset({"--reuid", "--ruid", "--euid"}),
    ),
    "runuser": Wrapper("ug", long_options("user group"), user=frozenset({"-u", "--user"})),
    "setuidgid": Wrapper(operands=1, user=frozenset({"operand"})),
    "s6-setuidgid": Wrapper(operands=1, user=frozenset({"operand"})),
    "gosu": Wrapper(operands=1, user=frozenset({"operand"})),
    "su-exec": Wrapper(operands=1, user=frozenset({"operand"})),
    "softlimit": Wrapper("adfcmostlrpd"),
    "envdir": Wrapper(operands=1),
    "tini": Wrapper("pe"),
    "dumb-init": Wrapper("r", long_options("rewrite")),
    "catatonit": Wrapper(),
    "daemon": Wrapper(
        "nuXFPDULEOo", long_options("name user pidfile chdir output stdout stderr errlog dbglog"), user=_USER
    ),
    "daemonize": Wrapper("acEeolpu", user=frozenset({"-u"})),
    "flock": Wrapper("wEo", long_options("timeout wait conflict-exit-code"), operands=1),
    "systemd-run": Wrapper(
        "pEuMtHdG",
        long_options("unit property setenv description slice uid gid working-directory nice machine host on-calendar"),
    ),
    "systemd-inhibit": Wrapper(names=long_options("what who why mode")),
    "systemd-cat": Wrapper("tp", long_options("identifier priority")),
    "caffeinate": Wrapper("tw"),
    "proxychains": Wrapper("f"),
    "proxychains4": Wrapper("f"),
    "torsocks": Wrapper("uaP"),
    "torify": Wrapper(),
    "chroot": Wrapper(names=long_options("userspec groups"), operands=1),
    "nsenter": Wrapper("tSG", long_options("target setuid setgid")),
    "unshare": Wrapper("SGRw"),
    "cgexec": Wrapper("g"),
    "numactl": Wrapper("imNCpPl"),
    "trickle": Wrapper("udwtlLn"),
    "busybox": Wrapper(),
    "watch": Wrapper("n", long_options("interval")),
    "firejail": Wrapper(),
    "xvfb-run": Wrapper("efnps"),
    "tsocks": Wrapper(),
    "kitty": Wrapper("o"),
    "kitten": Wrapper(),
}


def inside(wrapper: Wrapper, words: Sequence[Argument]) -> tuple[Sequence[Argument], dict[str, Argument], str]:
    """Return the words that a wrapper starts, the variables that it sets, and the user that it changes to."""
    at, operands = 0, wrapper.operands
    environment: dict[str, Argument] = {}
    user = ""
    while at < len(words):
        text = words[at].text
        if text == "--" and not operands:
            return words[at + 1 :], environment, user
        if text.startswith(("-", "+")) and len(text) > 1 and text != "--":
            option, value, at = option_at(wrapper.values, wrapper.names, words, at)
            user = value if option in wrapper.user else user
        elif wrapper.assignments and ASSIGNMENT.fullmatch(text):
            name, _, value = text.partition("=")
            environment[name] = Argument(value, words[at].unknown)
            at += 1
        elif operands:
            user = text if "operand" in wrapper.user else user
            operands -= 1 if text != "--" else 0
            at += 1
        else:
            break
    return words[at:], environment, user


def option_at(values: str, names: frozenset[str], words: Sequence[Argument], at: int) -> tuple[str, str, int]:
    """Return an option, its value, and the position behind both. Of joined letters, the one with a value counts."""
    text = words[at].text
    following = words[at + 1].text if at + 1 < len(words) else ""
    if text.startswith("--"):
        name, equals, value = text.partition("=")
        if equals or name not in names:
            return name, value, at + 1
        return name, following, at + 2
    for position, letter in enumerate(text[1:], start=2):
        if letter in values:
            rest = text[position:]
            return f"-{letter}", rest or following, at + (1 if rest else 2)
    return text, "", at + 1


def user_note(user: str) -> tuple[str, ...]:
    """Return a note about a command that runs as another user."""
    name = user.partition(":")[0]
    return (f"it runs as {name}: `~` is the home of that user",) if re.fullmatch(r"[\w.$-]{1,64}", name) else ()
