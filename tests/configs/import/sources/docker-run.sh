docker run -d --name db --restart=always -v ~/.ssh:/root/.ssh:ro -p 5432:5432 alpine/ssh ssh -N -L 0.0.0.0:5432:db:5432 deploy@bastion.example
docker run --rm -it --entrypoint autossh some/image -M 0 -N -L 8080:web:80 bastion.example
docker run -d -e SSH_REMOTE_USER=tunnel -e SSH_REMOTE_HOST=relay.example -e SSH_REMOTE_PORT=2222 -e SSH_TUNNEL_PORT=8022 \
  -e SSH_TARGET_HOST=172.17.0.1 -e SSH_TARGET_PORT=22 -v /etc/autossh/id:/id_rsa jnovack/autossh
