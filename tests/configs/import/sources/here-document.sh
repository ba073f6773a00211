#!/bin/sh
REMOTE=relay.example
cat > /tmp/tunnel.service.test <<EOF
[Service]
ExecStart=/usr/bin/autossh -M 0 -N -R 2222:localhost:22 tunnel@$REMOTE
EOF
