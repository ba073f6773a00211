screen -dmS db ssh -N -L 5432:db:5432 bastion.example
screen -d -m -S web bash -c 'while true; do ssh -N -L 8080:web:80 bastion.example; sleep 1; done'
tmux new-session -d -s cache 'ssh -N -L 6379:cache:6379 bastion.example'
tmux new -d -s socks ssh -N -D 1080 bastion.example
tmux send-keys -t main "ssh -N -L 9090:mon:9090 bastion.example" Enter
