#!/usr/bin/env bash
# Installs what tests/suites needs beside the tests' own: Tcl, what unpacks source packages, and Python's environments.
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"

have tclsh || apt_install tcl
have dpkg-source || apt_install dpkg-dev
python3 -c 'import ensurepip' 2>/dev/null || apt_install python3-venv
