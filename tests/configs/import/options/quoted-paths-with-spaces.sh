ssh -N -L 8080:web:80 -i "/srv/my keys/id" -o 'UserKnownHostsFile="/srv/known hosts" /srv/other' bastion.example
