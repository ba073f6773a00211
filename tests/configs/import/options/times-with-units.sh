ssh -N -D 1080 -o ConnectTimeout=1m30s -o ServerAliveInterval=2m -o ServerAliveCountMax=5 bastion.example
