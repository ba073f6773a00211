ssh -N -L 8080:web:80 -R 9100 bastion.example
