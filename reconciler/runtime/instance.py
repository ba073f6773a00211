"""The name of the running process among several: of its pod, or of its machine."""

from __future__ import annotations

import socket
from collections.abc import Mapping


def instance_name(environ: Mapping[str, str]) -> str:
    """Return $POD_NAME, or the host name up to its first dot. It is the pod's name, except with hostNetwork."""
    return environ.get("POD_NAME") or socket.gethostname().partition(".")[0]
