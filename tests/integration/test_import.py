"""`tunnels import`: the output passes `check`, and parts without a counterpart are reported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from integration.commands import Ran, program, ran
from reconciler.cli.import_ import COMMANDS_MAX
from support.services import EchoServer, exchange
from support.sshd import Sshd
from support.wait import free_port

NO_AGENT = {"SSH_AUTH_SOCK": "/nonexistent/agent"}


async def imported(*arguments: object, stdin: str = "", home: Path) -> tuple[Ran, dict[str, Any]]:
    """Run `import`; return the result and the targets. Any output must pass `check`."""
    env = {"HOME": str(home), **NO_AGENT}
    result = await ran("import", *arguments, stdin=stdin, env=env)
    if not result.out:
        return result, {}
    checked = await ran("check", "-", stdin=result.out, env=env)
    assert checked.code == 0, checked.err
    return result, yaml.safe_load(result.out)["targets"]


async def test_a_command_line_becomes_a_target_with_its_tunnels(tmp_path: Path) -> None:
    command = (
        "ssh -fNT -L 5432:db.internal:5432 -L6379:redis:6379 -R 0.0.0.0:9000:localhost:3000 -D 1080 -C -p 2222 "
        "-i ~/.ssh/deploy -o ServerAliveInterval=30 -o 'ServerAliveCountMax 3' -oStrictHostKeyChecking=accept-new "
        "-J admin@jump.example.com:2200 deploy@bastion.example.com"
    )
    result, targets = await imported("--", *command.replace("'", "").replace("Max 3", "Max=3").split(), home=tmp_path)
    assert result.code == 0
    assert result.err == ""
    assert targets == {
        "bastion.example.com": {
            "host": "bastion.example.com",
            "port": 2222,
            "user": "deploy",
            "privateKey": "~/.ssh/deploy",
            "strictHostKeyChecking": "accept-new",
            "jumpHost": {"host": "jump.example.com", "port": 2200, "user": "admin", "agent": True},
            "compress": True,
            "keepaliveInterval": "30s",
            "keepaliveCountMax": 3,
            "tunnels": [
                {"local": "localhost:5432:db.internal:5432"},
                {"local": "localhost:6379:redis:6379"},
                {"remote": "0.0.0.0:9000:localhost:3000"},
                {"socks": "localhost:1080"},
            ],
        }
    }


async def test_a_script_of_lines_becomes_one_file(tmp_path: Path) -> None:
    script = r"""
# the tunnels of team data
export AUTOSSH_GATETIME=0
AUTOSSH_PORT=0 /usr/bin/autossh -M 20000 -f -N -L 5432:db:5432 u@a.example.com > /dev/null 2>&1 &
@reboot nohup autossh -M 0 -N -L 5433:db:5433 \
    u@a.example.com &
ExecStart=/usr/bin/ssh -NL 7000:x:1 ssh://u@b.example.com:2200
"""
    result, targets = await imported(stdin=script, home=tmp_path)
    assert result.code == 0, result.err
    assert [one["local"] for one in targets["a.example.com"]["tunnels"]] == [
        "localhost:5432:db:5432",
        "localhost:5433:db:5433",
    ]
    assert targets["b.example.com"]["port"] == 2200


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("-B eth1", "BindInterface: no counterpart"),
        ("-R 9100", "a SOCKS server on the remote side"),
        ("-L 1:h:2", "another tunnel already listens on localhost:1"),
        ("-o PermitLocalCommand=yes -o LocalCommand=ls", "LocalCommand: no counterpart"),
    ],
)
async def test_an_option_without_counterpart_is_reported_and_the_rest_translated(
    tmp_path: Path, arguments: str, named: str
) -> None:
    line = f"ssh -N -L 127.0.0.1:1:h:3 {arguments} u@a.example.com"
    result, targets = await imported("--", line, home=tmp_path)
    assert result.code == 1
    assert named in result.err
    assert targets["a.example.com"]["tunnels"] == [{"local": "127.0.0.1:1:h:3"}]


async def test_remote_commands_and_lines_without_forwards_are_reported(tmp_path: Path) -> None:
    result, targets = await imported("--", "ssh", "-L", "1:h:2", "u@a.example.com", "uptime", home=tmp_path)
    assert "uptime: tunnels run no commands" in result.err
    assert targets
    result, targets = await imported("--", "ssh", "a.example.com", home=tmp_path)
    assert (result.code, targets) == (1, {})
    assert "nothing to forward" in result.err
    assert (await imported(home=tmp_path))[0].code == 1


async def test_host_blocks_of_ssh_config_become_targets(tmp_path: Path) -> None:
    keys = tmp_path / ".ssh"
    keys.mkdir()
    (keys / "id_ed25519").touch()
    config = tmp_path / "config"
    config.write_text("""
Host prod
    HostName bastion.example.com
    ProxyJump gate
    LocalForward 5432 db.internal:5432
    LocalForward 127.0.0.1:6379 redis:6379
    DynamicForward 1080
Host gate
    HostName %h.example.com
    Port 2200
    User admin
    IdentityFile ~/.ssh/gate
Host shell
    HostName shell.example.com
Host old
    HostName old.example.com
    ProxyCommand ssh -W %h:%p me@gw.example.com
    RemoteForward 8080 localhost:3000
    HostKeyAlgorithms +ssh-rsa
Host *
    User deploy
    ServerAliveInterval 15
    ForwardAgent no
""")
    result, targets = await imported("--ssh-config", config, home=tmp_path)
    assert (result.code, result.err) == (0, "")
    assert targets["old"]["algorithms"]["hostKey"][-1] == "ssh-rsa"
    assert list(targets) == ["prod", "old"]
    assert targets["prod"]["user"] == "deploy"
    assert targets["prod"]["privateKey"] == "~/.ssh/id_ed25519"
    assert targets["prod"]["jumpHost"] == {
        "host": "gate.example.com",
        "port": 2200,
        "user": "admin",
        "privateKey": "~/.ssh/gate",
    }
    assert targets["old"]["jumpHost"]["host"] == "gw.example.com"
    assert targets["prod"]["tunnels"] == [
        {"local": "localhost:5432:db.internal:5432"},
        {"local": "127.0.0.1:6379:redis:6379"},
        {"socks": "localhost:1080"},
    ]
    _, targets = await imported("--ssh-config", config, "--", "ssh", "-NL", "1:h:2", "shell", home=tmp_path)
    assert targets["shell"]["host"] == "shell.example.com", "an alias is resolved"


async def test_a_certificate_beside_the_key_is_included_as_in_ssh(tmp_path: Path) -> None:
    key = tmp_path / "id"
    key.with_name("id-cert.pub").touch()
    result, targets = await imported("--", "ssh", "-NL", "1:h:2", "-i", key, "u@a.example.com", home=tmp_path)
    assert result.code == 0
    assert targets["a.example.com"]["certificate"] == f"{key}-cert.pub"


async def test_a_target_with_an_invalid_address_or_route_is_left_out(tmp_path: Path) -> None:
    for wrong in ("-J u@[", "-p 99999", "-o HostName=a@b", "-o ProxyCommand=nc"):
        result, targets = await imported("--", f"ssh -NL 1:h:2 {wrong} a.example.com", home=tmp_path)
        assert (result.code, targets) == (1, {}), wrong
        assert "not translated: command: " in result.err


async def test_aliases_in_one_host_block_become_one_target(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text("Host prod production\n  HostName a.example.com\n  User u\n  LocalForward 5432 db:5432\n")
    result, targets = await imported("--ssh-config", config, home=tmp_path)
    assert (result.code, list(targets)) == (0, ["prod"])


async def test_an_imported_file_runs(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    port = free_port()
    command = f"ssh -N -p {sshd.port} -i {sshd.client_key} -o UserKnownHostsFile={sshd.known_hosts}"
    line = f"{command} -L {port}:127.0.0.1:{echo.port} {sshd.user}@{sshd.host}"
    result, _ = await imported("--", line, home=tmp_path)
    assert result.code == 0
    async with program(tmp_path, result.out) as run:
        assert (await run.ran("wait")).code == 0
        assert await exchange("127.0.0.1", port) == b"ping"


# --- what ssh is asked ------------------------------------------------------------------------------------------


async def test_a_program_of_match_exec_runs_only_if_permitted(tmp_path: Path) -> None:
    ran_by_ssh, config, part = tmp_path / "was-run", tmp_path / "config", tmp_path / "part"
    config.write_text(
        f'Include {part}\nHost prod\n  LocalForward 5432 db:5432\nMat"ch" e"xec" "touch {ran_by_ssh}"\n  Port 2222\n'
    )
    part.write_text(f'Match !host other EXEC="touch {ran_by_ssh}"\n  User part\n')
    for arguments in ([], ["--", "ssh", "prod"]):
        result, targets = await imported("--ssh-config", config, *arguments, home=tmp_path)
        assert result.code == 1
        assert targets["prod"].get("port") is None
        assert result.err.count("`Match exec` runs a program: allow it with --allow-commands") == 2
        assert not ran_by_ssh.exists()
    part.write_text("")
    result, targets = await imported("--allow-commands", "--ssh-config", config, home=tmp_path)
    assert (result.code, targets["prod"]["port"], ran_by_ssh.exists()) == (0, 2222, True)


async def test_a_text_with_thousands_of_commands_is_translated_in_part() -> None:
    text = "for a in {1..99}; do for b in {1..6}; do ssh -N -D $((1000 + a)) h$a; done; done\n"
    done = await ran("import", stdin=text)
    assert done.code == 1
    assert f"only the first {COMMANDS_MAX} of 594 commands are translated: give fewer at a time" in done.err
    assert "h80:" in done.out
    assert "h90:" not in done.out


async def test_a_machine_without_ssh_is_named(tmp_path: Path) -> None:
    result = await ran("import", "--", "ssh", "-NL", "1:h:2", "a", env={"PATH": str(tmp_path)})
    assert (result.code, result.out) == (1, "")
    assert "ssh is not installed" in result.err


async def test_the_sentence_of_ssh_names_the_file_of_the_user(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text("Host prod\n  LocalForwrad 1 h:2\n")
    result, _ = await imported("--ssh-config", config, home=tmp_path)
    assert (result.code, result.out) == (1, "")
    assert f"{config}: line 2: Bad configuration option: localforwrad" in result.err


async def test_a_command_may_name_its_own_ssh_config(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text("Host prod\n  HostName prod.example\n")
    result, targets = await imported("--", f"ssh -F {config} -E {tmp_path}/log -NL 1:h:2 prod", home=tmp_path)
    assert (result.code, targets["prod"]["host"]) == (0, "prod.example")
    assert not (tmp_path / "log").exists()
    result, _ = await imported("--", f"ssh -F {config}.missing -NL 1:h:2 prod", home=tmp_path)
    assert "cannot be read: no such file" in result.err
