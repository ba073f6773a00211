ssh -B eth1 -N -L 8080:web:80 bastion.example
