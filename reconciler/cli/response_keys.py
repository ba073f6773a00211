"""The meaning of each key of the JSON responses. docs/reference/endpoints.md shows them.

A test compares the keys with the types of `cli/responses.py`, and those with what the running process sends.
"""

from __future__ import annotations

from collections.abc import Iterable

from reconciler.cli.responses import (
    Client,
    ClientFailureJson,
    ConfigJson,
    EventJson,
    FileJson,
    PlanJson,
    PlannedStepJson,
    ReloadJson,
    StatusJson,
    StepJson,
    TargetJson,
    TunnelJson,
)
from reconciler.core.backoff import Wait
from reconciler.core.observed import ClientResult, Phase
from reconciler.core.off import OffCause


def _words(of: Iterable[str]) -> str:
    *most, last = (f"`{word}`" for word in of)
    return f"{', '.join(most)} or {last}"


_CONDITION = {
    "phase": f"{_words(Phase)} ([contract](../contract.md#status)).",
    "reason": "Why it is not up, or why its connection cannot be replaced ([reasons](reasons.md)).",
    "message": "What happened and what to do, as one sentence.",
    "off": f"What keeps it off: {_words(OffCause)}. Absent if nothing does.",
    "needsAction": "No retry helps until a person changes something.",
    "nextTryAt": "When the next try is due.",
    "nextTryWait": f"What sets that time: {_words(Wait)} ([contract](../contract.md#status)). Null if no try is due.",
    "since": "When it entered its phase.",
    "reconnects": "How many times it came up again.",
}

KEYS: dict[type, dict[str, str]] = {
    StatusJson: {
        "version": "The version of the program.",
        "instance": "The name of this process: `$POD_NAME`, or else the host name up to its first dot.",
        "config": "The configuration in use.",
        "targets": "The targets in the order of the files.",
        "tunnels": "The tunnels in the order of the files, then removed ones that still have clients.",
        "ending": "`true` while the process shuts down. Absent otherwise.",
        "fault": "A sentence, while passes of the reconcile loop fail: the rest is then the status of the last pass "
        "that succeeded. Absent otherwise.",
        "shard": "The shard of this process, as in `2/4`. Absent without `--shard`.",
    },
    ConfigJson: {
        "files": "The files, with their errors.",
        "revision": "The hash of the content of all files that is in use.",
        "loadedAt": "When this revision was loaded.",
        "converged": "No step is left, except to wait or to retry.",
    },
    FileJson: {
        "path": "The path of the file.",
        "valid": "The present content is valid and in use.",
        "error": "Why it is not. Then the last good content is in use.",
    },
    TargetJson: {
        "name": "The name in the file.",
        **_CONDITION,
        "host": "The server that it is connected to, as host:port.",
        "hosts": "The servers of the file, in order of preference.",
        "via": "The jump hosts, the outermost first.",
        "cipher": "The cipher of the connection.",
        "kex": "The key exchange of the connection.",
        "rttSeconds": "The round trip time to the target, jump hosts included. Null until it is known.",
        "hostKeyVerified": "The host keys of all hops were verified.",
    },
    TunnelJson: {
        "id": "TARGET/NAME.",
        "target": "The name of its target.",
        "name": "Its name in the target.",
        "type": "`local`, `remote` or `socks`.",
        **_CONDITION,
        "up": "The phase is `up`.",
        "listen": "The bound address, or the address of the file while it is not bound.",
        "dial": "The destination.",
        "connections": "Client connections with an open SSH channel.",
        "held": "Client connections that wait for the SSH connection.",
        "bytesSent": "Bytes of clients towards the SSH server.",
        "bytesReceived": "Bytes of clients from the SSH server.",
        "expiresAt": "When `expiresAt` turns it off.",
        "description": "The `description` of the file.",
        "labels": "The `labels` of the file.",
        "lastClientFailure": "The last client that was refused or not connected. Null if there was none.",
    },
    ClientFailureJson: {
        "at": "When.",
        "from": "The address of the client. Null for a client of a unix socket.",
        "result": f"How it ended, as in `ssh_tunnel_connections_total`: {_words(ClientResult)}.",
        "message": "What happened, and what to do about it if anything.",
    },
    EventJson: {
        "at": "When.",
        "subject": "`target NAME`, `tunnel TARGET/NAME` or `config`.",
        "phase": "The new phase, or what was done: `restarted`, `paused`, `resumed`, `draining`, `revived` or `cut` "
        "(clients), `valid` or `invalid` (files). Null if the subject was removed.",
        "before": "The phase before. Null if there was none.",
        "reason": "The reason of the phase ([reasons](reasons.md)).",
        "message": "What happened.",
    },
    Client: {
        "id": "The number of the connection in this process.",
        "tunnel": "TARGET/NAME.",
        "from": "The address of the client. Null if it is unknown.",
        "to": "The destination. Null while it is unknown.",
        "user": "The user of a SOCKS client.",
        "since": "When it was accepted.",
        "bytesSent": "Its bytes towards the SSH server.",
        "bytesReceived": "Its bytes from the SSH server.",
        "link": "The number of its SSH connection. Null while it waits for one.",
        "state": "`live`, or `held` while it waits for the SSH connection.",
    },
    StepJson: {
        "step": "What was tested.",
        "ok": "The test succeeded.",
        "detail": "What was found.",
        "fix": "What to do if it failed.",
    },
    ReloadJson: {
        "valid": "No file has an error.",
        "revision": "The hash of the content of all files.",
        "errors": "The errors, each as `file:line:column: path: message`.",
    },
    PlanJson: {
        "actions": "The steps in order.",
        "clients": "How many live clients all steps affect, each counted once.",
        "errors": "The errors of the files, each as `file:line:column: path: message`. With one, there are no steps.",
        "warnings": "The warnings, in the same form.",
    },
    PlannedStepJson: {
        "action": "What is done: `dial`, `retire`, `tune`, `open`, `close`, `assign`, `move`, `drain` or `cut`.",
        "subject": "`target NAME` or `tunnel TARGET/NAME`.",
        "why": "Why it is done.",
        "clients": "How many live clients it affects.",
        "changes": "The changed fields, each as text: `holdTimeout 10s -> 30s`.",
    },
}
