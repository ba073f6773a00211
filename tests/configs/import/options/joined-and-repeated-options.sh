ssh -fNTCqvL8080:web:80 -oPort=2222 -p 2200 bastion.example
