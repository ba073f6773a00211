#!/bin/sh
start_tunnel() {
    local name=$1 from=$2 to="$3"
    nohup ssh -f -N -L "$from:$to" "$name.example" > "/dev/null" 2>&1 &
}
start_tunnel db 5432 localhost:5432
start_tunnel web 8080 app:80; start_tunnel cache 6379 "[::1]:6379"
wait
