"""Every fenced block of the pages is of a known class and is checked as that class.

`tunnels check` reads the tunnels files, and the fragments of them in a file around them. The options of every
`tunnels` command exist. `test_pages.py` runs the commands of the pages that are written for it.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from documentation.blocks import Block, pages
from documentation.kinds import BLOCKS, NOT_RUN_BLOCKS, OWN_TESTS, Json, Kind, fields, kind_of
from reconciler.cli.main import COMMANDS, main

IDS = [str(block) for block in BLOCKS]


@pytest.mark.parametrize("block", BLOCKS, ids=IDS)
def test_a_block_has_a_known_class(block: Block) -> None:
    assert kind_of(block) is not None, f"{block}: language {block.language!r}: see Kind"


def test_blocks_of_every_class_are_counted(record_property: Any) -> None:
    counted = Counter(kind_of(block) for block in BLOCKS)
    for kind, number in counted.items():
        record_property(kind.name if kind else "none", number)
    assert counted[Kind.TUNNELS] > 10
    assert counted[Kind.COMMANDS] > 50


def test_a_block_that_is_not_run_has_its_reason() -> None:
    marked = {block.page for block in BLOCKS if "not-run" in block.options}
    assert marked <= NOT_RUN_BLOCKS.keys()
    known = {"exit", "stays", "log", "eventually", "step", "not-run"}
    ours = [block for block in BLOCKS if block.page not in OWN_TESTS]
    assert [str(block) for block in ours if not block.options.keys() <= known] == []


# --- YAML -------------------------------------------------------------------------------------------------------------


def as_file(block: Block) -> str:
    """Return the tunnels file of a block; a fragment gets the file around it that it belongs to."""
    if kind_of(block) is Kind.TUNNELS:
        return block.text
    content = yaml.safe_load(block.text)
    target: Json = {"host": "bastion.example.com", "user": "deploy", "privateKey": "~/.ssh/id_ed25519"}
    if isinstance(content, list):
        target["tunnels"] = content
    elif content.keys() <= fields("target"):
        if "hosts" in content:
            del target["host"]
        target |= content
    else:
        kinds = {"type", "local", "remote", "socks"}
        base: Json = {} if content.keys() & kinds else {"local": "5432:db.internal:5432"}
        target["tunnels"] = [base | content]
    return yaml.safe_dump({"targets": {"prod": target}})


def tunnels_blocks() -> Iterator[tuple[Block, str]]:
    for block in BLOCKS:
        if block.page in OWN_TESTS:
            continue
        if kind_of(block) in (Kind.TUNNELS, Kind.FRAGMENT):
            yield block, as_file(block)
        elif kind_of(block) is Kind.KUBERNETES:
            for one in yaml.safe_load_all(block.text):
                for text in one.get("data", {}).values() if one["kind"] == "ConfigMap" else ():
                    yield block, text


# Machines with the documentation but without its keys, variables and files.
ABSENT = {"secret-unreadable", "unset-variable", "unusable-login"}


def test_tunnels_files_and_fragments_are_valid(tmp_path: Path) -> None:
    named = {f"{number:03}.yaml": found for number, found in enumerate(tunnels_blocks())}
    for name, (_, text) in named.items():
        (tmp_path / name).write_text(text)
    command = [sys.executable, "-m", "reconciler", "check", "--each", "--allow-commands", *named]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd=tmp_path)
    problems = [
        f"{named[line['file']][0]}: {line['said']}"
        for line in re.finditer(
            r"^\w+: (?P<file>\d+\.yaml)\S* (?P<said>.*?)(?: \[(?P<code>[a-z-]+)\])?$", done.stderr, re.MULTILINE
        )
        if line["code"] not in ABSENT
    ]
    assert problems == []
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r": valid, ", done.stdout)) == len(named) > 30


_VERSIONS = {
    "ConfigMap": "v1",
    "Secret": "v1",
    "Service": "v1",
    "Pod": "v1",
    "Deployment": "apps/v1",
    "Job": "batch/v1",
    "Application": "argoproj.io/v1alpha1",
    "GitRepository": "source.toolkit.fluxcd.io/v1",
    "Kustomization": ("kustomize.toolkit.fluxcd.io/v1", "kustomize.config.k8s.io/v1beta1"),
}


@pytest.mark.parametrize("block", [block for block in BLOCKS if kind_of(block) is Kind.KUBERNETES], ids=str)
def test_kubernetes_resources_have_their_kind_and_name(block: Block) -> None:
    for one in yaml.safe_load_all(block.text):
        assert one["apiVersion"] in _VERSIONS[one["kind"]], f"{block}: {one['kind']}"
        if one["apiVersion"] != "kustomize.config.k8s.io/v1beta1":
            assert re.fullmatch(r"[a-z0-9-]+", one["metadata"]["name"]), str(block)
        for container in _containers(one):
            assert container["name"]
            assert container["image"]


def _containers(resource: Json) -> list[Json]:
    spec = resource.get("spec", {})
    pod = spec.get("template", {}).get("spec", {}) if resource["kind"] != "Pod" else spec
    return [*pod.get("initContainers", []), *pod.get("containers", [])]


# --- commands ---------------------------------------------------------------------------------------------------------


def shell_texts() -> list[tuple[Block, str]]:
    """Return every text for a shell: commands, scripts, and the scripts of pipelines."""
    found = [(block, step.command) for block in BLOCKS if kind_of(block) is Kind.COMMANDS for step in block.steps]
    found += [(block, block.text) for block in BLOCKS if kind_of(block) is Kind.SCRIPT]
    for block in BLOCKS:
        if kind_of(block) in (Kind.OTHER_YAML, Kind.KUBERNETES):
            found += [(block, text) for one in yaml.safe_load_all(block.text) for text in _scripts(one)]
    return found


def _scripts(node: object) -> Iterator[str]:
    """Find `run: …` and `script: […]` of pipelines, and the arguments of containers of this program."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key in ("run", "script") and isinstance(value, str):
                yield value
            elif key == "script" and isinstance(value, list):
                yield "\n".join(value)
            elif key in ("args", "command", "test") and isinstance(value, list) and value[:1] not in (["sh"], ["CMD"]):
                if value and value[0] in COMMANDS:
                    yield " ".join(["tunnels", *map(str, value)])
            else:
                yield from _scripts(value)
    elif isinstance(node, list):
        for value in node:
            yield from _scripts(value)


def test_commands_are_shell() -> None:
    for block, text in shell_texts():
        done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{block}: {done.stderr}"


_CALL = re.compile(
    r"(?:^|[|;&(]|\bdo|\bthen|--|\bsudo|[\w/.-]+/bin/)\s*\btunnels +(?P<words>[a-z]+\b(?:(?!\$\()[^|;&)\n#>])*)",
    re.MULTILINE,
)


def test_tunnels_commands_have_options_that_exist() -> None:
    checked = 0
    for block, text in shell_texts():
        for call in _CALL.finditer(text.replace("\\\n", " ")):
            words = [word.strip("'\"") for word in call["words"].split()]
            assert words[0] in COMMANDS, f"{block}: {call[0]}"
            try:
                _command(words[0]).make_context(words[0], words[1:])
            except click.UsageError as error:
                if "does not exist" not in error.format_message():  # a file of the reader
                    pytest.fail(f"{block}: {call[0]}: {error.format_message()}")
            checked += 1
    assert checked > 100


def test_commands_in_sentences_have_options_that_exist() -> None:
    checked = 0
    for page in pages():
        for name, words in re.findall(r"`tunnels ([a-z]+)\b([^`]*)`", page.read_text()):
            assert name in COMMANDS, f"{page.name}: tunnels {name}"
            known = {option for parameter in _command(name).params for option in parameter.opts}
            own = words.partition(" -- ")[0]
            assert set(re.findall(r"(?<!\S)--[a-z][a-z-]*", own)) <= known, f"{page.name}: tunnels {name}{words}"
            checked += 1
    assert checked > 100


def _command(name: str) -> click.Command:
    command = main.get_command(click.Context(main), name)
    assert command is not None
    return command
