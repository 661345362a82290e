#!/usr/bin/env bash
# Installs what is missing, builds everything and runs every test.
#   tests/run.sh [CTEST ARGUMENTS...]     e.g. tests/run.sh -R scheduler
set -euo pipefail
cd "$(dirname "$0")/.."
deploy/build.sh
exec ctest --preset release --parallel "$(nproc)" "$@"
