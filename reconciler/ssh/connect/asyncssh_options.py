"""The options of asyncssh for one connection: all of them, so that it reads nothing from ~/.ssh or the environment."""

from __future__ import annotations

import getpass
import os
from pathlib import Path
from typing import Any

from reconciler.core.observed import Failure, Reason
from reconciler.core.spec import Hop, TrustMode
from reconciler.core.text.forms import and_more
from reconciler.ssh.connect import algorithms
from reconciler.ssh.connect.host_key_check import HostKeyCheck
from reconciler.ssh.errors.failure import DialFailed
from reconciler.ssh.internals import decompression, group_exchange, login_text
from reconciler.ssh.internals.compatibility import incompatibility
from reconciler.ssh.internals.seam import TESTED


def options(
    hop: Hop,
    methods: tuple[str, ...],
    check: HostKeyCheck,
    keepalive: tuple[float, int],
    *,
    certificates: bool,
    strict_kex: bool = True,
) -> dict[str, Any]:
    """Keyword arguments of `asyncssh.connect`. Raises DialFailed for an unsupported algorithm or version of asyncssh.

    methods        authentication methods, in order
    certificates   ask for host certificates
    strict_kex     False for a server that is known not to support it
    """
    if lacking := incompatibility():
        raise DialFailed(Failure(Reason.INTERNAL, lacking, f"install asyncssh {TESTED}, and report it"))
    if unknown := algorithms.unknown(hop.algorithms):
        what = f"`algorithms` has unsupported names ({and_more(unknown, 4)})"
        raise DialFailed(Failure(Reason.PROTOCOL, what, "correct each name, or leave it out"))
    name_the_user_for_asyncssh()
    decompression.install()
    group_exchange.install()
    login_text.install()
    offers = hop.algorithms
    interval, count = keepalive
    return {
        "config": None,
        "username": hop.user,
        # No keys here: asyncssh asks the AuthClient for them. None also keeps it away from agents and ~/.ssh.
        "client_keys": None,
        "agent_path": None,
        "gss_host": None,
        "host_based_auth": False,
        "public_key_auth": "publickey" in methods,
        "password_auth": "password" in methods,
        "kbdint_auth": "keyboard-interactive" in methods,
        "preferred_auth": methods or ("publickey",),
        # Empty lists, because None turns checking off: every key is unknown, so asyncssh asks the AuthClient.
        "known_hosts": None if hop.trust.mode is TrustMode.OFF else ([], [], check.revoked),
        "host_key_alias": hop.trust.alias or None,
        "x509_trusted_certs": None,
        "x509_trusted_cert_paths": [],
        "server_host_key_algs": algorithms.host_key_offer(offers, check.preferred_types(), certificates=certificates),
        "kex_algs": algorithms.kex_offer(offers),
        "encryption_algs": algorithms.cipher_offer(offers, strict_kex=strict_kex),
        "mac_algs": algorithms.mac_offer(offers, strict_kex=strict_kex),
        "signature_algs": algorithms.signature_offer(offers),
        "compression_algs": algorithms.compression_offer(compress=hop.compress),
        "connect_timeout": None,  # dial has its own deadline
        "login_timeout": 0,
        "keepalive_interval": interval,
        "keepalive_count_max": max(1, count),
        "utf8_decode_errors": "replace",
    }


def name_the_user_for_asyncssh() -> None:
    """Set LOGNAME and HOME if the uid of the process has no passwd entry, as in many containers.

    asyncssh reads both and raises without them, although it is given the user and every path. The files are loaded with
    a copy of the environment: `~` in them stays unknown.
    """
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["LOGNAME"] = str(os.getuid())
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = "/"  # as Docker does
