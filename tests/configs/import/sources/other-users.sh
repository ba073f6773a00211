su - tunnel -c "ssh -fN -L 8080:web:80 bastion.example"
su -s /bin/sh tunnel -c 'ssh -fN -L 8081:web:81 bastion.example'
sudo -u tunnel -H -- ssh -fN -L 8082:web:82 bastion.example
sudo -iu tunnel ssh -fN -L 8083:web:83 bastion.example
runuser -u tunnel -- ssh -fN -L 8084:web:84 bastion.example
runuser -l tunnel -c 'ssh -fN -L 8085:web:85 bastion.example'
exec chpst -u tunnel:tunnel ssh -N -L 8086:web:86 bastion.example
setpriv --reuid tunnel --regid=tunnel --init-groups ssh -N -L 8087:web:87 bastion.example
