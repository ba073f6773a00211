"""Finds the hosts of an ssh_config that have forwards, and the forwards that no host has."""

from __future__ import annotations

from collections.abc import Iterable

from reconciler.cli.ssh_import.forwards import forwards_of
from reconciler.cli.ssh_import.found import FoundCommand
from reconciler.cli.ssh_import.openssh import SshRefusedError
from reconciler.cli.ssh_import.translate import Translation, Translator


def commands_in_config(translator: Translator) -> tuple[list[FoundCommand], list[str]]:
    """Return `ssh NAME` for each host that the configuration names and gives a forward, and messages of ssh."""
    config = translator.config()
    commands: list[FoundCommand] = []
    lost: dict[str, None] = {}
    for name in dict.fromkeys(config.names):
        try:
            settings = translator.ssh.resolve(("--", name), config)
        except SshRefusedError as error:
            lost[str(error)] = None  # often the same for every host
            continue
        if any(forwards_of(settings)):
            commands.append(FoundCommand(f"Host {name}", ("--", name)))
    return commands, list(lost)


def unused_forwards(translator: Translator, translations: Iterable[Translation]) -> list[str]:
    """Return messages about forwards in the configuration that no translated host has, as under `Host *.example`."""
    used = {forward.label for one in translations for forward in one.forwards}
    messages = []
    config = translator.config()
    for forward in config.forwards:
        hosts = dict.fromkeys(config.names) if "%" in forward.option else ("localhost",)
        labels = [label for host in hosts for label in _labels(translator, forward.option, host)]
        if used.isdisjoint(labels):
            hint = "no host that the file names has it: for another, add `-- ssh HOST`"
            messages.append(f"{forward.where}: {next(iter(labels), forward.keyword)}: {hint}")
    return messages


def _labels(translator: Translator, option: str, host: str) -> list[str]:
    """Return the forward of an option as ssh reads it for a host, in the form of `SshForward.label`."""
    try:
        return [one.label for one in forwards_of(translator.ssh.resolve(("-F", "none", "-o", option, "--", host)))]
    except SshRefusedError:
        return []
