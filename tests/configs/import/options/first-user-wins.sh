ssh -N -l alice -L 5432:db:5432 bob@bastion.example
