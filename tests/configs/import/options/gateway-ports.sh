ssh -g -N -L 8080:web:80 -L localhost:8081:web:81 -D 1080 -R 2222:web:82 bastion.example
