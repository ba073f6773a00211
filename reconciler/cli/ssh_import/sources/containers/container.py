"""Containers: what a container starts, from its image, its command and its environment."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from reconciler.cli.ssh_import.sources.containers.autossh_image import from_environment, is_autossh_image
from reconciler.cli.ssh_import.sources.programs.wrappers import option_at
from reconciler.cli.ssh_import.sources.values import Argument, Launch, Unknown

_BOOLEAN = frozenset(
    {"detach", "interactive", "tty", "rm", "init", "privileged", "read-only", "publish-all", "no-healthcheck"}
    | {
        "oom-kill-disable",
        "sig-proxy",
        "disable-content-trust",
        "quiet",
        "use-api-socket",
        "replace",
        "T",
        "service-ports",
    }
    | {"no-deps", "build", "remove-orphans", "use-aliases", "quiet-pull"}
)
_VALUES = "aceuvwplhm"  # letters of `docker run` with a value
_PLAIN_VARIABLE = re.compile(r"\$([A-Za-z_][A-Za-z0-9_]*)")


@dataclass(frozen=True, slots=True)
class Container:
    """A container. `mounts` has the path on the host by the path in the container."""

    where: str
    image: str
    entrypoint: Sequence[Argument] | None
    command: Sequence[Argument]
    environment: Mapping[str, Argument] = field(default_factory=dict)
    mounts: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def launch(self) -> Launch | None:
        """Return the program that the container starts, None if only the image defines it."""
        words = [*(self.entrypoint or ()), *self.command]
        if not words:
            if not is_autossh_image(self.image, self.environment):
                return None
            return from_environment(self.where, self.environment, self.mounts, self.notes)
        notes = self.notes
        if words[0].text.startswith("-") and not self.entrypoint:
            name = PurePosixPath(self.image).name.partition(":")[0]
            if "ssh" not in name:
                return None
            program = "autossh" if "autossh" in name else "ssh"
            words.insert(0, Argument(program))
            notes = (*notes, f"the image {name} is taken to run {program}")
        return Launch(self.where, tuple(words), self.environment, (*notes, *_path_notes(self.mounts)))


def exec_form(words: Sequence[str]) -> list[Argument]:
    """Return the words of a list, in which no shell replaces variables."""
    made = []
    for word in words:
        found = _PLAIN_VARIABLE.match(word)
        reason = f"`{found[0]}` is not replaced without a shell: write its value in its place" if found else ""
        made.append(Argument(word, Unknown(reason, found[1]) if found else None))
    return made


def mount(text: str) -> dict[str, str]:
    """Parse `-v SOURCE:TARGET[:OPTIONS]`."""
    parts = text.split(":")
    return {parts[1]: parts[0]} if len(parts) > 1 and parts[1].startswith("/") else {}


def _mounted(text: str) -> dict[str, str]:
    """Parse `--mount type=bind,source=SOURCE,target=TARGET`."""
    fields = dict(part.partition("=")[::2] for part in text.split(","))
    source = fields.get("source", fields.get("src", ""))
    target = fields.get("target", fields.get("dst", fields.get("destination", "")))
    return {target: source} if target else {}


def _path_notes(mounts: Mapping[str, str]) -> tuple[str, ...]:
    shown = [f"{target} is {source} outside the container" for target, source in mounts.items() if source[:1] in "/.~"]
    return tuple(shown)


def port_note(ports: str) -> str:
    """Return a note about ports that a container publishes: `8080:80`."""
    shown = ports if len(ports) < 200 and ports.replace(":", "").replace(".", "").isalnum() else "ports"
    return f"the container publishes {shown}: without it the tunnel listens on this machine itself"


def _option(words: Sequence[Argument], at: int) -> tuple[str, str, int]:
    """Return the name and value of an option of `docker run`, and the position behind it."""
    text = words[at].text
    if not text.startswith("--"):
        name, value, at = option_at(_VALUES, frozenset(), words, at)
        return name[1:], value, at
    name, equals, value = text[2:].partition("=")
    if equals or name in _BOOLEAN or at + 1 >= len(words):
        return name, value, at + 1
    return name, words[at + 1].text, at + 2


def docker_run(words: Sequence[Argument], where: str) -> Container | None:
    """Parse what follows `docker run`, `docker create`, or `docker compose run`."""
    environment: dict[str, Argument] = {}
    mounts: dict[str, str] = {}
    entrypoint: list[Argument] | None = None
    notes: tuple[str, ...] = ()
    at = 0
    while at < len(words) and words[at].text.startswith("-") and len(words[at].text) > 1:
        start = at
        name, value, at = _option(words, at)
        unknown = next((word.unknown for word in words[start:at] if word.unknown), None)
        match name:
            case "e" | "env":
                variable, equals, content = value.partition("=")
                if equals:
                    environment[variable] = Argument(content, unknown)
            case "v" | "volume":
                mounts |= mount(value)
            case "mount":
                mounts |= _mounted(value)
            case "p" | "publish":
                notes = (*notes, port_note(value))
            case "entrypoint":
                entrypoint = [Argument(value, unknown)] if value else None
            case _:
                pass
    if at >= len(words):
        return None
    return Container(where, words[at].text, entrypoint, words[at + 1 :], environment, mounts, notes)
