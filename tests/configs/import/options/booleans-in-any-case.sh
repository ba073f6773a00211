ssh -N -L 8080:web:80 -o "GatewayPorts Yes" -o "Compression YES" -o StrictHostKeyChecking=FALSE bastion.example
