#!/bin/sh
### BEGIN INIT INFO
# Provides: tunnel
### END INIT INFO
DAEMON=/usr/bin/autossh
ARGS="-M 0 -N -L 3306:localhost:3306 tunnel@db.example"
[ -x $DAEMON ] || exit 0
case "$1" in
  start)
    start-stop-daemon --start --quiet --background --make-pidfile --pidfile /run/t.pid --chuid tunnel --exec $DAEMON -- $ARGS
    ;;
  stop)
    start-stop-daemon --stop --pidfile /run/t.pid --exec $DAEMON
    ;;
  *) echo "Usage: $0 {start|stop}" ;;
esac
