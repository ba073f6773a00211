"""Processes that share one file with `--shard`: each target is served once, also after a kill and with more shards."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from integration.commands import WITHIN, program
from integration.replicas import replicas
from reconciler.core.shard import Shard
from support.metrics import complaints, scrape
from support.services import EchoServer
from support.sshd import Sshd

ROOT = Path(__file__).parents[2]
TARGETS = [f"site-{number:02}" for number in range(12)]


def served_once(placement: dict[int, set[str]]) -> bool:
    return Counter(name for names in placement.values() for name in names) == Counter(TARGETS)


async def test_each_target_is_served_once_after_a_kill_and_a_change_of_the_number(
    sshd: Sshd, echo: EchoServer, tmp_path: Path
) -> None:
    async with replicas(sshd, echo, tmp_path, TARGETS) as them:
        await them.start_all(range(3), 3)
        of_three = await them.placement()
        assert served_once(of_three)

        await them.kill(1)
        assert await them.placement() == {0: of_three[0], 2: of_three[2]}
        await them.start(1, 3)
        assert await them.placement() == of_three

        # A StatefulSet starts the added pod first: it takes targets over before the others let go of them.
        await them.start(3, 4)
        placement = await them.placement()
        added = placement[3]
        assert placement == {**of_three, 3: added}
        assert 2 <= len(added) <= 4  # of 12
        await them.restart_all(range(3), 4)
        of_four = await them.placement()
        assert of_four == {ordinal: names - added for ordinal, names in of_three.items()} | {3: added}
        assert served_once(of_four)

        for ordinal, pod in them.pods.items():
            assert (await pod.client.get("/api/v1/status"))["shard"] == f"{ordinal}/4"
            page = await scrape(pod.client)
            assert page.labels("tunnels_shards") == [{"shard": str(ordinal)}]
            assert page.value("tunnels_shards") == 4
            assert complaints(page.text) == ""

        await them.restart_all(range(3), 3)
        await them.kill(3)
        assert await them.placement() == of_three


@pytest.mark.parametrize(
    ("host", "environ", "shard"),
    [
        ("tunnels-2.tunnels.default.svc", {"TUNNELS_SHARD": "4", "POD_NAME": ""}, "2/4"),
        ("node-3", {"TUNNELS_SHARD": "4", "POD_NAME": "my.tunnels-1"}, "1/4"),
    ],
)
def test_the_shard_comes_from_the_name_of_the_pod(
    host: str, environ: dict[str, str], shard: str, tmp_path: Path
) -> None:
    """The host name is set in a namespace of its own."""
    done = run_on(host, environ, tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"shard {shard} serves 0 of 0 targets" in done.stderr


def test_a_host_without_an_ordinal_has_no_shard(tmp_path: Path) -> None:
    done = run_on("laptop", {"TUNNELS_SHARD": "4"}, tmp_path)
    assert done.returncode == 2
    assert "no ordinal at the end of the pod name 'laptop'" in " ".join(done.stderr.split())


async def test_a_tunnel_of_another_shard_is_reported_with_the_shard(tmp_path: Path) -> None:
    text = "targets:\n" + "".join(
        f"  {name}: {{host: 127.0.0.1, user: x, tunnels: [{{type: socks, localPort: 0, enabled: false}}]}}\n"
        for name in TARGETS
    )
    other = next(name for name in TARGETS if not Shard(0, 2).has(name))
    async with program(tmp_path, text, "--shard", "0/2") as run:
        for command in ("status", "restart"):
            done = await run.ran(command, f"{other}/*")
            assert done.code == 1
            assert "this process is shard 0/2, and another shard may have the tunnel" in done.err


def run_on(host: str, environ: dict[str, str], directory: Path) -> subprocess.CompletedProcess[str]:
    """Run `tunnels run` for a moment on a machine of this name."""
    file = directory / "tunnels.yaml"
    file.write_text("targets: {}\n")
    command = [sys.executable, "-m", "reconciler", "run", "--listen", "none", "--control", "none", str(file)]
    named = ["unshare", "--map-root-user", "--uts", "sh", "-c", f'hostname {host} && exec "$@"', "sh"]
    return subprocess.run(
        [*named, *command, "--", "true"],
        env={"PATH": os.environ["PATH"], "HOME": str(directory), "PYTHONPATH": str(ROOT), **environ},
        capture_output=True,
        text=True,
        check=False,
        timeout=WITHIN,
    )
