ssh -N -o StrictHostKeyChecking=accept-new -o UserKnownHostsFile=/srv/new_hosts -L 8080:web:80 bastion.example
