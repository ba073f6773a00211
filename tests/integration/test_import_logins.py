"""`tunnels import` translates the keys, certificates and passwords with which ssh would log in."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import asyncssh
import pytest
import yaml
from click.testing import CliRunner

from reconciler.cli.import_ import command
from reconciler.cli.ssh_import.found import FoundCommand, PasswordSource
from reconciler.cli.ssh_import.openssh import Fields, openssh
from reconciler.cli.ssh_import.translate import Translation, Translator
from support.keys import Keys

LINE = "ssh -N -L 8080:web:80"


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Set a home directory without keys, and no agent."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return tmp_path


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A socket where an agent would listen."""
    path = tmp_path / "agent"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        monkeypatch.setenv("SSH_AUTH_SOCK", str(path))
        yield


def target(line: str) -> tuple[Fields, str]:
    """Import one command. Returns its target and the messages."""
    ran = CliRunner().invoke(command, ["--ssh-config", "/dev/null", "--", line])
    assert ran.stdout, ran.stderr
    (found,) = yaml.safe_load(ran.stdout)["targets"].values()
    return found, ran.stderr


@pytest.mark.usefixtures("agent")
def test_an_agent_is_used_beside_a_key_as_in_ssh(keys: Keys) -> None:
    key = keys.make()
    found, _ = target(f"{LINE} -i {key.private} a.example")
    assert (found["privateKey"], found["agent"]) == (str(key.private), True)
    found, _ = target(f"{LINE} -i {key.private} -o IdentitiesOnly=yes a.example")
    assert "agent" not in found
    found, _ = target(f"{LINE} -i {key.private} -o IdentityAgent=none a.example")
    assert "agent" not in found
    found, _ = target(f"{LINE} -i {key.private} -o 'IdentityAgent=$OTHER' a.example")
    assert found["agent"] == "${OTHER}"


@pytest.mark.usefixtures("agent")
def test_an_encrypted_key_is_left_to_the_agent(keys: Keys) -> None:
    key = keys.make(passphrase="secret")
    found, said = target(f"{LINE} -i {key.private} a.example")
    assert "privateKey" not in found
    assert found["agent"] is True
    assert "is encrypted and is left out" in said
    found, _ = target(f"{LINE} -i {key.private} -o IdentitiesOnly=yes a.example")
    assert found["privateKey"] == str(key.public)


def test_an_encrypted_key_without_an_agent_needs_its_passphrase(keys: Keys) -> None:
    key = keys.make(passphrase="secret")
    found, said = target(f"{LINE} -i {key.private} a.example")
    assert found["privateKey"] == str(key.private)
    assert "is encrypted: add `passphrase: {file: ...}`" in said


def test_a_missing_key_is_left_out_if_another_is_there(keys: Keys, tmp_path: Path) -> None:
    key = keys.make()
    found, said = target(f"{LINE} -i {tmp_path}/missing -i {key.private} a.example")
    assert found["privateKey"] == str(key.private)
    assert "missing does not exist here and is left out" in said
    assert target(f"{LINE} -i {tmp_path}/missing a.example")[0]["privateKey"] == f"{tmp_path}/missing"


def test_only_default_keys_that_ssh_could_use_are_named(home: Path) -> None:
    keys = Keys(home / ".ssh")
    keys.make("id_ed25519")
    keys.make("id_rsa", passphrase="secret")
    assert target(f"{LINE} a.example")[0]["privateKey"] == "~/.ssh/id_ed25519"


def test_a_certificate_alone_goes_with_its_default_key(home: Path) -> None:
    keys = Keys(home / ".ssh")
    keys.write("id_ecdsa", asyncssh.generate_private_key("ecdsa-sha2-nistp256"))
    key, authority = keys.make("id_ed25519"), keys.make("authority")
    signed = keys.certify(key, authority).rename(home / "signed")
    found, said = target(f"{LINE} -o CertificateFile={signed} a.example")
    assert found["certificate"] == str(signed)
    assert found["privateKey"] == ["~/.ssh/id_ed25519", "~/.ssh/id_ecdsa"], "it is taken for that of the first key"
    assert said == ""


def test_a_certificate_of_no_key_is_reported(keys: Keys) -> None:
    key, other, authority = keys.make("a"), keys.make("b"), keys.make("c")
    signed = keys.certify(other, authority)
    found, said = target(f"{LINE} -i {key.private} -o CertificateFile={signed} a.example")
    assert "certificate" not in found
    assert f"{signed}: no private key is here for this certificate" in said


def test_a_certificate_beside_its_key_is_named_as_in_ssh(keys: Keys) -> None:
    key, authority = keys.make("a"), keys.make("c")
    signed = keys.certify(key, authority)
    assert target(f"{LINE} -i {key.private} a.example")[0]["certificate"] == str(signed)


# --- passwords --------------------------------------------------------------------------------------------------


def translated(tmp_path: Path, *arguments: str, password: PasswordSource | None = None) -> Translation:
    directory = tmp_path / "copies"
    directory.mkdir()
    found = FoundCommand("line 1", ("-N", "-L", "8080:web:80", *arguments, "a.example"), password=password)
    return Translator(openssh(), directory, ("/dev/null",), os.environ).translate(found)


@pytest.mark.parametrize("kind", ["env", "file"])
def test_a_password_is_named_by_its_source(tmp_path: Path, kind: str) -> None:
    source = PasswordSource("env", "SSHPASS") if kind == "env" else PasswordSource("file", "/run/password")
    made = translated(tmp_path, password=source)
    assert made.fields["password"] == {source.kind: source.name}
    assert made.messages.lost == []


def test_a_password_in_the_text_is_left_out_and_said(tmp_path: Path) -> None:
    made = translated(tmp_path, password=PasswordSource("literal"))
    assert "password" not in made.fields
    assert "the password is in the text" in made.messages.lost[0]


def test_no_password_is_used_where_the_configuration_forbids_it(tmp_path: Path) -> None:
    forbidden = "-oPreferredAuthentications=publickey"
    assert "password" not in translated(tmp_path, forbidden, password=PasswordSource("env", "SSHPASS")).fields
