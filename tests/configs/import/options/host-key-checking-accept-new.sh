ssh -N -L 8080:web:80 -o StrictHostKeyChecking=accept-new bastion.example
