#!/usr/bin/env bash
# Sees that Lockgate can be built here.
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"
need_rust
