ssh -N -L 8080:web:nosuchservice bastion.example
