"""Whether the installed asyncssh has every name that this package uses."""

from __future__ import annotations

from functools import cache

import asyncssh

from reconciler.core.text.forms import and_more
from reconciler.ssh.internals import (
    carrier,
    connection_number,
    decompression,
    global_requests,
    greeting,
    group_exchange,
    ignore_packets,
    kex_messages,
    login_text,
    packet_guard,
    packet_path,
    packets,
    parse_budget,
)
from reconciler.ssh.internals.keys import algorithm_names, certificates, key_cost, public_keys, signatures
from reconciler.ssh.internals.seam import TESTED, problems

MODULES = (
    carrier,
    connection_number,
    decompression,
    global_requests,
    greeting,
    group_exchange,
    ignore_packets,
    kex_messages,
    login_text,
    packet_guard,
    packet_path,
    packets,
    parse_budget,
    algorithm_names,
    certificates,
    key_cost,
    public_keys,
    signatures,
)


@cache
def incompatibility() -> str:
    """Return what the installed asyncssh lacks and for which module, "" if it lacks nothing."""
    found = [
        f"{problem} ({module.__name__.rpartition('.')[2]})" for module in MODULES for problem in problems(module.SEAMS)
    ]
    return f"asyncssh {asyncssh.__version__} {and_more(found, 1)}, tested with {TESTED}" if found else ""
