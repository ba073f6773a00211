"""`tunnels import` with the inputs in tests/configs/import: as expected, and as `ssh -G` understands them."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from reconciler.cli.import_ import command
from reconciler.cli.ssh_import.openssh import openssh
from reconciler.cli.ssh_import.sources.find import find_commands
from reconciler.cli.ssh_import.translate import Translator
from reconciler.cli.ssh_import.tunnels_file import TunnelsFile
from reconciler.config.effective_json import to_json
from reconciler.config.load import load_text
from reconciler.config.options import Options, process_user
from reconciler.ssh.internals.keys.algorithm_names import supported
from support.ssh_g import Printed, assert_agrees, printed_by_ssh

INPUTS = Path(__file__).parents[1] / "configs/import"
OPTIONS = sorted(path.stem for path in (INPUTS / "options").glob("*.sh"))
SOURCES = sorted(path.name for path in (INPUTS / "sources").iterdir() if not path.name.endswith(".found.yaml"))
CONFIGS = sorted(path.name for path in (INPUTS / "ssh_config").iterdir() if not path.suffix)
KINDS = {"cipher": "ciphers", "kex": "kexalgorithms", "mac": "macs", "hostKey": "hostkeyalgorithms"}


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)


def outcome(*arguments: str) -> dict[str, Any]:
    """Run `import`. Returns its targets and its messages."""
    ran = CliRunner().invoke(command, list(arguments))
    assert ran.exception is None or isinstance(ran.exception, SystemExit), ran.exception
    targets = yaml.safe_load(ran.stdout)["targets"] if ran.stdout else {}
    assert ran.exit_code == (1 if "not translated: " in ran.stderr else 0)
    return {"targets": targets, "messages": ran.stderr.splitlines()}


def expected(path: Path) -> dict[str, Any]:
    return {"targets": {}, "messages": []} | (yaml.safe_load(path.read_text()) or {})


def without_lists_of_algorithms(targets: Mapping[str, Any], ssh: Printed) -> None:
    """Replace algorithms by the kinds that are given. The names depend on the version of ssh."""
    for target in targets.values():
        for kind, names in target.get("algorithms", {}).items():
            assert names == [name for name in ssh[KINDS[kind]][0].split(",") if name in supported(kind)]
        if "algorithms" in target:
            target["algorithms"] = list(target["algorithms"])


def effective(targets: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the targets as `check --output json` prints them."""
    options = Options(user=process_user(), allow_commands=True)
    loaded = load_text(yaml.safe_dump({"targets": targets}), environ=os.environ, options=options)
    assert loaded.errors == ()
    found: Mapping[str, Any] = json.loads(json.dumps(to_json(loaded.desired)))["targets"]
    return found


@pytest.mark.parametrize("name", OPTIONS)
def test_a_command_line_is_imported_as_ssh_reads_it(name: str) -> None:
    text = (INPUTS / "options" / f"{name}.sh").read_text()
    found = outcome("--ssh-config", "/dev/null", "--", text)
    if found["targets"]:
        ssh = printed_by_ssh("-F", "/dev/null", *shlex.split(text)[1:])
        for target in effective(found["targets"]).values():
            assert_agrees(target, ssh)
        without_lists_of_algorithms(found["targets"], ssh)
    assert found == expected(INPUTS / "options" / f"{name}.yaml")


@pytest.mark.parametrize("name", CONFIGS)
def test_an_ssh_config_is_imported_as_ssh_reads_it(name: str, tmp_path: Path) -> None:
    here = tmp_path / "config"
    here.mkdir()
    for part in (INPUTS / "ssh_config").iterdir():
        (here / part.name.removesuffix(".part")).write_text(part.read_text().replace("@HERE@", str(here)))
    found = outcome("--ssh-config", str(here / name), "--allow-commands")
    for host, target in effective(found["targets"]).items():
        if target["tunnels"]:
            assert_agrees(target, printed_by_ssh("-F", str(here / name), host))
    found["messages"] = [message.replace(f"{here}/", "") for message in found["messages"]]
    assert found == expected(INPUTS / "ssh_config" / f"{name}.yaml")


@pytest.mark.parametrize("name", SOURCES)
def test_the_commands_of_a_text_are_imported_as_ssh_reads_them(name: str, tmp_path: Path) -> None:
    found, _ = find_commands((INPUTS / "sources" / name).read_text(), name)
    translator = Translator(openssh(), tmp_path, ("/dev/null",), os.environ, commands=True)
    for one in found:
        made = translator.translate(one)
        file = TunnelsFile(os.environ, commands=True)
        assert file.add(made) == []
        if not made.fields:
            assert any("nothing to forward" in message for message in made.messages.lost), made.messages.lost
            continue
        targets = effective(yaml.safe_load(file.text())["targets"])
        assert_agrees(targets[list(targets)[-1]], printed_by_ssh("-F", "/dev/null", *one.arguments))
