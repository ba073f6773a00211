ssh -N -o Nonsense=1 -L 8080:web:80 bastion.example
