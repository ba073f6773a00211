ssh -N -o HostKeyAlias=cluster -o "UserKnownHostsFile /srv/known_hosts" -L 8080:web:80 10.0.0.7
