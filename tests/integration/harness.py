"""What the integration tests share: running the real binaries, comparing
checkpoints, making small models. Standard library and numpy only."""

import hashlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

import numpy as np

SOURCE = pathlib.Path(os.environ.get("BITWRIGHT_SOURCE_DIR", pathlib.Path(__file__).parents[2]))
BIN = pathlib.Path(os.environ.get("BITWRIGHT_BIN_DIR", SOURCE / "build/release/bin"))
SHARED = pathlib.Path(os.environ.get("BITWRIGHT_SHARED_DIR", SOURCE.parent / "shared"))
MODELS = SOURCE / "tests/fixtures/models"
LLAMA, OPT = MODELS / "handbook-llama", MODELS / "handbook-opt"
CALIBRATION, HELDOUT = MODELS / "text/calibration.txt", MODELS / "text/heldout.txt"

# A calibration that is quick and still meaningful.
QUICK = ["--calib", CALIBRATION, "--nsamples", "8", "--seqlen", "128"]

DTYPES = {"F32": np.float32, "F16": np.float16, "F64": np.float64, "U8": np.uint8,
          "U16": np.uint16, "I32": np.int32, "I64": np.int64, "BF16": np.uint16}


class TestCase(unittest.TestCase):
    """A scratch directory for each test, removed at its end."""

    def setUp(self):
        self.scratch = pathlib.Path(tempfile.mkdtemp(prefix="bitwright-test-"))
        self.addCleanup(shutil.rmtree, self.scratch, ignore_errors=True)
        self.state = self.scratch / "state"

    def bitwright(self, *args, code=0, state=None, env=None, timeout=600):
        """Runs the CLI; fails the test unless it ends with exit code `code`."""
        result = subprocess.run(
            [str(BIN / "bitwright"), *map(str, args)], capture_output=True, text=True,
            timeout=timeout, env={**os.environ, "BITWRIGHT_STATE_DIR": str(state or self.state),
                                  **(env or {})})
        self.assertEqual(result.returncode, code,
                         f"bitwright {' '.join(map(str, args))}\n{result.stdout}{result.stderr}")
        return result

    def quantize(self, model, out, *args, **options):
        """Quantizes and returns the JSON result."""
        result = self.bitwright("quantize", model, "-o", out, "--json", *args, **options)
        return json.loads(result.stdout) if result.returncode == 0 else result

    def evaluate(self, model, text, *args, **options):
        return json.loads(
            self.bitwright("eval", model, "--text", text, "--json", *args, **options).stdout)


def require(path):
    """Skips the test, visibly, where `path` is absent."""
    if not pathlib.Path(path).exists():
        raise unittest.SkipTest(f"{path} is absent")
    return path


def tree_digest(directory):
    """{relative path: SHA-256} of every file below `directory`."""
    directory = pathlib.Path(directory)
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(directory.rglob("*")) if path.is_file()}


def read_safetensors(path):
    """({name: array}, metadata). BF16 comes as its bits."""
    data = pathlib.Path(path).read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8:8 + length])
    metadata = header.pop("__metadata__", {})
    tensors = {}
    for name, info in header.items():
        begin, end = info["data_offsets"]
        tensors[name] = np.frombuffer(data[8 + length + begin:8 + length + end],
                                      DTYPES[info["dtype"]]).reshape(info["shape"])
    return tensors, metadata


def write_safetensors(path, tensors, metadata=None):
    names = {np.dtype(dtype): name for name, dtype in DTYPES.items() if name != "BF16"}
    header, blobs, offset = {}, [], 0
    if metadata:
        header["__metadata__"] = metadata
    for name, array in tensors.items():
        array = np.ascontiguousarray(array)
        header[name] = {"dtype": names[array.dtype], "shape": list(array.shape),
                        "data_offsets": [offset, offset + array.nbytes]}
        offset += array.nbytes
        blobs.append(array.tobytes())
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    pathlib.Path(path).write_bytes(len(text).to_bytes(8, "little") + text + b"".join(blobs))


def random_llama(directory, blocks, width=64, ffn=160, vocab=256, seed=0):
    """A Llama of random weights, without a tokenizer (use --tokens)."""
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True)
    rng = np.random.default_rng(seed)

    def weight(*shape):
        return (rng.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float16)

    tensors = {"model.embed_tokens.weight": weight(vocab, width),
               "model.norm.weight": np.ones(width, np.float16)}
    for block in range(blocks):
        prefix = f"model.layers.{block}."
        for name in "qkvo":
            tensors[f"{prefix}self_attn.{name}_proj.weight"] = weight(width, width)
        tensors[f"{prefix}mlp.gate_proj.weight"] = weight(ffn, width)
        tensors[f"{prefix}mlp.up_proj.weight"] = weight(ffn, width)
        tensors[f"{prefix}mlp.down_proj.weight"] = weight(width, ffn)
        tensors[f"{prefix}input_layernorm.weight"] = np.ones(width, np.float16)
        tensors[f"{prefix}post_attention_layernorm.weight"] = np.ones(width, np.float16)
    write_safetensors(directory / "model.safetensors", tensors, {"format": "pt"})
    (directory / "config.json").write_text(json.dumps({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": vocab,
        "hidden_size": width, "intermediate_size": ffn, "num_hidden_layers": blocks,
        "num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5, "hidden_act": "silu", "rope_theta": 10000.0,
        "tie_word_embeddings": True, "torch_dtype": "float16", "bos_token_id": 1,
        "eos_token_id": 2}))
    return directory


def random_tokens(path, count, vocab=256, seed=1):
    write_safetensors(path, {"tokens": np.random.default_rng(seed).integers(
        3, vocab, count).astype(np.int32)})
    return path


def processes(name, marker):
    """Ids of running processes of binary `name` with `marker` in their command line."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            command = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if command[0].endswith(b"/" + name.encode()) and any(marker.encode() in part
                                                             for part in command):
            found.append(int(entry.name))
    return found


def kill_all(name, marker):
    """kill -9 to each such process; returns how many there were."""
    ids = processes(name, marker)
    for process in ids:
        try:
            os.kill(process, signal.SIGKILL)
        except ProcessLookupError:
            pass
    return len(ids)


def wait_until(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return False


def main():
    """Runs the calling file's tests; exit code 77 if all of them were skipped."""
    program = unittest.main(exit=False, verbosity=2)
    result = program.result
    if not result.wasSuccessful():
        sys.exit(1)
    sys.exit(77 if result.testsRun == len(result.skipped) else 0)
