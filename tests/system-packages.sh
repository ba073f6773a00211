#!/bin/sh
# Installs the missing packages of tests/system-packages.txt. Without root it names them and fails.
set -eu

# An ordinary user's PATH lacks sshd, and every PATH lacks initdb.
for directory in /usr/sbin /sbin /usr/lib/postgresql/*/bin; do
    PATH="$PATH:$directory"
done

missing=
while read -r package command; do
    case $package in '' | '#'*) continue ;; esac
    case $command in
        *.so | *.so.*) set -- /usr/lib/*/"$command"; [ -e "$1" ] || missing="$missing $package" ;;
        *) command -v "$command" >/dev/null || missing="$missing $package" ;;
    esac
done <"$(dirname "$0")/system-packages.txt"

if [ -z "$missing" ]; then
    exit 0
fi
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "missing packages:$missing: install them as root (names of Debian; other systems have equivalents)" >&2
    exit 1
fi

# The tests start the servers themselves, so the packages must not.
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
