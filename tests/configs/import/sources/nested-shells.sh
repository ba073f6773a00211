#!/bin/sh
TO=db.example
bash -c 'ssh -N -L "$1:localhost:5432" "$0"' "$TO" 15432
sh -c "cd / && exec ssh -N -D 1080 $TO"
( ssh -fN -L 8080:web:80 $TO && echo up ) 2>/dev/null
{ timeout 60 env A=b ssh -N -L 8081:web:81 $TO; }
eval "ssh -N -L 8082:web:82 $TO"
CMD="ssh -N -L 8083:web:83 $TO"
$CMD
setsid nice -n 5 ssh -N -L 8084:web:84 $TO </dev/null
