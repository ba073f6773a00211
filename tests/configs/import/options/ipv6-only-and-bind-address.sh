ssh -6 -b 2001:db8::7 -N -L 8080:web:80 -D "*:1080" bastion.example
