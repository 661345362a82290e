#!/usr/bin/env bash
# Builds the worker's numerics and model libraries with CUDA on a machine that
# has only CUDA, PyTorch >= 2.9, CMake and ninja; runs their tests and the
# benchmark; writes the results.
#
#   tests/gpu/run.sh fetch DIR                 on Debian 12: downloads what that
#                                              machine lacks (20 MB) into DIR
#   tests/gpu/run.sh run DIR [RESULTS.md]      on that machine; DIR may also hold
#                                              the packages unpacked (DIR/usr)
#
# Where there is no GPU it builds, runs what needs none, says that the rest is
# skipped, and writes no results. Environment: BUILD_DIR (build/gpu), SEQUENCES
# (128: of 2048 tokens for the block; 0 leaves it out), BITWRIGHT_TORCH_DIR (else
# python3's torch).
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)

packages=(
  libabsl-dev libabsl20220623 libeigen3-dev libgtest-dev libgmock-dev
  nlohmann-json3-dev libopenblas-pthread-dev libopenblas0-pthread libgfortran5
  libquadmath0 libssl-dev libssl3
)

usage() { sed -n '2,/^set/p' "$0" | sed -n 's/^# \{0,1\}//p' >&2; exit 2; }

fetch() {
  mkdir -p "$1"
  (cd "$1" && apt-get download -qq "${packages[@]}")
  echo "$(du -sm "$1" | cut -f1) MB in $1"
}

# Unpacks $1/*.deb into $2, without static libraries but those of the tests.
unpack() {
  python3 - "$1" "$2" <<'PYTHON'
import io, pathlib, sys, tarfile
source, target = map(pathlib.Path, sys.argv[1:])
for deb in sorted(source.glob("*.deb")):
    data = deb.read_bytes()
    at = 8  # After "!<arch>\n": members of a 60-byte header and a body.
    while at < len(data):
        name, size = data[at:at + 16].decode().rstrip(" /"), int(data[at + 48:at + 58])
        if name.startswith("data.tar"):
            with tarfile.open(fileobj=io.BytesIO(data[at + 60:at + 60 + size])) as tar:
                members = [m for m in tar.getmembers()
                           if not m.name.endswith(".a") or "libgtest" in m.name or "libgmock" in m.name]
                tar.extractall(target, members, **({"filter": "tar"} if hasattr(tarfile, "tar_filter") else {}))
        at += 60 + size + size % 2
PYTHON
}

run() {
  local dir results build sys torch libs flags
  dir=$(cd "$1" && pwd)
  results=${2:-$root/tests/gpu/RESULTS.md}
  build=${BUILD_DIR:-$root/build/gpu}
  mkdir -p "$build"
  build=$(cd "$build" && pwd)
  sys=$dir
  if [ ! -d "$dir/usr" ]; then
    sys=$build/packages
    [ -d "$sys/usr" ] || unpack "$dir" "$sys"
  fi
  torch=${BITWRIGHT_TORCH_DIR:-$(python3 -c 'import torch; print(torch.__path__[0])')}
  libs=$sys/usr/lib/x86_64-linux-gnu
  # Headers are in places that Debian's alternatives point to; this Abseil counts
  # on older compilers' headers to include <cstdint>.
  flags="-isystem $sys/usr/include/x86_64-linux-gnu/openblas-pthread"
  flags+=" -isystem $sys/usr/include/x86_64-linux-gnu -include cstdint"
  cmake -S "$root" -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release \
    -DBITWRIGHT_NUMERICS_ONLY=ON -DBITWRIGHT_CUDA=ON \
    -DBITWRIGHT_TORCH_DIR="$torch" \
    -DCMAKE_PREFIX_PATH="$sys/usr" -DOPENSSL_ROOT_DIR="$sys/usr" \
    -DBLA_VENDOR=OpenBLAS -DCMAKE_LIBRARY_PATH="$libs/openblas-pthread" \
    -DCMAKE_CXX_FLAGS="$flags" \
    -DCMAKE_EXE_LINKER_FLAGS="-Wl,-rpath-link,$libs -Wl,-rpath,$libs -Wl,--disable-new-dtags" \
    >"$build/configure.log" || { tail -20 "$build/configure.log" >&2; exit 1; }
  cmake --build "$build" >"$build/build.log" || { grep -m20 -A5 -E "error|FAILED" "$build/build.log" >&2; exit 1; }

  local failed=0
  (cd "$build" && ctest --output-on-failure --parallel "$(nproc)" >ctest.log) || failed=1
  grep -E "tests passed|Failed|\*\*\*" "$build/ctest.log" | sort -u | tail -20
  rm -f "$build/bench.md"
  "$build/bench/bitwright_gpu_bench" "$build/bench.md" --sequences "${SEQUENCES:-128}"
  if [ ! -f "$build/bench.md" ]; then
    echo "SKIPPED: no usable GPU here; the parity tests and the benchmark did not run, and $results is as it was"
    exit "$failed"
  fi
  {
    echo "# Bitwright on a GPU"
    echo
    echo "Written by \`tests/gpu/run.sh run\`, with torch $(cat "$torch/version.py" | sed -n "s/^__version__ = '\(.*\)'/\1/p")."
    echo "Tests: $(grep -E 'tests passed' "$build/ctest.log")."
    echo
    cat "$build/bench.md"
  } >"$results"
  echo "written: $results"
  exit "$failed"
}

case "${1:-}" in
  fetch) [ $# -eq 2 ] || usage; fetch "$2" ;;
  run) [ $# -eq 2 ] || [ $# -eq 3 ] || usage; run "$2" "${3:-}" ;;
  *) usage ;;
esac
