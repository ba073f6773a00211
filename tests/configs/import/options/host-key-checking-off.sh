ssh -N -L 8080:web:80 -o StrictHostKeyChecking=off -o UserKnownHostsFile=/dev/null bastion.example
