"""Programs that start another program by rules of their own: `su -c`, `tmux`, `start-stop-daemon`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reconciler.cli.ssh_import.sources.programs.wrappers import long_options, option_at
from reconciler.cli.ssh_import.sources.values import Argument

_SU_NAMES = long_options("command session-command shell user group supp-group")
_TMUX_NEW = frozenset(
    {"new", "new-session", "neww", "new-window", "splitw", "split-window", "respawn-pane", "respawnp"}
)
_TMUX_KEYS = frozenset({"send", "send-keys"})
_DAEMON_NAMES = long_options(
    """exec startas pidfile user group name chuid chroot chdir umask nicelevel procsched iosched signal retry ppid
    pid env stdout stderr output wait notify-timeout"""
)


@dataclass(frozen=True, slots=True)
class NestedShell:
    """Texts that a program hands to a shell, and the user that it runs as."""

    texts: tuple[str, ...]
    user: str = ""


def nested_shell(name: str, words: Sequence[Argument]) -> NestedShell | None:
    """Return the shell text in the arguments of a program, None if it is another one."""
    match name:
        case "su" | "runuser":
            return _su(words)
        case "flock" | "script":
            return _command_option(words, "wEo" if name == "flock" else "EIOBTm")
        case "tmux":
            return _tmux(words)
        case "screen":
            return _screen_stuff(words)
        case "option" if len(words) == 2 and words[0].text == "ssh":  # OpenWrt: /etc/config/autossh
            return NestedShell((f"autossh {words[1].text}",))
        case _:
            return None


def nested_words(name: str, words: Sequence[Argument]) -> Sequence[Argument] | None:
    """Return the program and the arguments in the arguments of another program, None if it is another one."""
    texts = [word.text for word in words[:12]]
    match name:
        case "screen":
            return _after_options("cehpsStTL", words)
        case "start-stop-daemon":
            return _start_stop_daemon(words)
        case "kubectl" | "oc" | "lxc-attach" if "--" in texts:
            return words[texts.index("--") + 1 :]
        case "ip" if texts[:2] == ["netns", "exec"]:
            return words[3:]
        case "procd_set_param" | "procd_append_param" if texts[:1] == ["command"]:  # OpenWrt: /etc/init.d
            return words[1:]
        case "tmux":
            return _tmux_words(words)
        case _:
            return None


def _after_options(values: str, words: Sequence[Argument]) -> Sequence[Argument]:
    at = 0
    while at < len(words) and words[at].text.startswith("-"):
        if words[at].text == "--":
            return words[at + 1 :]
        _, _, at = option_at(values, frozenset(), words, at)
    return words[at:]


def _su(words: Sequence[Argument]) -> NestedShell | None:
    texts: list[str] = []
    user, at = "", 0
    while at < len(words):
        text = words[at].text
        if text == "--":
            break
        if text.startswith("-") and text != "-":
            option, value, at = option_at("csugwGT", _SU_NAMES, words, at)
            if option in ("-c", "--command", "--session-command"):
                texts.append(value)
            user = value if option in ("-u", "--user") else user
        else:
            user = user or (text if text != "-" else "")
            at += 1
    return NestedShell(tuple(texts), user) if texts else None


def _command_option(words: Sequence[Argument], values: str) -> NestedShell | None:
    at = 0
    while at < len(words):
        if words[at].text.startswith("-"):
            option, value, at = option_at(f"c{values}", frozenset({"--command"}), words, at)
            if option in ("-c", "--command"):
                return NestedShell((value,))
        else:
            at += 1
    return None


def _tmux_command(words: Sequence[Argument]) -> tuple[str, Sequence[Argument]]:
    """Return the command of tmux, and its arguments without options."""
    rest = _after_options("cfLSTC", words)
    return (rest[0].text, _after_options("ceFflnpstxy", rest[1:])) if rest else ("", ())


def _tmux(words: Sequence[Argument]) -> NestedShell | None:
    """Return the texts of the commands of tmux, which semicolons separate."""
    texts: list[str] = []
    parts: list[list[Argument]] = [[]]
    for word in words:
        if word.text == ";":
            parts.append([])
        else:
            parts[-1].append(word)
    for part in parts:
        name, rest = _tmux_command(part)
        if name in _TMUX_KEYS or (name in _TMUX_NEW and len(rest) == 1):
            texts += [word.text for word in rest]
    return NestedShell(tuple(texts)) if texts else None


def _tmux_words(words: Sequence[Argument]) -> Sequence[Argument] | None:
    name, rest = _tmux_command(words)
    return rest if name in _TMUX_NEW else None


def _screen_stuff(words: Sequence[Argument]) -> NestedShell | None:
    texts = [word.text for word in words]
    return NestedShell((texts[-1],)) if len(texts) > 1 and texts[-2] == "stuff" else None


def _start_stop_daemon(words: Sequence[Argument]) -> Sequence[Argument]:
    program: Argument | None = None
    at = 0
    while at < len(words) and words[at].text != "--":
        if not words[at].text.startswith("-"):
            at += 1
            continue
        option, value, at = option_at("xapugncrdNPIksRe12", _DAEMON_NAMES, words, at)
        if option in ("-K", "--stop", "-T", "--status"):
            return ()
        if option in ("-a", "--startas") or (option in ("-x", "--exec") and program is None):
            program = Argument(value, words[at - 1].unknown)
    return [program, *words[at + 1 :]] if program is not None else ()
