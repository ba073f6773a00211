ssh $SSH_OPTIONS -N -L 8080:web:80 bastion.example
ssh -N -L 8081:web:81 "$USER_NAME@$BASTION"
ssh -N -L 8082:web:82 "$(hostname -s).example"
ssh -N -L 8083:web:83 bastion.example "echo $NOT_NEEDED_HERE"
