"""`/readyz?revision=R`: whether an edit is live, for health checks without a command."""

from __future__ import annotations

import hashlib
from pathlib import Path

from support.endpoints import whole
from support.services import EchoServer
from support.sshd import Sshd
from support.tunnels import file, local, target
from support.wait import eventually, free_port


def revision_of(text: str) -> str:
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


async def test_an_edit_is_ready_when_it_is_loaded_and_its_tunnels_are_up(
    sshd: Sshd, echo: EchoServer, tmp_path: Path
) -> None:
    first = file(sshd, local("echo", free_port(), echo.port))
    second = first + local("more", free_port(), echo.port)
    stuck = first + target(sshd, "dead", port=free_port()) + local("vital", free_port(), echo.port)
    bad = first.replace("type: local", "type: lokal")
    async with whole(tmp_path, first) as it:

        async def ready(text: str) -> bool:
            status, _ = await it.http.text(f"/readyz?revision={revision_of(text)}")
            return status == 200

        await eventually(lambda: ready(first))
        assert await it.http.get("/readyz", revision=revision_of(first)) == {
            "ready": True,
            "revision": revision_of(first),
            "loaded": revision_of(first),
            "rejected": False,
            "converged": True,
            "missing": [],
        }
        early = await it.http.get("/readyz", 503, revision=revision_of(second))
        assert (early["ready"], early["rejected"], early["loaded"]) == (False, False, revision_of(first))
        [why] = early["missing"]
        assert why == (f"revision {revision_of(second)} is not loaded: the loaded revision is {revision_of(first)}")
        await it.http.get("/readyz/server/more", 503, revision=revision_of(second))
        assert (await it.http.text("/readyz/server/more"))[0] == 404

        it.tunnels.edit(second)
        await eventually(lambda: ready(second))
        assert not await ready(first)
        assert (await it.http.get("/readyz/server/more", revision=revision_of(second)))["ready"]

        # Loaded, but a critical tunnel is down.
        it.tunnels.edit(stuck)

        async def is_stuck() -> bool:
            found = await it.http.get("/readyz", 503, revision=revision_of(stuck))
            return any(one.startswith("dead/vital is down (refused): ") for one in found["missing"])

        await eventually(is_stuck)
        assert (await it.http.get("/readyz/server/echo", revision=revision_of(stuck)))["ready"]

        # Rejected: the loaded revision stays, and the answer does not show the errors.
        it.tunnels.edit(bad)

        async def is_rejected() -> bool:
            return bool((await it.http.get("/readyz", 503, revision=revision_of(bad)))["rejected"])

        await eventually(is_rejected)
        found = await it.http.get("/readyz", 503, revision=revision_of(bad))
        assert found["missing"][0] == f"revision {revision_of(bad)} was rejected: `tunnels status` shows the errors"
        assert "lokal" not in str(found)


async def test_other_parameters_and_forms_are_refused(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    text = file(sshd, local("echo", free_port(), echo.port))
    right = revision_of(text)
    async with whole(tmp_path, text) as it:
        await it.tunnels.all_up()
        for query in (
            "revison=x",
            f"revision={right}&verbose",
            f"revision={right}&revision={right}",
            "revision=",
            "revision=3f2a9c1",
            f"revision={right.upper()}",
            f"revision={right}0",
            f"revision={right}%0a",
            "verbose",
            "%3Cscript%3E=1",
        ):
            for path in ("/readyz", "/readyz/server/echo"):
                status, body = await it.http.text(f"{path}?{query}")
                assert status == 400, query
                assert "expected" in body
        assert (await it.http.text("/readyz")) == (200, "ok\n")
        # Like /readyz it is open to any host name, so that a Job in the cluster can ask by the name of a Service.
        status, _ = await it.http.text(f"/readyz?revision={right}", Host="tunnels.default.svc")
        assert status == 200
        status, _ = await it.http.text(f"/readyz/server/echo?revision={right}", Host="tunnels.default.svc")
        assert status == 403
