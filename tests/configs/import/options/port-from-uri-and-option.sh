ssh -N -L 5432:db:5432 -p 2222 ssh://bob@bastion.example:99
