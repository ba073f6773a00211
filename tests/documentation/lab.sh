# The network of the documentation: bash runs this in new namespaces, and then the commands of one page.
#
# Every name in the pages is an address of this namespace, so that the pages run as they are written. The reader is root
# with the home directory /mnt/you. $LAB_NEEDS names the servers that the page uses. A function `step_NAME` is what a
# block with `step=NAME` needs to happen outside the reader's terminal.
set -eu
lab=/mnt/lab

mount -t tmpfs tmpfs /mnt
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p $lab /mnt/you/.ssh /mnt/deploy/.ssh /run/sshd /run/user/0
cp -a /etc /mnt/etc
mount --bind /mnt/etc /etc
ip link set lo up
hosts="bastion=192.0.2.10 bastion-a=192.0.2.10 bastion-b=192.0.2.11 jump=192.0.2.12"
{
    echo '127.0.0.1 localhost'
    echo '::1 localhost'
    for host in $hosts; do echo "${host#*=} ${host%=*}.example.com"; done
    echo '10.0.0.5 db.internal'
    echo '10.0.0.6 redis.internal'
    echo '10.0.0.7 web.internal wiki.internal api.internal'
} >/etc/hosts
for address in 192.0.2.10 192.0.2.11 192.0.2.12 10.0.0.5 10.0.0.6 10.0.0.7; do
    ip address add $address/32 dev lo
done
sed -i 's#^root:.*#root:x:0:0::/mnt/you:/bin/bash#' /etc/passwd
for user in deploy:2001:/bin/sh gate:2002:/usr/sbin/nologin; do
    IFS=: read -r name number shell <<<"$user"
    echo "$name:x:$number:$number::/mnt/deploy:$shell" >>/etc/passwd
    echo "$name:x:$number:" >>/etc/group
    echo "$name:*:1::::::" >>/etc/shadow
done
[ -d /run/systemd ] || mkdir -p /run/systemd/system

# --- SSH servers ------------------------------------------------------------------------------------------------------

# The keys that the reader's `ssh` already has: an own key that logs in, and the known host keys.
ssh-keygen -q -t ed25519 -N '' -C you@laptop -f /mnt/you/.ssh/id_ed25519
cp /mnt/you/.ssh/id_ed25519.pub /mnt/deploy/.ssh/authorized_keys
chown -R deploy:deploy /mnt/deploy
chmod 755 /mnt/deploy /mnt/deploy/.ssh
for server in bastion:10 bastion-b:11 jump:12; do
    name=${server%:*} address=192.0.2.${server#*:}
    ssh-keygen -q -t ed25519 -N '' -C "$name" -f $lab/$name.key
    printf '%s\n' "ListenAddress $address" "HostKey $lab/$name.key" "PidFile $lab/$name.pid" 'UsePAM no' \
        'AuthorizedKeysFile .ssh/authorized_keys' 'UseDNS no' 'PrintMotd no' 'StrictModes no' \
        'Subsystem sftp internal-sftp' 'PasswordAuthentication no' 'KbdInteractiveAuthentication no' >$lab/$name.conf
    key=$(cut -d' ' -f1,2 $lab/$name.key.pub)
    case $name in bastion) names=bastion.example.com,bastion-a.example.com ;; *) names=$name.example.com ;; esac
    echo "$names,$address $key" >>/mnt/you/.ssh/known_hosts
done

lab_start() { /usr/sbin/sshd -E $lab/"$1".log -f $lab/"$1".conf && lab_await 192.0.2."$2" 22; }

# End a server and all its sessions, as a reboot does.
lab_stop() {
    # shellcheck disable=SC2009 # pgrep does not list grandchildren
    parents=$(cat $lab/"$1".pid) all=
    while [ -n "$parents" ]; do
        all="$all $parents" next=
        for pid in $parents; do next="$next $(ps -o pid= --ppid "$pid" || true)"; done
        parents=$(echo $next)
    done
    kill -KILL $all
    for pid in $all; do while [ -e /proc/"$pid" ]; do sleep 0.02; done; done # only then are their sockets closed
}

lab_await() { # ADDRESS PORT: until something listens
    for _ in $(seq 600); do
        (: <>/dev/tcp/"$1"/"$2") 2>/dev/null && return
        sleep 0.05
    done
    echo "nothing listens on $1:$2" >&2
    return 1
}

# --- services behind them ---------------------------------------------------------------------------------------------

lab_postgres() {
    mkdir $lab/pg && chown postgres $lab/pg
    bin=$(ls -d /usr/lib/postgresql/*/bin | tail -n 1)
    as="setpriv --reuid postgres --regid postgres --clear-groups --"
    (
        cd /
        $as "$bin"/initdb -D $lab/pg/data -U postgres -A trust -E UTF8 --no-locale -N >/dev/null
        echo 'host all all 10.0.0.0/8 trust' >>$lab/pg/data/pg_hba.conf
        $as "$bin"/postgres -D $lab/pg/data -c listen_addresses=10.0.0.5 -c unix_socket_directories=$lab/pg \
            -c fsync=off >$lab/pg/log 2>&1 &
    )
    lab_await 10.0.0.5 5432
    until "$bin"/pg_isready -q -h 10.0.0.5; do sleep 0.05; done
    psql -q -h 10.0.0.5 -U postgres -c 'create role app login' -c 'create database app owner app'
}

lab_redis() {
    redis-server --bind 10.0.0.6 --dir $lab --save '' --protected-mode no >$lab/redis.log 2>&1 &
    lab_await 10.0.0.6 6379
}

lab_web() {
    mkdir $lab/www
    echo 'hello from web.internal' >$lab/www/index.html
    echo ok >$lab/www/health
    (cd $lab/www && exec python3 -m http.server --bind 10.0.0.7 80 >$lab/www.log 2>&1) &
    lab_await 10.0.0.7 80
}

for server in bastion:10 bastion-b:11 jump:12; do lab_start "${server%:*}" "${server#*:}"; done
for service in $LAB_NEEDS; do lab_"$service"; done

# --- steps ------------------------------------------------------------------------------------------------------------

step_bastion_goes_down() { lab_stop bastion; }
step_bastion_comes_up() { lab_start bastion 10; }
step_first_bastion_comes_back() { lab_start bastion 10; }

# The administrator of the bastion installs the authority of the page, and removes all single keys.
step_bastion_trusts_ca() {
    cp user_ca.pub $lab/user_ca.pub
    : >/mnt/deploy/.ssh/authorized_keys
    sed -i "1i TrustedUserCAKeys $lab/user_ca.pub" $lab/bastion.conf
    lab_stop bastion && lab_start bastion 10
}

# The administrator gives the bastion a certificate, signed by the authority of the page.
step_bastion_gets_host_certificate() {
    ssh-keygen -q -s host_ca -I bastion -h -n bastion.example.com $lab/bastion.key.pub
    sed -i "1i HostCertificate $lab/bastion.key-cert.pub" $lab/bastion.conf
    lab_stop bastion && lab_start bastion 10
}

step_bastion_wants_code() {
    printf '%s\n' JBSWY3DPEHPK3PXP '" TOTP_AUTH' >$lab/code && chmod 400 $lab/code
    echo "auth required pam_google_authenticator.so user=root secret=$lab/code" >/etc/pam.d/sshd
    printf '%s\n' 'account required pam_permit.so' 'session required pam_permit.so' >>/etc/pam.d/sshd
    sed -i -e '/UsePAM/d' -e '/Kbd/d' -e '1i UsePAM yes' -e '1i KbdInteractiveAuthentication yes' \
        -e '1i AuthenticationMethods publickey,keyboard-interactive' $lab/bastion.conf
    lab_stop bastion && lab_start bastion 10
}

# The administrator lets one key in without a code, for forwards to one destination only.
step_bastion_exempts_a_user() {
    echo "restrict,port-forwarding,permitopen=\"web.internal:80\" $(cat ~/.ssh/tunnels.pub)" >$lab/gate_keys
    printf '%s\n' 'Match User gate' '    AuthenticationMethods publickey' "    AuthorizedKeysFile $lab/gate_keys" \
        >>$lab/bastion.conf
    chmod 755 $lab && chmod 644 $lab/gate_keys
    lab_stop bastion && lab_start bastion 10
}

# --- the reader's shell -----------------------------------------------------------------------------------------------

mkdir -p /mnt/you/work
echo silent >/mnt/you/.curlrc # as on a terminal, where curl shows no progress beside the output
cd /mnt/you/work
export HOME=/mnt/you USER=root XDG_RUNTIME_DIR=/run/user/0 COLUMNS=120 LC_ALL=C.UTF-8
unset TMPDIR TUNNELS_CONFIG
set +eu
disown -a # the reader's first job has number 1
set -m # jobs in the background get SIGINT, as in a terminal
echo ready
