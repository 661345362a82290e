#!/usr/bin/env bash
# Installs what building and testing needs from Debian 12's packages; does
# nothing, and needs no privileges, when everything is there.
set -euo pipefail

packages=(
  g++ cmake ninja-build ccache git ca-certificates
  libtorch-dev libopenblas0-pthread libopenblas-pthread-dev libdnnl-dev libeigen3-dev
  libgrpc++-dev protobuf-compiler protobuf-compiler-grpc libprotobuf-dev
  libabsl-dev prometheus-cpp-dev libsqlite3-dev libssl-dev zlib1g-dev
  libcli11-dev nlohmann-json3-dev libspdlog-dev libsentencepiece-dev libicu-dev
  libgtest-dev libgmock-dev libbenchmark-dev
  python3 python3-numpy
)

missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0

echo "installing: ${missing[*]}" >&2
as_root=()
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null || { echo "error: run as root, or install sudo: packages are missing" >&2; exit 2; }
  as_root=(sudo)
fi
export DEBIAN_FRONTEND=noninteractive
"${as_root[@]}" apt-get update -qq
"${as_root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
