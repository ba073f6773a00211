ssh -f -L 8080:web:80 bastion.example sleep 10
