#!/bin/bash
# Runs the suites on a server alone and through Lockgate, and tells what differs but for what expected.txt lists.
# usage: compare.sh OUT BINARY [lockgate arguments]
#        DIRECT=folder: the results of an earlier run without Lockgate
#        EXPECTED=file: what may fail (expected.txt); /dev/null where nothing may
. "$(dirname "$0")/lib.sh"
export LC_ALL=C.UTF-8
[ $# -ge 2 ] || { echo "usage: $0 OUT BINARY [lockgate arguments]" >&2; exit 2; }
OUT=$1 BINARY=$2; shift 2
mkdir -p "$OUT"
DIRECT=${DIRECT:-$OUT/direct}
[ -s "$DIRECT/passed" ] || "$HERE/each-unit.sh" "$DIRECT" >"$OUT/direct.log" || exit 1
"$HERE/each-unit.sh" "$OUT/lockgate" "$BINARY" "$@" >"$OUT/lockgate.log" || exit 1

# What passes directly has to pass through Lockgate: a unit that is cut short counts with all that it left out.
comm -23 "$DIRECT/passed" "$OUT/lockgate/passed" | uniq >"$OUT/missing"
sed -nE 's/^([^#|]+[^ ]) +\| (.*) +\| .*/\1 | \2/p' "${EXPECTED:-$HERE/expected.txt}" | sed 's/ *$//' | sort >"$OUT/expected"
comm -23 "$OUT/missing" "$OUT/expected" >"$OUT/differs"
comm -13 "$OUT/missing" "$OUT/expected" >"$OUT/stale"
echo "$(wc -l <"$DIRECT/passed") pass directly; through Lockgate $(wc -l <"$OUT/missing") of them do not, $(wc -l <"$OUT/expected") expected"
sed 's/^/differs: /' "$OUT/differs"
sed 's/^/expected.txt lists it, and it passes: /' "$OUT/stale"
[ ! -s "$OUT/differs" ] && [ ! -s "$OUT/stale" ]
