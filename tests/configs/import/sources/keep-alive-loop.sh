#!/bin/bash
set -euo pipefail
HOST=bastion.example
PORT=${1:-2222}
: "${LOCAL:=15432}"
KEY="$HOME/.ssh/id ed25519"
OPTS=(-o "ServerAliveInterval 30" -o ServerAliveCountMax=3)
OPTS+=(-i "$KEY")
[ -n "$HOST" ] || exit 1

while true; do
    echo "starting ssh -L to $HOST"
    ssh -N "${OPTS[@]}" -p "$PORT" -L "${LOCAL}:db:5432" "deploy@${HOST}" || echo "failed: $?" >&2
    sleep 5
    [ -n "${ONCE:-yes}" ] && break
done
