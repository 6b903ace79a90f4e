# shellcheck shell=bash
# Shared by the setup scripts: said in one place how a missing program gets here.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '%s\n' "$*" >&2; }
die() { say "lockgate: $*"; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

# as_root command…: runs it as it is where we are root, through sudo where we can be.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif have sudo; then
        sudo "$@"
    else
        return 1
    fi
}

# apt_install package…: installs Debian packages. Says what to do where that cannot be done from here.
apt_install() {
    have apt-get || die "$* is missing, and this system has no apt-get: install it with your package manager, then try again"
    if [ "$(id -u)" != 0 ] && ! have sudo; then
        die "$* is missing, and this user can install nothing: run \`apt-get install $*\` as root, then try again"
    fi
    say "installing $* …"
    export DEBIAN_FRONTEND=noninteractive
    local guard=""
    # Packages of servers start them on installation. Ours are started by whoever uses them, on ports of their own; a
    # policy of the machine's owner stays as it is.
    if [ -d /usr/sbin ] && [ ! -e /usr/sbin/policy-rc.d ]; then
        guard=/usr/sbin/policy-rc.d
        printf '#!/bin/sh\nexit 101\n' | as_root tee "$guard" >/dev/null && as_root chmod 755 "$guard"
    fi
    local failed=0
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@" >&2 || {
        # An image without package lists knows no package until it has fetched them.
        as_root apt-get update -q >&2 &&
            as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@" >&2 || failed=1
    }
    [ -z "$guard" ] || as_root rm -f "$guard"
    [ "$failed" = 0 ] || die "apt-get could not install $*: see its messages above"
}

need_rust() {
    # Where rustup puts it, for shells that have not heard of it yet.
    PATH="$PATH:$HOME/.cargo/bin"
    have cargo || die "cargo is missing: install Rust (1.90 or later) with rustup, https://rustup.rs, then try again"
    have cc || apt_install gcc libc6-dev
}

# A server under either name does.
need_redis_server() {
    have redis-server || have valkey-server || apt_install redis-server
}
