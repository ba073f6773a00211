ssh -4 -N -L 8080:web:80 -L "*:8081:web:81" bastion.example
