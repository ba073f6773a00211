"""Shell scripts, and single command lines as they are copied from a terminal."""

from __future__ import annotations

import re
from dataclasses import replace

from reconciler.cli.ssh_import.sources.collector import Collector
from reconciler.cli.ssh_import.sources.containers.autossh_image import VARIABLES, from_environment, is_autossh_image
from reconciler.cli.ssh_import.sources.place import Source
from reconciler.cli.ssh_import.sources.shell.parse import parse
from reconciler.cli.ssh_import.sources.shell.run import Runner
from reconciler.cli.ssh_import.sources.shell.words import ShellSyntaxError
from reconciler.cli.ssh_import.sources.values import Argument

_FENCE = re.compile(r"^[ \t]*```.*$", re.MULTILINE)
_WINDOWS_PROMPT = re.compile(r"^(?:PS [^>\n]*|[A-Z]:\\[^>\n]*)>[ ]?", re.MULTILINE)
_ROOT_PROMPT = re.compile(r"^[ \t]*#[ \t]+(?=(?:sudo |nohup |/\S+/)?(?:ssh|autossh|sshpass)[ \t])", re.MULTILINE)
_TUNNEL = re.compile(r"\bssh[ \t](?:.*[ \t])?-[A-Za-z0-9]*[LRDNW]")
_MORE = re.compile(r"\\\n>[ \t]")  # the prompt of the second line of a command


def read(collector: Collector, source: Source) -> None:
    """Find the commands of shell text. A line `# ssh ...` is a command only if the text has no other one."""
    text = source.text
    if not text.startswith("#!"):
        text = _MORE.sub("\\\\\n", _WINDOWS_PROMPT.sub("", _FENCE.sub("", text)))
    _read(collector, replace(source, text=text))
    if _is_nothing(collector) and re.search(r"^[ \t]*\S*ssh[ \t]", text, re.MULTILINE):
        _read_lines(collector, replace(source, text=text), collector.runner(collector.environ, source.place))
    if _is_nothing(collector) and not text.startswith("#!"):
        prompted, count = _ROOT_PROMPT.subn("", text)
        if count:
            _read(collector, replace(source, text=prompted))


def _read(collector: Collector, source: Source) -> None:
    runner = collector.runner(collector.environ, source.place)
    try:
        runner.run(parse(source.text, collector.budget, source.line))
    except ShellSyntaxError:
        _read_lines(collector, source, runner)
    runner.run_uncalled()
    _variables(collector, source, runner)


def _read_lines(collector: Collector, source: Source, runner: Runner) -> None:
    """Read each line by itself: an apostrophe in a sentence makes only its own line unreadable."""
    for number, line in source.joined("\\\n"):
        try:
            runner.run(parse(line, collector.budget, number))
        except ShellSyntaxError as error:
            if _TUNNEL.search(line):
                collector.say(f"{source.place(number)}: cannot be parsed, {error.reason}: correct the line")


def _is_nothing(collector: Collector) -> bool:
    return not (collector.found or collector.messages or collector.others)


def _variables(collector: Collector, source: Source, runner: Runner) -> None:
    """Find the commands that OpenRC builds from `command`, and the autossh image from SSH_*."""
    program, arguments = runner.scope.get("command"), runner.scope.get("command_args")
    if isinstance(program, Argument) and isinstance(arguments, Argument):
        runner.run(parse("$command $command_args", collector.budget, source.line))
    values = {name: runner.scope.get(name) for name in VARIABLES}
    environment = {name: value for name, value in values.items() if isinstance(value, Argument)}
    is_assigned = re.search(r"^[ \t]*(?:export[ \t]+)?SSH_(?:REMOTE_HOST|HOSTNAME)=", source.text, re.MULTILINE)
    if is_assigned and is_autossh_image("", environment) and not (collector.found or collector.messages):
        collector.take(from_environment(source.place(source.line), environment, {}))
