#!/bin/bash
# Makes a working set of certificates: an authority, one for servers (Lockgate, and a Redis behind it) and one for a client.
#
#   configs/make-certs.sh [FOLDER] [--host NAME]… [--user NAME]… [--days N]
#
# FOLDER (default: certs) then holds ca.crt and ca.key, server.crt and server.key, and for each user USER.crt and USER.key (default:
# client). Servers are good for localhost, 127.0.0.1, ::1 and each --host. An authority that lies there already is kept; what it has
# vouched for is made anew, and Lockgate takes that over while it runs. Keep ca.key away from the servers.
set -euo pipefail
umask 077

folder=certs hosts=(localhost 127.0.0.1 ::1) users=() days=825
while [ $# -gt 0 ]; do
    case "$1" in
        --host) hosts+=("${2:?--host needs a name or an address}"); shift 2 ;;
        --user) users+=("${2:?--user needs a name}"); shift 2 ;;
        --days) days="${2:?--days needs a number}"; shift 2 ;;
        -h | --help) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 0 ;;
        -*) echo "make-certs.sh: $1 is unknown; see --help" >&2; exit 2 ;;
        *) folder="$1"; shift ;;
    esac
done
[ ${#users[@]} -gt 0 ] || users=(client)
command -v openssl >/dev/null || { echo "make-certs.sh: openssl is missing; install it" >&2; exit 1; }

mkdir -p "$folder"
cd "$folder"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

key() { openssl ecparam -name prime256v1 -genkey -noout | openssl pkcs8 -topk8 -nocrypt -out "$1"; }

# issue FILE COMMON-NAME EXTENDED-USE ALTERNATIVE-NAMES: written beside the old pair and moved over it.
issue() {
    key "$scratch/key"
    openssl req -new -key "$scratch/key" -subj "/CN=$2" -out "$scratch/request"
    printf 'basicConstraints=CA:FALSE\nkeyUsage=digitalSignature\nextendedKeyUsage=%s\nsubjectAltName=%s\n' "$3" "$4" >"$scratch/extensions"
    openssl x509 -req -in "$scratch/request" -CA ca.crt -CAkey ca.key -set_serial "0x$(openssl rand -hex 16)" -days "$days" \
        -sha256 -extfile "$scratch/extensions" -out "$scratch/cert" 2>/dev/null
    mv "$scratch/key" "$1.key"
    mv "$scratch/cert" "$1.crt"
    chmod 644 "$1.crt"
}

if [ ! -e ca.key ]; then
    key ca.key
    openssl req -x509 -new -key ca.key -sha256 -days 3650 -subj "/CN=Lockgate CA" \
        -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign -out ca.crt
    chmod 644 ca.crt
fi

names=""
for host in "${hosts[@]}"; do
    case "$host" in
        *:* | [0-9]*.[0-9]*.[0-9]*.[0-9]*) names+="${names:+,}IP:$host" ;;
        *) names+="${names:+,}DNS:$host" ;;
    esac
done
# A server may show it as a client, too, as Redis does between replicas.
issue server "${hosts[0]}" serverAuth,clientAuth "$names"
for user in "${users[@]}"; do
    issue "$user" "$user" clientAuth "DNS:$user"
done
echo "made in $PWD: ca, server (${hosts[*]}), ${users[*]}"
