"""`tunnels init`: the first file is valid on every machine, and no file is overwritten."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from reconciler.cli.main import main
from support.keys import Keys


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home directory that is also the working directory, without an agent."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return tmp_path


def ran(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def with_key(home: Path) -> None:
    (home / ".ssh").mkdir(mode=0o700)
    Keys(home).make("id_ed25519").private.rename(home / ".ssh/id_ed25519")


def test_the_first_file_passes_check_without_a_warning(home: Path) -> None:
    with_key(home)
    written = ran("init")
    assert written.exit_code == 0
    assert "tunnels check --connect tunnels.yaml" in written.output
    assert "privateKey: ~/.ssh/id_ed25519" in (home / "tunnels.yaml").read_text()
    assert ran("check", "--strict", "tunnels.yaml").exit_code == 0


@pytest.mark.usefixtures("home")
def test_the_first_file_passes_check_on_a_machine_without_keys() -> None:
    assert ran("init").exit_code == 0
    checked = ran("check", "tunnels.yaml")
    assert checked.exit_code == 0
    assert "id_ed25519" in checked.output, "the missing key is a warning"


def test_the_first_file_uses_an_agent_if_there_is_one(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSH_AUTH_SOCK", str(home / "agent"))
    assert ran("init", "one.yaml").exit_code == 0
    assert "agent: true #" in (home / "one.yaml").read_text()
    assert ran("check", "one.yaml").exit_code == 0


def test_each_field_in_a_comment_is_valid(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_key(home)
    monkeypatch.setenv("KEY_PASSPHRASE", "none")
    assert ran("init").exit_code == 0
    file = home / "tunnels.yaml"
    text = re.sub(r"^( +)# (?=\w+: |- \{)", r"\1", file.read_text(), flags=re.MULTILINE)
    assert text.count("# ") < file.read_text().count("# ") - 6
    file.write_text(text)
    checked = ran("check", "tunnels.yaml")
    assert checked.exit_code == 0, checked.output


def test_an_existing_file_is_left_alone(home: Path) -> None:
    file = home / "tunnels.yaml"
    file.write_text("mine")
    (home / "link.yaml").symlink_to("nowhere")
    for name in ("tunnels.yaml", "link.yaml", "."):
        refused = ran("init", name)
        assert refused.exit_code == 1
        assert "exists and is left alone: name another file" in refused.output
    assert file.read_text() == "mine"
    assert not (home / "nowhere").exists()


@pytest.mark.usefixtures("home")
def test_a_file_that_cannot_be_written_is_an_error() -> None:
    refused = ran("init", "none/tunnels.yaml")
    assert refused.exit_code == 1
    assert "cannot write none/tunnels.yaml: no such file or directory" in refused.output


def test_a_dash_prints_the_file(home: Path) -> None:
    printed = ran("init", "-")
    assert printed.output.startswith("# SSH tunnels")
    assert list(home.iterdir()) == []
