#!/bin/sh
MODE=local
case "$MODE" in
    local|l) FORWARD="-L 8080:web:80" ;;
    *) FORWARD="-R 8080:web:80" ;;
esac
if [ "$MODE" = remote ]; then
    HOST=never.example
elif [ -z "$UNSET_NAME" ]; then
    HOST=bastion.example
fi
ssh -N $FORWARD "$HOST"
ADDRESS=10.0.0.1:2200
ssh -N -D 1080 -p "${ADDRESS##*:}" "${ADDRESS%:*}"
