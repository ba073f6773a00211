"""Collects the ssh commands among the programs that a text starts, behind any number of wrappers."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from reconciler.cli.ssh_import.found import FoundCommand, PasswordSource
from reconciler.cli.ssh_import.sources.containers.container import docker_run
from reconciler.cli.ssh_import.sources.programs.launchers import nested_shell, nested_words
from reconciler.cli.ssh_import.sources.programs.ssh_arguments import autossh_to_ssh, has_forward, is_control, needed
from reconciler.cli.ssh_import.sources.programs.sshpass import VARIABLE, sshpass
from reconciler.cli.ssh_import.sources.programs.wrappers import WRAPPERS, inside, user_note
from reconciler.cli.ssh_import.sources.shell.parse import parse
from reconciler.cli.ssh_import.sources.shell.run import Runner
from reconciler.cli.ssh_import.sources.shell.words import ShellSyntaxError
from reconciler.cli.ssh_import.sources.values import Argument, Launch, Unknown, WorkBudget, WorkLimitError, placeholder

_MAX_DEPTH = 8  # of `bash -c` inside `su -c`
_MAX_MESSAGES = 50
_SHELL_COST = 50  # of one more shell, in characters


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_SHELLS = frozenset({"sh", "bash", "dash", "ash", "zsh", "ksh", "mksh", "rbash"})
_CONTAINERS = frozenset({"docker", "podman", "nerdctl"})
_WRITERS = frozenset({"cat", "tee", "crontab"})
# Their arguments may contain an ssh command, which they do not start.
_SILENT = _names(
    """echo printf logger pkill pgrep grep egrep ps kill killall which type man apt apt-get apk yum dnf pacman brew
    systemctl service test [ chmod chown ls cat rm cp mv mkdir install ssh-add ssh-keygen ssh-copy-id ssh-agent scp
    sftp rsync git ufw sed awk find xargs"""
)
# They have a subcommand `ssh` of their own.
_OWN_SSH = _names("gcloud az vagrant minikube gh tsh tailscale multipass lxc limactl colima fly flyctl heroku eb aws")
_KNOWN = (
    _SHELLS
    | _WRITERS
    | _CONTAINERS
    | _SILENT
    | WRAPPERS.keys()
    | _names(
        """ssh autossh sshpass su runuser screen tmux script start-stop-daemon cd . source sleep if while until for
    { ( [[ ! export pidof true"""
    )
)
_UNIT_OR_CRONTAB = re.compile(
    r"^[ \t]*(?:ExecStart[ \t]*=|@reboot[ \t]|(?:[0-9*][0-9*/,-]*[ \t]+){3}\S+[ \t]+\S+[ \t])", re.MULTILINE
)
_PLACEHOLDER = re.compile(r"<[A-Za-z][\w .-]{0,60}>|\{\{[^{}\n]{1,60}\}\}|%[A-Z_][A-Z0-9_]{2,40}%")
_PROMPT = re.compile(r"[^\s=/]*[$#%>\u276f\u279c\u00bb]|[0-9]+", re.DOTALL)  # or a number of `history`


def _is_unit_or_crontab(text: str) -> bool:
    """Return True for a text that a script may write to a file with `echo`: a unit or a crontab."""
    return _UNIT_OR_CRONTAB.search(text) is not None


def program(word: str) -> str:
    """Return the name of a program without its directory."""
    name = PurePosixPath(word.replace("\\", "/")).name
    return name.removesuffix(".exe")


class Collector:
    """`read_inside` finds commands in a text inside the text: a here-document, lines between units."""

    def __init__(
        self,
        name: str,
        environ: Mapping[str, Argument],
        read: Callable[[Collector, str, int], None],
        budget: WorkBudget,
    ) -> None:
        self.name = name
        self.environ = environ
        self.budget = budget
        self.found: list[FoundCommand] = []
        self.messages: list[str] = []
        self.others: list[FoundCommand] = []  # ssh commands that run a program on the server, and forward nothing
        self.read_inside = read
        self._depth = 0

    def say(self, message: str) -> None:
        if message not in self.messages and len(self.messages) < _MAX_MESSAGES:
            self.messages.append(message)

    # --- shell text -----------------------------------------------------------------------------------------------

    def shell(self, launch: Launch, text: str, arguments: Sequence[Argument] = ()) -> None:
        """Follow the shell text that a launch starts."""
        self.budget.spend(len(text) + _SHELL_COST)
        runner = self.runner({**self.environ, **launch.environment}, lambda _: launch.where, launch)
        runner.scope.zero = arguments[0] if arguments else None
        runner.scope.positional = tuple(arguments[1:])
        try:
            runner.run(parse(text, self.budget, launch.line))
        except ShellSyntaxError as error:
            if "ssh" in text:
                self.say(f"{launch.where}: the shell command cannot be parsed, {error.reason}: correct it")

    def runner(
        self, environ: Mapping[str, Argument], place: Callable[[int], str], outer: Launch | None = None
    ) -> Runner:
        """Return a runner that hands each program to `take`, with the variables and notes of `outer`."""

        def visit(launch: Launch) -> None:
            if outer is not None:
                self.budget.spend(len(outer.environment))
                environment = {**outer.environment, **launch.environment}
                launch = replace(launch, environment=environment, notes=outer.notes)
            self.take(launch)

        return Runner(visit, self.budget, environ, place)

    # --- programs -------------------------------------------------------------------------------------------------

    def take(self, launch: Launch) -> None:
        """Keep the ssh command that a launch starts, if it is one."""
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise WorkLimitError
        try:
            self._unwrap(launch)
        finally:
            self._depth -= 1

    def _unwrap(self, launch: Launch) -> None:
        words: Sequence[Argument] = launch.words
        environment, notes = dict(launch.environment), list(launch.notes)
        password: PasswordSource | None = None
        while words:
            self.budget.spend(len(words))
            name = program(words[0].text)
            here = replace(launch, words=tuple(words), environment=environment, notes=tuple(notes))
            unknown = words[0].unknown
            if unknown is not None:
                if len(words) > 1 and is_program(words[1].text):
                    words = words[1:]  # $SUDO
                    continue
                self._unknown_program(here, unknown)
                return
            if name in ("ssh", "autossh"):
                self._keep(here, name, password)
                return
            if name == "sshpass":
                words, password, environment = sshpass(words[1:], environment, self.environ)
                continue
            if name == "env" and len(words) > 1 and words[1].text[:2] == "-S":
                words = self._split(words[1:])
                continue
            if name in WRAPPERS and nested_shell(name, words[1:]) is None:
                words, variables, user = inside(WRAPPERS[name], words[1:])
                environment |= variables
                notes += user_note(user)
                continue
            following = self._other(here, name)
            if following is None:
                return
            words = following

    def _other(self, launch: Launch, name: str) -> Sequence[Argument] | None:
        """Follow a program that starts another one by rules of its own. Returns the words of that one, if any."""
        rest = launch.words[1:]
        if name in _SHELLS:
            self._shell_program(launch)
        elif (nested := nested_shell(name, rest)) is not None:
            inner = replace(launch, notes=(*launch.notes, *user_note(nested.user)))
            for text in nested.texts:
                self.shell(inner, text)
        elif (words := nested_words(name, rest)) is not None:
            return words
        elif name in _CONTAINERS:
            self._container(launch)
        elif launch.documents:
            for document in launch.documents:
                if name in _WRITERS or _is_unit_or_crontab(document.content.text):
                    self.read_inside(self, document.content.text, document.line)
        else:
            return self._behind_prompt(launch, name)
        return None

    def _split(self, words: Sequence[Argument]) -> list[Argument]:
        """Return the words of `env -S "PROGRAM ARGUMENT"`."""
        text = words[0].text[2:].removeprefix("=")
        rest = list(words[1:])
        if not text and rest:
            text = rest.pop(0).text
        try:
            return [*(Argument(word) for word in shlex.split(text)), *rest]
        except ValueError:
            return rest

    def _shell_program(self, launch: Launch) -> None:
        words = launch.words[1:]
        for at, word in enumerate(words):
            if at and words[at - 1].text.startswith(("-", "+")) and words[at - 1].text.endswith("o"):
                continue  # -o pipefail
            if not word.text.startswith(("-", "+")):
                return  # a script file
            if word.text.startswith("-") and not word.text.startswith("--") and "c" in word.text:
                if at + 1 < len(words):
                    self.shell(launch, words[at + 1].text, words[at + 2 :])
                return
        for document in launch.documents:
            self.shell(launch, document.content.text)

    def _container(self, launch: Launch) -> None:
        texts = [word.text for word in launch.words]
        at = next((at for at, text in enumerate(texts[:8]) if text in ("run", "create", "exec")), 0)
        container = docker_run(launch.words[at + 1 :], launch.where) if at else None
        started = container.launch() if container is not None else None
        if started is not None:
            self.take(started)

    def _behind_prompt(self, launch: Launch, name: str) -> Sequence[Argument] | None:
        """Return the ssh command behind other words: a prompt, the columns of `ps`, a wrapper that is not known."""
        if name in _SILENT:
            return None
        words = launch.words
        if _PROMPT.fullmatch(words[0].text):
            return words[1:]
        for at, word in enumerate(words[1:], start=1):
            if program(word.text) not in ("ssh", "autossh", "sshpass"):
                continue
            if _PROMPT.fullmatch(words[at - 1].text):
                return words[at:]
            if name in _OWN_SSH:
                self.say(f"{launch.where}: {name} has an ssh of its own: write the ssh command that it runs")
                return None
            if has_forward(words[at + 1 :]):
                notes = (*launch.notes, "the words before ssh are ignored")
                rest = words[at + 2 :] if words[at + 1].text == "--" else words[at + 1 :]
                self.take(Launch(launch.where, (word, *rest), launch.environment, notes))
                return None
        return None

    # --- ssh ------------------------------------------------------------------------------------------------------

    def _unknown_program(self, launch: Launch, unknown: Unknown) -> None:
        if has_forward(launch.words[1:]):
            self.say(f"{launch.where}: {unknown.reason}")

    def _keep(self, launch: Launch, name: str, password: PasswordSource | None) -> None:
        words: Sequence[Argument] = launch.words[1:]
        notes = list(launch.notes)
        if not words:
            return  # `command -v ssh`
        if name == "autossh":
            words, monitor = autossh_to_ssh(words)
            if monitor not in ("", "0"):
                notes.append(f"-M {monitor}: a monitor port is not needed")
        read = list(needed(words))
        unknown = [word.unknown for word in read if word.unknown is not None]
        unknown += [placeholder(found[0]) for word in read if (found := _PLACEHOLDER.search(word.text))]
        if unknown:
            for one in unknown:
                self.say(f"{launch.where}: {one.reason}")
            return
        known = ((variable, value) for variable, value in launch.environment.items() if value.unknown is None)
        environment = {variable: value.text for variable, value in known if variable != VARIABLE}
        arguments = tuple(word.text for word in words)
        command = FoundCommand(launch.where, arguments, environment, tuple(notes), password)
        is_tunnel = (len(read) == len(words) or has_forward(read)) and not is_control(read)
        (self.found if is_tunnel else self.others).append(command)


def is_program(word: str) -> bool:
    """Return True if a word names a program that this package knows."""
    return program(word) in _KNOWN
