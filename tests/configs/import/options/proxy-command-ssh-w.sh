ssh -N -o "ProxyCommand ssh -q -p 2200 -W %h:%p alice@gate.example 2>/dev/null" -L 8080:web:80 bastion.example
