ssh -N -L 5439:db:postgresql bastion.example
