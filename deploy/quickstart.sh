#!/usr/bin/env bash
# Everything, from a fresh Debian 12 machine to a table of results:
# installs what is missing, builds, quantizes the two sample models at 3 and 2
# bits with every method, and shows perplexity, size and where each checkpoint is.
#   deploy/quickstart.sh [OUTPUT_DIR]        default: build/quickstart
set -euo pipefail
cd "$(dirname "$0")/.."

start=$(date +%s)
deploy/build.sh bitwright bitwright-server bitwright-worker

bitwright=build/release/bin/bitwright
models=tests/fixtures/models
out=${1:-build/quickstart}
mkdir -p "$out"
export BITWRIGHT_STATE_DIR=${BITWRIGHT_STATE_DIR:-$(cd "$out" && pwd)/state}

# One row: model, method, bits.
quantize() {
  local model=$1 method=$2 bits=$3
  local checkpoint="$out/$model-$method-$bits"
  echo "== $model: $method, $bits bits" >&2
  "$bitwright" quantize "$models/$model" -o "$checkpoint" --method "$method" --bits "$bits" \
    --budget codes --calib "$models/text/calibration.txt" --seqlen 256 --nsamples 128 \
    --eval "$models/text/heldout.txt" --json >"$checkpoint.json"
}

results=()
for model in handbook-llama handbook-opt; do
  for bits in 3 2; do
    for method in rtn gptq baq; do
      quantize "$model" "$method" "$bits"
      results+=("$out/$model-$method-$bits.json")
    done
  done
done

python3 - "${results[@]}" <<'PYTHON'
import json, os, sys

print("\nHeld-out perplexity (lower is better; windows of 256 tokens) and size.")
print("--bits counts code bits here (--budget codes), the published accounting;")
print("'file' is every byte of the quantized tensors, grids and levels included.\n")
header = ("model", "method", "bits asked", "perplexity", "codes b/w", "file b/w", "checkpoint")
rows, last = [], None
for path in sys.argv[1:]:
    result = json.load(open(path))
    model, method, bits = os.path.basename(path)[:-5].rsplit("-", 2)
    if model != last:
        rows.append((model, "full precision", "16", f"{result['perplexity']['before']:.3f}",
                     "16.000", "16.000", f"tests/fixtures/models/{model}"))
        last = model
    rows.append((model, method, bits, f"{result['perplexity']['after']:.3f}",
                 f"{result['bits_per_weight']['codes']:.3f}",
                 f"{result['bits_per_weight']['file']:.3f}", result["checkpoint"]))
widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
for i, row in enumerate([header, *rows]):
    print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
    if i == 0:
        print("-" * (sum(widths) + 2 * len(widths) - 2))
PYTHON
echo
echo "done in $(( $(date +%s) - start )) s. Look closer:"
echo "  $bitwright inspect $out/handbook-llama-baq-2"
