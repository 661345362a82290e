"""Every linear of a model with its Hessian, as files for
`bitwright-worker quantize-layer`, and what that makes of one.

    python3 layers.py MODEL --calib TEXT [--heldout TEXT] -o DIR

writes DIR/<model>.<linear>.safetensors with `weight` [R, C], `hessian` [C, C] of the
calibration text and `hessian_heldout` of the held-out one, both (2/n) sum x x^T over the
full-precision model's inputs. They are taken from the store of a finished job of the
parallel pipeline: what its forward tasks left for its quantize tasks.
"""

import argparse
import json
import pathlib
import sqlite3
import subprocess
import tempfile

import numpy as np

import harness
from harness import BIN

GROUPS = {"q_proj": "attn_in", "k_proj": "attn_in", "v_proj": "attn_in", "o_proj": "attn_out",
          "out_proj": "attn_out", "gate_proj": "mlp_in", "up_proj": "mlp_in", "fc1": "mlp_in",
          "down_proj": "mlp_out", "fc2": "mlp_out"}


def as_float(array, dtype):
    """A float32 array from what read_safetensors gives; BF16 comes as bits."""
    if dtype == "BF16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32)


def dtypes(path):
    data = pathlib.Path(path).read_bytes()
    header = json.loads(data[8:8 + int.from_bytes(data[:8], "little")])
    return {name: info["dtype"] for name, info in header.items() if name != "__metadata__"}


def unpack_lower(packed):
    """[C, C] symmetric from the rows of its lower triangle."""
    columns = int((np.sqrt(8 * packed.size + 1) - 1) / 2)
    full = np.zeros((columns, columns), packed.dtype)
    full[np.tril_indices(columns)] = packed
    return full + np.tril(full, -1).T


def collect_hessians(state):
    """{(block, group): [C, C]} from the state directory of one finished job."""
    store = next(pathlib.Path(state).rglob("jobs.db"))
    database = sqlite3.connect(f"file:{store}?mode=ro", uri=True)
    rows = database.execute(
        "SELECT t.key, o.sha256 FROM tasks t JOIN result_outputs o"
        " ON o.action_digest = t.action_digest WHERE o.name = 'hessian'").fetchall()
    database.close()
    sums, sequences = {}, {}
    for key, sha256 in sorted(rows):  # forward-BLOCK-SHARD, in the order of the shards
        block = int(key.split("-")[1])
        blob = next(store.parent.rglob(f"blobs/{sha256[:2]}/{sha256}"))
        tensors, metadata = harness.read_safetensors(blob)
        types = dtypes(blob)
        sequences[block] = sequences.get(block, 0) + int(metadata["sequences"])
        for group, packed in tensors.items():
            partial = as_float(packed, types[group]).astype(np.float64)
            sums[block, group] = sums.get((block, group), 0) + partial
    return {key: unpack_lower(total * 2 / sequences[key[0]]).astype(np.float32)
            for key, total in sums.items()}


def run_parallel_job(model, text, nsamples, seqlen, scratch):
    """The Hessians of `text`, by a job in `scratch`."""
    subprocess.run(
        [str(BIN / "bitwright"), "quantize", str(model), "-o", f"{scratch}/out", "--state-dir",
         f"{scratch}/state", "--pipeline", "parallel", "--method", "gptq", "--bits", "4",
         "--calib", str(text), "--nsamples", str(nsamples), "--seqlen", str(seqlen), "--quiet"],
        check=True, capture_output=True, text=True)
    return collect_hessians(f"{scratch}/state")


def linear_weights(model):
    """[(linear, block, group, [R, C] float32)] in the order of the blocks."""
    found = []
    for path in sorted(pathlib.Path(model).glob("*.safetensors")):
        tensors, _ = harness.read_safetensors(path)
        types = dtypes(path)
        for name, array in tensors.items():
            parts = name.split(".")
            if parts[-1] != "weight" or parts[-2] not in GROUPS or "layers" not in parts:
                continue
            block = int(parts[parts.index("layers") + 1])
            found.append((name[:-len(".weight")], block, GROUPS[parts[-2]],
                          as_float(array, types[name])))
    order = list(GROUPS)
    return sorted(found, key=lambda x: (x[1], order.index(x[0].split(".")[-1])))


def dump(model, calibration, heldout, out, nsamples=128, seqlen=256):
    """Writes the files described above; returns their paths in the model's order."""
    out = pathlib.Path(out)
    out.mkdir(parents=True, exist_ok=True)
    hessians = {}
    for name, text in (("hessian", calibration), ("hessian_heldout", heldout)):
        if text is None:
            continue
        with tempfile.TemporaryDirectory(prefix="bitwright-layers-") as scratch:
            hessians[name] = run_parallel_job(model, text, nsamples, seqlen, scratch)
    paths = []
    for linear, block, group, weight in linear_weights(model):
        path = out / f"{pathlib.Path(model).name}.{linear}.safetensors"
        harness.write_safetensors(
            path, {"weight": weight,
                   **{name: found[block, group] for name, found in hessians.items()}})
        paths.append(path)
    return paths


def quantize_layer(layer, out, *flags):
    """(dequantized [R, C], the JSON report) of `bitwright-worker quantize-layer`."""
    result = subprocess.run(
        [str(BIN / "bitwright-worker"), "quantize-layer", str(layer), "-o", str(out), "--json",
         *map(str, flags)], capture_output=True, text=True)
    if result.returncode != 0:
        raise RuntimeError(f"{layer} {' '.join(map(str, flags))}: {result.stderr}")
    return harness.read_safetensors(out)[0]["dequantized"], json.loads(result.stdout)


def loss(weight, dequantized, hessian):
    """tr((W - Q) H (W - Q)^T) in float64."""
    error = weight.astype(np.float64) - dequantized
    return float(np.sum((error @ hessian.astype(np.float64)) * error))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--calib", required=True)
    parser.add_argument("--heldout")
    parser.add_argument("--nsamples", type=int, default=128)
    parser.add_argument("--seqlen", type=int, default=256)
    parser.add_argument("-o", "--output", required=True)
    arguments = parser.parse_args()
    for written in dump(arguments.model, arguments.calib, arguments.heldout, arguments.output,
                        arguments.nsamples, arguments.seqlen):
        print(written)
