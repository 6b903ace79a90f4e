#!/usr/bin/env bash
# Installs what the benchmarks measure against and measure with.
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"
need_rust
have redis-server || apt_install redis-server
have redis-benchmark || apt_install redis-tools
have haproxy || apt_install haproxy
have nutcracker || apt_install nutcracker
have python3 || apt_install python3
