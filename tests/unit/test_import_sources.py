"""`tunnels import` finds the ssh commands of each kind of text in tests/configs/import/sources.

Beside each input stands `INPUT.found.yaml` with the arguments, variables, notes and messages that are expected.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from reconciler.cli.ssh_import.found import FoundCommand
from reconciler.cli.ssh_import.sources.find import find_commands

_DIRECTORY = Path(__file__).parents[1] / "configs" / "import" / "sources"
_INPUTS = sorted(path for path in _DIRECTORY.iterdir() if not path.name.endswith(".found.yaml"))


def _shown(command: FoundCommand) -> dict[str, object]:
    password = command.password
    return {
        "where": command.where,
        "arguments": list(command.arguments),
        **({"environment": dict(command.environment)} if command.environment else {}),
        **({"notes": list(command.notes)} if command.notes else {}),
        **({"password": f"{password.kind} {password.name}".strip()} if password else {}),
    }


@pytest.mark.parametrize("path", _INPUTS, ids=lambda path: path.name)
def test_the_commands_of_a_file_are_found(path: Path) -> None:
    found, messages = find_commands(path.read_text(), path.name)
    expected = yaml.safe_load((_DIRECTORY / f"{path.name}.found.yaml").read_text())
    assert [_shown(command) for command in found] == expected["commands"]
    assert messages == expected.get("messages", [])


def test_every_result_has_its_input() -> None:
    results = {path.name.removesuffix(".found.yaml") for path in _DIRECTORY.glob("*.found.yaml")}
    assert results == {path.name for path in _INPUTS}


def _arguments(text: str, name: str = "", environ: dict[str, str] | None = None) -> list[list[str]]:
    found, messages = find_commands(text, name, environ)
    assert messages == []
    return [list(command.arguments) for command in found]


def test_the_line_endings_of_windows_are_accepted() -> None:
    assert _arguments("\ufeffssh -N \\\r\n  -D 1080 h\r\n") == [["-N", "-D", "1080", "h"]]


def test_a_plain_command_keeps_its_words() -> None:
    (words,) = _arguments("ssh -N -L '*:1:h:2' -o 'ProxyCommand=nc -x \"p\" %h %p' -J \"a,b\" u@h", "command")
    assert words == ["-N", "-L", "*:1:h:2", "-o", 'ProxyCommand=nc -x "p" %h %p', "-J", "a,b", "u@h"]


def test_variables_of_the_caller_are_used() -> None:
    assert _arguments('ssh -N -D 1 -i "$HOME/k" $WHO@h', environ={"HOME": "/home/me", "WHO": "me"}) == [
        ["-N", "-D", "1", "-i", "/home/me/k", "me@h"]
    ]


def test_without_variables_of_the_caller_home_is_a_tilde() -> None:
    assert _arguments("ssh -N -D 1 -i ${HOME}/k h") == [["-N", "-D", "1", "-i", "~/k", "h"]]


@pytest.mark.parametrize(
    ("text", "name", "missing"),
    [
        ("ssh $SSH_OPTIONS -N -D 1 h", "", "$SSH_OPTIONS"),
        ("$AUTOSSH -M 0 -N -D 1 h", "", "$AUTOSSH"),
        ("[Service]\nExecStart=/usr/bin/ssh -N -D 1 $HOST", "a.service", "$HOST"),
        ("[Service]\nExecStart=/usr/bin/ssh -N -D 1 u@$HOST", "a.service", "${HOST}"),
        ("[Service]\nExecStart=/usr/bin/ssh -N -D 1 %i", "a@.service", "%i"),
        ("[Service]\nExecStart=/usr/bin/ssh -N -D 1 %H", "a.service", "%H"),
        ("FROM a\nCMD ssh -N -D 1 $HOST", "Dockerfile", "$HOST"),
        ('FROM a\nENV HOST=h\nCMD ["ssh", "-N", "-D", "1", "$HOST"]', "Dockerfile", "$HOST"),
        ("services: {a: {image: a, command: ssh -N -D 1 $HOST}}", "", "$HOST"),
        ("services: {a: {image: a, command: [ssh, -N, -D, '1', '${HOST?}']}}", "", "$HOST"),
        ("apiVersion: v1\ncontainers: [{command: [ssh, -N, -D, '1', $(HOST)]}]", "", "$(HOST)"),
        ("[program:a]\ncommand=ssh -N -D 1 %(ENV_HOST)s", "", "$HOST"),
        ("* * * * * ssh -N -D 1 $HOST", "", "$HOST"),
        ("f() { ssh -N -D 1 $1; }", "", "$1"),
        ("read -r HOST; ssh -N -D 1 $HOST", "", "$HOST"),
        ("ssh -N -D 1 $(terraform output host)", "", "$(terraform)"),
        ("ssh -N -D 1 ${HOST^}", "", "${HOST...}"),
        ("case $1 in a) H=a;; b) H=b;; esac\nssh -N -D 1 $H", "", "$H"),
        ("f() { [ -f x ] && shift; ssh -N -D 1 $1; }; f a b", "", "$1"),
        ("[ -f x ] && set -- a; ssh -N -D 1 $1", "", "$1"),
    ],
)
def test_a_variable_without_a_value_is_named(text: str, name: str, missing: str) -> None:
    found, messages = find_commands(text, name)
    assert found == []
    assert len(messages) == 1
    assert f"`{missing}`" in messages[0]


def test_a_file_that_may_set_a_variable_is_named() -> None:
    _, messages = find_commands(". /etc/default/tunnel\nssh -N -D 1 $HOST", "")
    assert messages == [
        "line 2: `$HOST` has no value here, it may be set in /etc/default/tunnel: write its value in its place"
    ]


def test_variables_of_the_command_on_the_server_do_not_matter() -> None:
    assert _arguments('ssh -L 1:h:2 u@h "echo $NOBODY"') == [["-L", "1:h:2", "u@h", "echo ${NOBODY}"]]


@pytest.mark.parametrize(
    "text",
    [
        "sshpass -p{} ssh -N -L 1:h:2 $NOBODY",
        "sshpass -p {} ssh -N -D 1 h",
        "SSHPASS={} sshpass -e ssh -N -D 1 h",
        "export PW={}; sshpass -p $PW ssh -N -D 1 h",
        "env SSHPASS={} sshpass -e ssh -N -D 1 h",
        "docker run -e SSHPASS={} --entrypoint sshpass a -e ssh -N -D 1 h",
        "[Service]\nEnvironment=SSHPASS={}\nExecStart=/usr/bin/sshpass -e ssh -N -D 1 h",
        '[program:a]\nenvironment=SSHPASS="{}"\ncommand=sshpass -e ssh -N -D 1 $NOBODY',
        "services: {{a: {{image: a, environment: {{SSHPASS: {}}}, command: sshpass -e ssh -N -D 1 h}}}}",
        "* * * * * sshpass -p '{}' ssh -N -D 1 h 'unclosed",
        "bash -c 'sshpass -p {} ssh -N -D 1 h",
        "sshpass -p {0} ssh -L 1:h:2 h 'echo {0} | sudo -S reboot'",
        "export PW={}; sshpass -p $PW ssh -L 1:h:2 h echo $PW",
        "sshpass -p {} ssh -N -D 1 `hostname`",
    ],
)
def test_a_password_is_never_passed_on(text: str) -> None:
    found, messages = find_commands(text.format("correct-horse"), "")
    assert found or messages
    assert "correct-horse" not in repr((found, messages))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", None),
        ("hello", "input: no ssh or autossh command found: expected one, or a file that starts one"),
        ("ssh -N -L '1:h:2 u@h", "line 1: cannot be parsed, no closing ': correct the line"),
        ("services: {a: [}", "line 1: not valid YAML: correct it, or give only the command"),
        ("<plist>", "ProgramArguments: the property list is not valid: check it with `plutil -lint`"),
        ("gcloud compute ssh vm -- -N -L 1:h:2", "line 1: gcloud has an ssh of its own"),
        ("gcloud compute ssh vm -N -D 1", "line 1: gcloud has an ssh of its own: write the ssh command that it runs"),
        ("for a in {1..99}; do for b in {1..99}; do for c in {1..99}; do ssh h; done; done; done", "input: too many"),
        ("f() { f; f; f; }; f", "input: too many commands"),
    ],
)
def test_a_text_without_a_command_gives_one_message(text: str, message: str | None) -> None:
    found, messages = find_commands(text, "")
    assert [one for one in found if "-N" in one.arguments] == []
    assert len(messages) == (message is not None)
    assert message is None or messages[0].startswith(message)


def test_a_command_on_the_server_is_no_tunnel_beside_one() -> None:
    assert _arguments("ssh h uptime\nssh -N -D 1 h\nssh -O check h\nssh -V") == [["-N", "-D", "1", "h"]]


@pytest.mark.parametrize(
    "text",
    [
        "(crontab -l; echo '@reboot ssh -N -D 1 h') | crontab -",
        "tmux new-session -d -s t \\; send-keys 'ssh -N -D 1 h' C-m",
        "pm2 start ssh -- -N -D 1 h",
        "tunnel: ssh -N -D 1 h",
        "$SUDO ssh -N -D 1 h",
        "ssh -N \\ \n -D 1 h",
        "ssh -N -D 1 h \\",
        "root 12 0.0 ? Ss 10:00 /usr/bin/ssh -N -D 1 h",
        "flock -n /run/lock -c 'ssh -N -D 1 h'",
        "flock -n /run/lock ssh -N -D 1 h",
        "env -S 'ssh -N' -D 1 h",
        "kubectl exec -it pod -- ssh -N -D 1 h",
        "watch -n 5 ssh -N -D 1 h",
        "screen -S x -X stuff 'ssh -N -D 1 h\n'",
    ],
)
def test_a_command_behind_other_words_is_found(text: str) -> None:
    assert _arguments(text) == [["-N", "-D", "1", "h"]]


def test_an_ssh_command_that_forwards_nothing_is_returned_alone() -> None:
    assert _arguments("ssh h uptime") == [["h", "uptime"]]
