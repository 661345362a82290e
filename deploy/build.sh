#!/usr/bin/env bash
# Builds the release into build/release (binaries in build/release/bin).
#   deploy/build.sh [TARGET...]
set -euo pipefail
cd "$(dirname "$0")/.."
deploy/install_dependencies.sh
log=$(cmake --preset release 2>&1) || { echo "$log" >&2; exit 2; }
cmake --build --preset release ${1:+--target "$@"}
