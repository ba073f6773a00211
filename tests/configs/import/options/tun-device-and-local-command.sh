ssh -N -w 0:0 -o PermitLocalCommand=yes -o LocalCommand=true -L 8080:web:80 bastion.example
