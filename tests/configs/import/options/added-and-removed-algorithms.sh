ssh -N -o Ciphers=+aes128-cbc -o MACs=-umac-64@openssh.com -o HostKeyAlgorithms=^rsa-sha2-512 -o KexAlgorithms=curve25519-sha256 -L 8080:web:80 bastion.example
