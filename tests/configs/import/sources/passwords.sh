sshpass -p 'correct-horse' ssh -N -L 8080:web:80 a.example
SSHPASS=correct-horse sshpass -e autossh -M 0 -N -L 8081:web:81 b.example
sshpass -e ssh -N -L 8082:web:82 c.example
sshpass -f /etc/tunnel/password ssh -N -L 8083:web:83 d.example
sshpass -p "$DB_PASSWORD" ssh -N -L 8084:web:84 e.example
sshpass -p "$(cat /run/secrets/password)" ssh -N -L 8085:web:85 f.example
export SSHPASS='correct-horse'
sshpass -pcorrect-horse -v ssh -N -L 8086:web:86 g.example
