"""Bad input: a clear message, the right exit code, nothing lost or half-written."""

import json
import os
import shutil
import subprocess
import unittest

import numpy as np

import harness
from harness import CALIBRATION, LLAMA, QUICK


class BadInputTest(harness.TestCase):

    def setUp(self):
        super().setUp()
        self.model = self.scratch / "model"
        shutil.copytree(LLAMA, self.model)
        self.weights = self.model / "model.safetensors"
        self.out = self.scratch / "out"

    def refuse(self, *mentions, code=3, flags=(), model=None, out=None):
        """quantize must end with `code`, name what is wrong, and leave nothing."""
        out = out or self.out
        before = harness.tree_digest(out) if out.exists() else None
        result = self.bitwright("quantize", model or self.model, "-o", out, *QUICK, *flags,
                                code=code)
        for mention in mentions:
            self.assertIn(str(mention), result.stderr)
        self.assertEqual(result.stdout, "")
        self.assertEqual(before, harness.tree_digest(out) if out.exists() else None)
        self.assertEqual([p.name for p in self.scratch.iterdir() if "partial" in p.name], [])
        return result.stderr

    def rewrite_header(self, change):
        data = self.weights.read_bytes()
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8:8 + length])
        change(header)
        text = json.dumps(header).encode()
        self.weights.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length:])

    def rewrite_tensors(self, change):
        tensors, metadata = harness.read_safetensors(self.weights)
        tensors = {name: array.copy() for name, array in tensors.items()}
        change(tensors)
        harness.write_safetensors(self.weights, tensors, metadata)

    def test_truncated_shard(self):
        self.weights.write_bytes(self.weights.read_bytes()[:-1000])
        self.refuse("model.safetensors")

    def test_lying_header_length(self):
        data = self.weights.read_bytes()
        self.weights.write_bytes((1 << 40).to_bytes(8, "little") + data[8:])
        self.refuse("model.safetensors", "header")

    def test_overlapping_offsets(self):
        def overlap(header):
            names = [name for name in header if name != "__metadata__"]
            names.sort(key=lambda name: header[name]["data_offsets"])
            begin, end = header[names[1]]["data_offsets"]
            header[names[1]]["data_offsets"] = [begin - 2, end - 2]
        self.rewrite_header(overlap)
        self.refuse("model.safetensors")

    def test_wrong_shape(self):
        name = "model.layers.0.self_attn.q_proj.weight"
        self.rewrite_tensors(lambda tensors: tensors.update({name: tensors[name][:-1]}))
        self.refuse(name, "shape")

    def test_missing_tensor(self):
        name = "model.layers.1.mlp.up_proj.weight"
        self.rewrite_tensors(lambda tensors: tensors.pop(name))
        self.refuse(name)

    def test_nan_weights(self):
        name = "model.layers.1.mlp.up_proj.weight"

        def poison(tensors):
            tensors[name][3, 5] = np.nan
        self.rewrite_tensors(poison)
        self.refuse(name, "nan at [3, 5]")

    def test_missing_tokenizer(self):
        for path in self.model.glob("tokenizer*"):
            path.unlink()
        self.refuse("tokenizer")

    def test_unsupported_architecture(self):
        config = json.loads((self.model / "config.json").read_text())
        config.update(model_type="mamba", architectures=["MambaForCausalLM"])
        (self.model / "config.json").write_text(json.dumps(config))
        self.refuse("mamba", "llama")

    def test_broken_config(self):
        (self.model / "config.json").write_text("{")
        self.refuse("config.json")

    def test_bin_checkpoint(self):
        self.weights.rename(self.model / "pytorch_model.bin")
        self.refuse("safetensors", "pytorch_model.bin")

    def test_no_model(self):
        self.refuse("nowhere", model=self.scratch / "nowhere")

    def test_calibration_text_too_short(self):
        text = self.scratch / "short.txt"
        text.write_text("Too short.")
        result = self.bitwright("quantize", self.model, "-o", self.out, "--calib", text, "--seqlen",
                                "128", code=3)
        self.assertIn("calibration", result.stderr)
        self.assertFalse(self.out.exists())

    def test_calibration_file_missing(self):
        result = self.bitwright("quantize", self.model, "-o", self.out, "--calib",
                                self.scratch / "nothing.txt", code=3)
        self.assertIn("nothing.txt", result.stderr)

    def test_no_calibration(self):
        result = self.bitwright("quantize", self.model, "-o", self.out, code=3)
        self.assertIn("--calib", result.stderr)

    def test_non_empty_output(self):
        self.out.mkdir()
        (self.out / "precious.txt").write_text("keep me")
        self.refuse(self.out)

    def test_other_checkpoint_in_output(self):
        self.quantize(self.model, self.out, "--bits", "4", *QUICK)
        self.refuse(self.out, flags=["--bits", "3"])

    @unittest.skipIf(os.geteuid() == 0 and not shutil.which("setpriv"), "needs setpriv as root")
    def test_unwritable_output(self):
        locked = self.scratch / "locked"
        locked.mkdir()
        locked.chmod(0o555)
        self.scratch.chmod(0o777)
        command = [str(harness.BIN / "bitwright"), "quantize", str(self.model), "-o",
                   str(locked / "out"), "--state-dir", str(self.scratch / "state2"),
                   "--calib", str(CALIBRATION)]
        if os.geteuid() == 0:
            command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *command]
        result = subprocess.run(command, capture_output=True, text=True)
        self.assertEqual(result.returncode, 4, result.stderr)
        self.assertIn("locked", result.stderr)

    def test_output_below_a_file(self):
        (self.scratch / "file").write_text("")
        self.refuse("file", out=self.scratch / "file" / "out")

    def test_bits_out_of_range(self):
        for bits in ("0", "0.5", "9", "-1", "nan", "inf", "three"):
            self.refuse("bits", flags=["--bits", bits])
        self.refuse("bits", flags=["--method", "gptq", "--bits", "2.5"])

    def test_budget_below_side_information(self):
        self.refuse("alone take", flags=["--bits", "1", "--group-size", "4"])

    def test_seqlen_above_context(self):
        self.refuse("seqlen", flags=["--seqlen", "100000"])

    def test_unknown_server(self):
        self.refuse("127.0.0.1:1", code=11, flags=["--server", "127.0.0.1:1"])

    def test_unknown_flag_and_command(self):
        self.assertIn("--colour", self.bitwright("quantize", self.model, "-o", self.out, "--colour",
                                                 code=3).stderr)
        self.bitwright("frobnicate", code=3)

    def test_token_out_of_range(self):
        tokens = harness.random_tokens(self.scratch / "tokens.safetensors", 5000, vocab=1 << 20)
        result = self.bitwright("quantize", self.model, "-o", self.out, "--tokens", tokens,
                                "--nsamples", "8", "--seqlen", "128", code=3)
        self.assertIn("token", result.stderr)

    def test_native_checkpoint_is_no_source(self):
        native = self.scratch / "native"
        self.quantize(self.model, native, *QUICK)
        self.refuse("quantized", model=native)

    def test_verify_and_inspect_want_a_checkpoint(self):
        self.bitwright("inspect", self.model, code=3)
        self.bitwright("verify", self.scratch / "nothing", code=3)

    def small_disk(self, kib):
        """A mounted file system of that size, or a skip."""
        disk = self.scratch / "disk"
        disk.mkdir()
        mount = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kib}k", "none", str(disk)],
                               capture_output=True, text=True)
        if mount.returncode != 0:
            self.skipTest(f"cannot mount a small file system: {mount.stderr.strip()}")
        self.addCleanup(subprocess.run, ["umount", "-l", str(disk)])
        return disk

    def test_disk_full_during_save(self):
        disk = self.small_disk(200)
        message = self.refuse("No space left", code=2, out=disk / "out")
        self.assertEqual(list(disk.iterdir()), [], message)
        self.quantize(self.model, self.out, *QUICK)   # And the work is not lost.

    def test_disk_full_in_the_state_directory(self):
        disk = self.small_disk(3000)
        result = self.bitwright("quantize", self.model, "-o", self.out, *QUICK, code=2,
                                state=disk / "state")
        self.assertIn("No space left", result.stderr)
        self.assertFalse(self.out.exists())


if __name__ == "__main__":
    harness.main()
