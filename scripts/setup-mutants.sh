#!/usr/bin/env bash
# Installs what tests/mutants needs beside the tests' own: cargo-mutants, which lists changes of Rust code.
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"

need_rust
version=27.1.0
[ "$(cargo mutants --version 2>/dev/null)" = "cargo-mutants $version" ] || cargo install cargo-mutants --version "$version" --locked
