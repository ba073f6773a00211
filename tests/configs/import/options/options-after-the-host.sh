ssh bastion.example -N -L 5432:db:5432 -p 2222 -l alice
