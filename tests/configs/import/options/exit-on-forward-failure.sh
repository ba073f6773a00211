ssh -N -o ExitOnForwardFailure=yes -L 8080:web:80 bastion.example
