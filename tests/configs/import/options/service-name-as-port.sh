ssh -N -L 8443:web:https -p ssh -o "ConnectTimeout none" bastion.example
