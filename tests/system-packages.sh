#!/bin/sh
# Installs what tests/system-packages.txt names and this machine lacks; without root it says what is missing and fails.
set -eu

# sshd is not on an ordinary user's PATH, initdb on nobody's.
for directory in /usr/sbin /sbin /usr/lib/postgresql/*/bin; do
    PATH="$PATH:$directory"
done

missing=
while read -r package command; do
    case $package in '' | '#'*) continue ;; esac
    case $command in
        *.so) set -- /usr/lib/*/"$command"; [ -e "$1" ] || missing="$missing $package" ;;
        *) command -v "$command" >/dev/null || missing="$missing $package" ;;
    esac
done <"$(dirname "$0")/system-packages.txt"

if [ -z "$missing" ]; then
    exit 0
fi
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "The tests need these Debian packages (or what takes their place here), and only root can install them:$missing" >&2
    exit 1
fi

# The servers are for the tests to start: their packages must not start them.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
    trap 'rm -f $policy' EXIT
    trap 'exit 1' HUP INT TERM
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod +x $policy
fi

echo "Installing$missing"
export DEBIAN_FRONTEND=noninteractive
apt="apt-get -qq -o DPkg::Lock::Timeout=300"
$apt update
# shellcheck disable=SC2086 # one argument a package
$apt install -y --no-install-recommends $missing >/dev/null
