ssh -N -o PreferredAuthentications=password -L 8080:web:80 bastion.example
