ssh -W db:5432 bastion.example
