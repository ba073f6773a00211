alias dbtunnel='ssh -N -L 5432:db:5432 bastion.example'
socks() { ssh -f -N -D 1080 proxy.example; }
forward() { ssh -N -L "$1:localhost:$1" web.example; }
export EDITOR=vi PATH="$HOME/bin:$PATH"
