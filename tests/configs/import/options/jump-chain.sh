ssh -N -J alice@a.example:2201,ssh://b.example,[2001:db8::1]:2203 -L 8080:web:80 bastion.example
