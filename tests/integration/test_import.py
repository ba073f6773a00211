"""`tunnels import`: the output passes `check`, and parts without a counterpart are reported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from integration.commands import Ran, program, ran
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
                {"local": "5432:db.internal:5432"},
                {"local": "6379:redis:6379"},
                {"remote": "0.0.0.0:9000:localhost:3000"},
                {"socks": "1080"},
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
    assert result.code == 1
    assert result.err == "not translated: line 3: not an ssh or autossh command\n"
    assert [one["local"] for one in targets["a.example.com"]["tunnels"]] == ["5432:db:5432", "5433:db:5433"]
    assert targets["b.example.com"]["port"] == 2200


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("-X", "-X: no counterpart"),
        ("-R 9100", "a SOCKS server on the remote side"),
        ("-L nonsense", 'invalid forward "nonsense"'),
        ("-L 1:h:2", "another tunnel already listens on 127.0.0.1:1"),
        ("-F other", "-F other: add --ssh-config other"),
        ("-o PermitLocalCommand=no -o LocalCommand=ls", "-o LocalCommand: no counterpart"),
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
    assert result.code == 1
    assert result.err == "not translated: Host old: HostKeyAlgorithms: no counterpart\n"
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
        {"local": "5432:db.internal:5432"},
        {"local": "127.0.0.1:6379:redis:6379"},
        {"socks": "1080"},
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
