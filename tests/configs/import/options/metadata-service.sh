ssh -N -L 8080:169.254.169.254:80 bastion.example
