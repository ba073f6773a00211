"""Made-up status JSON (docs/contract.md): realistic, changing, hostile or very large."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field
from typing import Any

from page.details import Json, client, detail, failure, hour, stamp

NEEDS_ACTION = {"auth", "host_key", "certificate_expired", "secret_unreadable", "bind", "forbidden_by_server"}
REFUSED = (
    "bastion.eu.example.com:22 refuses connections: start the SSH server, correct `host` or `port`, "
    "or check the firewalls"
)
AUTH = (
    "search.example.com:22 refused the login of deploy with key /etc/tunnels/id_ed25519: "
    "check `user` and the key here, and authorized_keys on the server"
)
IN_USE = "127.0.0.1:6379 is in use by redis-server (pid 4711): stop it, or choose another port"
KEEPALIVE = (
    "bastion.eu.example.com:22 stopped answering: nothing was received for 30 s: check the network between, or "
    "raise `keepaliveCountMax`"
)
CLOSED = (
    "bastion.eu.example.com:22 closed the connection: its last 3 connections ended after about 300 s without data: "
    "a firewall, NAT or load balancer on the way drops idle connections, or the server does: set "
    "`keepaliveInterval: 100s`"
)
PROBE = (
    "GET /health answered 503 Service Unavailable: see the destination's log; correct `health` if the probe "
    "asks for the wrong thing (probed every 30 s)"
)
LONG_AGO = 3 * 3600.0 + 30  # seconds: mid-minute, so that no text changes during a test
UNREACHED: Json = {"host": "", "cipher": None, "kex": None, "rttSeconds": None, "hostKeyVerified": None}
INVALID = """\
tunnels.d/search.yaml:14:9: targets.search.tunnels[2].localPrt: unknown key: did you mean `localPort`?
tunnels.d/search.yaml:21:20: targets.search.port: port 70000 is out of range: expected 1 to 65535"""


def target(name: str, server: str, **fields: Any) -> Json:
    return {
        "name": name,
        "phase": "up",
        "reason": None,
        "message": "",
        "needsAction": False,
        "nextTryAt": None,
        "host": server,  # the connected host
        "hosts": [server],
        "via": [],
        "since": stamp(time.time() - LONG_AGO),
        "reconnects": 0,
        "cipher": "aes128-gcm@openssh.com",
        "kex": "mlkem768x25519-sha256",
        "rttSeconds": 0.0183,
        "hostKeyVerified": True,
        **fields,
    }


def tunnel(target: str, name: str, listen: str, dial: str, **fields: Any) -> Json:
    return {
        "id": f"{target}/{name}",
        "target": target,
        "name": name,
        "type": "local",
        "phase": "up",
        "up": True,
        "reason": None,
        "message": "",
        "needsAction": False,
        "nextTryAt": None,
        "listen": listen,
        "dial": dial,
        "connections": 0,
        "held": 0,
        "bytesSent": 0,
        "bytesReceived": 0,
        "reconnects": 0,
        "since": stamp(time.time() - LONG_AGO),
        "description": "",
        "labels": {},
        **fields,
    }


@dataclass
class World:
    """The made-up state. `rates`: bytes per second, sent and received, by tunnel. `retries`: seconds between tries."""

    targets: list[Json]
    tunnels: list[Json]
    files: list[Json]
    rates: dict[str, tuple[float, float]] = field(default_factory=dict)
    events: list[Json] = field(default_factory=list)
    retries: dict[str, float] = field(default_factory=dict)
    converged: bool = True
    ending: bool = False
    instance: str = "gate-1"
    details: dict[str, Json] = field(default_factory=dict)
    began: float = field(default_factory=time.time)

    def status(self) -> Json:
        elapsed = time.time() - self.began + 3600
        for one in self.tunnels:
            sent, received = self.rates.get(one["id"], (0.0, 0.0))
            one["bytesSent"], one["bytesReceived"] = int(sent * elapsed), int(received * elapsed)
        for name, every in self.retries.items():
            left = every - (time.time() - self.began) % every
            self.find(name)["nextTryAt"] = stamp(time.time() + left)
        config = {
            "files": self.files,
            "revision": "sha256:8c1f0a92d4e67b35aa0e4f12c9d8f7b6e5a4938271605f4e3d2c1b0a99887766",
            "loadedAt": stamp(self.began - 4000),
            "converged": self.converged,
        }
        ending = {"ending": True} if self.ending else {}
        process = {"version": "1.4.0", "instance": self.instance, **ending}
        return {**process, "config": config, "targets": self.targets, "tunnels": self.tunnels}

    def detail(self, tunnel_id: str) -> Json | None:
        """Return the detail of a tunnel: that in `details`, or one without losses. None if there is no such tunnel."""
        if all(one["id"] != tunnel_id for one in self.tunnels):
            return None
        return {**detail(tunnel_id), **self.details.get(tunnel_id, {})}

    def find(self, name: str) -> Json:
        """Return a tunnel by its id, or a target by its name."""
        return next(one for one in [*self.tunnels, *self.targets] if name in (one.get("id"), one["name"]))

    def turn(
        self, name: str, phase: str, reason: str | None = None, message: str = "", next_try: float | None = None
    ) -> Json:
        """Change the phase of a tunnel or target, and return the event."""
        thing = self.find(name)
        before = thing["phase"]
        now = time.time()
        thing.update(
            phase=phase,
            reason=reason,
            message=message,
            needsAction=reason in NEEDS_ACTION,
            nextTryAt=None if next_try is None else stamp(now + next_try),
            since=stamp(now),
        )
        self.retries.pop(name, None)
        if next_try is not None:
            self.retries[name] = next_try
        if "up" in thing:
            thing["up"] = phase == "up"
        subject = f"tunnel {name}" if "id" in thing else f"target {name}"
        event = {
            "at": stamp(now),
            "subject": subject,
            "phase": phase,
            "before": before,
            "reason": reason,
            "message": message,
        }
        self.events.append(event)
        return event


def all_up() -> World:
    """The tunnels of a small team, without failures."""
    targets = [
        target("prod", "bastion.eu.example.com:22", via=["jump.example.com:22"], reconnects=1),
        target("staging", "bastion.staging.example.com:2222", rttSeconds=0.0042, since=stamp(time.time() - 510)),
        target("edge", "edge-01.example.net:22", rttSeconds=0.087, cipher="chacha20-poly1305@openssh.com"),
    ]
    tunnels = [
        tunnel(
            "prod",
            "postgres",
            "127.0.0.1:5432",
            "db.internal:5432",
            connections=12,
            description="PostgreSQL",
            labels={"team": "data"},
        ),
        tunnel(
            "prod",
            "replica",
            "127.0.0.1:5433",
            "db-2.internal:5432",
            connections=3,
            description="read replica",
            labels={"team": "data"},
        ),
        tunnel("prod", "redis", "127.0.0.1:6379", "redis.internal:6379", connections=40, reconnects=1),
        tunnel("prod", "docker", "/run/tunnels/docker.sock", "/var/run/docker.sock", since=stamp(time.time() - 1500)),
        tunnel("staging", "web", "127.0.0.1:8080", "web.internal:80", connections=2, since=stamp(time.time() - 510)),
        tunnel(
            "staging",
            "browse",
            "127.0.0.1:1080",
            "(each client's choice)",
            type="socks",
            connections=5,
            since=stamp(time.time() - 510),
        ),
        tunnel(
            "edge",
            "webhook",
            "127.0.0.1:8080",
            "localhost:3000",
            type="remote",
            connections=1,
            description="callbacks to the laptop",
        ),
        tunnel("edge", "metrics", "127.0.0.1:9100", "localhost:9100", type="remote"),
    ]
    rates = {
        "prod/postgres": (48_200.0, 812_000.0),
        "prod/replica": (9_100.0, 15_400_000.0),
        "prod/redis": (1_260_000.0, 2_830_000.0),
        "staging/web": (640.0, 5_200.0),
        "staging/browse": (22_000.0, 380_000.0),
        "edge/webhook": (310.0, 90.0),
    }
    files = [{"path": "/etc/tunnels/tunnels.yaml", "valid": True, "error": None}]
    world = World(targets, tunnels, files, rates)
    world.events = [
        _event(520, "target staging", "connecting", "up", None, ""),
        _event(519.9, "tunnel staging/web", "connecting", "up", None, "127.0.0.1:8080 -> web.internal:80"),
        _event(519.8, "tunnel staging/browse", "connecting", "up", None, "127.0.0.1:1080 -> (each client's choice)"),
        _event(1500, "tunnel prod/docker", None, "up", None, "/run/tunnels/docker.sock -> /var/run/docker.sock"),
    ]
    return world


def _event(ago: float, subject: str, before: str | None, phase: str, reason: str | None, message: str) -> Json:
    at = stamp(time.time() - ago)
    return {"at": at, "subject": subject, "phase": phase, "before": before, "reason": reason, "message": message}


def some_failing() -> World:
    """The same tunnels with most kinds of failures, and every phase."""
    world = all_up()
    world.targets.insert(0, target("search", "search.example.com:22", **UNREACHED))
    world.tunnels += [
        tunnel("search", "elastic", "127.0.0.1:9200", "es.internal:9200", held=2),
        tunnel("search", "kibana", "127.0.0.1:5601", "kibana.internal:5601"),
        tunnel("staging", "debug", "127.0.0.1:4000", "app.internal:4000", expiresAt=stamp(time.time() + 5400)),
        tunnel("staging", "break-glass", "127.0.0.1:5434", "db.internal:5432"),
        tunnel("edge", "leader", "0.0.0.0:8443 on edge", "localhost:8443", type="remote"),
        tunnel("edge", "logs", "127.0.0.1:5140 on edge", "localhost:5140", type="remote"),
    ]
    world.turn("prod", "down", "refused", REFUSED, 9)
    for name in ("postgres", "replica", "docker"):
        world.turn(f"prod/{name}", "down", "refused", REFUSED, 9)
        world.find(f"prod/{name}").update(connections=0)
    world.find("prod").update(UNREACHED)
    world.find("prod/postgres").update(held=7)
    world.rates = {"staging/web": (640.0, 5_200.0), "staging/browse": (22_000.0, 1_380_000.0)}
    world.turn("prod/redis", "down", "local_port_in_use", IN_USE, 3)
    world.find("prod/redis").update(connections=0)
    world.turn("search", "down", "auth", AUTH, 840)
    for name in ("elastic", "kibana"):
        world.turn(f"search/{name}", "down", "auth", AUTH, 840)
    world.turn("staging/web", "unhealthy", "probe", PROBE)
    world.turn("staging/break-glass", "off", None, "expired")
    world.turn("staging/debug", "connecting")
    world.turn("edge/webhook", "draining", None, "disabled: waiting for its last clients to finish")
    world.turn(
        "edge/leader", "standby", None, "another replica holds the port: this one takes over when the port is free", 3
    )
    world.turn("edge/logs", "pending")
    world.find("edge").update(hostKeyVerified=False)
    world.files.append({"path": "/etc/tunnels/tunnels.d/search.yaml", "valid": False, "error": INVALID})
    world.converged = False
    world.details["prod/postgres"] = detail(
        "prod/postgres",
        history=hour(
            m47=(41.2, 18.8, 0, 1, 1),
            m31=(48.0, 12.0, 0, 1, 0),
            m30=(0, 60, 0, 0, 0),
            m29=(22.5, 37.5, 0, 0, 1),
            m3=(57.0, 3.0, 0, 1, 1),
            m0=(0, time.time() % 60, 0, 1, 0),
            **{f"m{ago}": (0.0, 0.0, 60.0, 0, 0) for ago in range(12, 17)},
            **{f"m{ago}": (0.0, 0.0, 0.0, 0, 0) for ago in range(53, 60)},
        ),
        failures=[
            failure(20, "refused", REFUSED, 2),
            failure(1790, "keepalive", KEEPALIVE, 3),
            failure(2850, "closed_by_server", CLOSED),
        ],
        clients=[
            *(client(f"127.0.0.1:{50_000 + 7 * number}", 18 - number, state="held") for number in range(7)),
        ],
    )
    world.find("staging/browse")["lastClientFailure"] = {
        "at": stamp(time.time() - 140),
        "from": "10.20.4.17:61019",
        "result": "dial_failed",
        "message": "wiki.internal:443 refuses connections: start the service there",
    }
    world.details["staging/browse"] = detail(
        "staging/browse",
        line=31,
        history=hour(m21=(53.0, 7.0, 0, 1, 1), m8=(59.2, 0.8, 0, 1, 1)),
        failures=[failure(1250, "keepalive", KEEPALIVE, 2)],
        clients=[
            client("127.0.0.1:50214", 4, 3_100, 48_200),
            client("10.20.4.17:61022", 95, 41_000, 2_310_000),
            client("[2001:db8:85a3:8d3:1319:8a2e:370:7348]:40112", 610, 882_000, 91_400_000),
            client("127.0.0.1:49822", 1720, 12_400, 96_000),
            client("10.20.4.17:60990", 3010, 7_310_000, 1_210_000_000),
        ],
    )
    for ago, event in enumerate(reversed(world.events)):
        event["at"] = event["at"] if ago > 12 else stamp(time.time() - 7 * ago - 3)
    return world


ATTACK = "<img src=x onerror=\"window.broken='yes'\"><script>window.broken='yes'</script>'\"&amp;</p>"


def hostile() -> World:
    """Markup in every name, address and message from outside."""
    targets = [
        target(ATTACK, ATTACK, via=[ATTACK], cipher=ATTACK, kex=ATTACK, phase="down", reason=ATTACK, message=ATTACK)
    ]
    tunnels = [
        tunnel(
            ATTACK,
            ATTACK,
            ATTACK,
            ATTACK,
            phase="down",
            reason="dns",
            message=f"it said: {ATTACK}",
            description=ATTACK,
            labels={ATTACK: ATTACK},
        ),
        tunnel(ATTACK, "javascript", "javascript:window.broken='yes'", "127.0.0.1:1", phase=ATTACK, type=ATTACK),
    ]
    world = World(targets, tunnels, [{"path": ATTACK, "valid": False, "error": ATTACK}], instance=ATTACK)
    hostile_id = tunnels[0]["id"]
    tunnels[0]["lastClientFailure"] = {"at": ATTACK, "from": ATTACK, "result": ATTACK, "message": ATTACK}
    world.details[hostile_id] = detail(
        hostile_id, file=ATTACK, failures=[failure(9, ATTACK, ATTACK)], clients=[client(ATTACK, 9, state=ATTACK)]
    )
    world.events = [
        {
            "at": stamp(time.time()),
            "subject": ATTACK,
            "phase": ATTACK,
            "before": ATTACK,
            "reason": ATTACK,
            "message": ATTACK,
        }
    ]
    return world


def thousand(targets: int = 50, tunnels_each: int = 20) -> World:
    """1,000 tunnels with traffic, so that every row changes with every poll."""
    dice = random.Random(1)
    world = World([], [], [{"path": "/etc/tunnels", "valid": True, "error": None}])
    for number in range(targets):
        name = f"site-{number:02}"
        world.targets.append(target(name, f"bastion.{name}.example.com:22"))
        for index in range(tunnels_each):
            one = tunnel(
                name,
                f"service-{index:02}",
                f"127.0.0.1:{20_000 + number * 100 + index}",
                f"service-{index}.internal:443",
            )
            one["connections"] = dice.randrange(9)
            world.tunnels.append(one)
            world.rates[one["id"]] = (dice.random() * 1e5, dice.random() * 1e6)
    return world
