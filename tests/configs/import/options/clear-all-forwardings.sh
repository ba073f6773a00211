ssh -N -L 8080:web:80 -o ClearAllForwardings=yes bastion.example
