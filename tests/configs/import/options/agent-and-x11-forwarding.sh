ssh -A -X -N -L 5432:db:5432 bastion.example
