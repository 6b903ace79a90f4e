#!/usr/bin/env bash
# Installs what the tests need: Debian's Redis, newer servers and Python clients under target, Node clients beside their
# tests. Each part is done once, and then again only when its list of packages has changed.
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"

PYTHON_LIST=tests/clients/python/requirements.txt
NODE_FOLDER=tests/clients/node
VENV=${CARGO_TARGET_DIR:-target}/test-venv
SERVERS=tests/setup/fetch-servers.sh

need_rust
have redis-server || apt_install redis-server
{ have redis-cli && have redis-benchmark; } || apt_install redis-tools

# A browser for the page, and promtool for the metrics.
have chromium || apt_install chromium fonts-dejavu-core
have promtool || apt_install prometheus

if [ -f "$PYTHON_LIST" ]; then
    mkdir -p "$(dirname "$VENV")"
    have python3 || apt_install python3 python3-venv
    if ! cmp -s "$PYTHON_LIST" "$VENV/installed.txt"; then
        # Debian ships Python without what makes an environment, so a first try may only leave half of one.
        rm -rf "$VENV"
        python3 -m venv "$VENV" >/dev/null 2>&1 || {
            rm -rf "$VENV"
            apt_install python3-venv
            python3 -m venv "$VENV"
        }
        say "installing the Python clients …"
        "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check -r "$PYTHON_LIST"
        cp "$PYTHON_LIST" "$VENV/installed.txt"
    fi
fi

if [ -x "$SERVERS" ]; then
    # Debian's own Python has no pip, the environment's has.
    [ ! -d "$VENV" ] || PATH="$(cd "$VENV" && pwd)/bin:$PATH"
    "$SERVERS"
fi

if [ -f "$NODE_FOLDER/package-lock.json" ]; then
    have node || apt_install nodejs
    have npm || apt_install npm
    if ! cmp -s "$NODE_FOLDER/package-lock.json" "$NODE_FOLDER/node_modules/.installed-lock.json"; then
        say "installing the Node clients …"
        (cd "$NODE_FOLDER" && npm ci --no-audit --no-fund --loglevel=error >&2)
        cp "$NODE_FOLDER/package-lock.json" "$NODE_FOLDER/node_modules/.installed-lock.json"
    fi
fi
