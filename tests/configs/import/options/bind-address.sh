ssh -N -b 192.0.2.7 -o AddressFamily=inet -L 8080:web:80 bastion.example
