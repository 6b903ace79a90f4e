#!/usr/bin/env bash
# Sees that Lockgate can be built and run here: Rust, and a redis-server for the embedded upstream.
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"
need_rust
need_redis_server
have redis-cli || have valkey-cli || apt_install redis-tools
