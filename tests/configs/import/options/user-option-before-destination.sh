ssh -N -o User=carol -L 5432:db:5432 bob@bastion.example -l dave
