"""Native, dense and the stand-alone reader agree."""

import subprocess

import numpy as np

import harness
from harness import HELDOUT, LLAMA, OPT, QUICK, SOURCE


class FormatsTest(harness.TestCase):

    def assert_same_weights(self, left, right):
        a, _ = harness.read_safetensors(left / "model.safetensors")
        b, _ = harness.read_safetensors(right / "model.safetensors")
        self.assertEqual(sorted(a), sorted(b))
        for name in a:
            self.assertEqual(a[name].dtype, b[name].dtype, name)
            np.testing.assert_array_equal(a[name].view(np.uint8), b[name].view(np.uint8), name)

    def check(self, model, *flags):
        native, dense = self.scratch / "native", self.scratch / "dense"
        self.quantize(model, native, "--bits", "3", "--budget", "codes", *QUICK, *flags)
        self.bitwright("export", native, "--format", "dense", "-o", dense)
        reader = self.scratch / "reader"
        subprocess.run(["/usr/bin/python3", str(SOURCE / "deploy/bitwright_reader.py"),
                        str(native), str(reader)], check=True)
        self.assert_same_weights(dense, reader)
        direct = self.scratch / "direct"
        self.quantize(model, direct, "--bits", "3", "--budget", "codes", "--format", "dense",
                      *QUICK, *flags)
        self.assert_same_weights(dense, direct)
        self.bitwright("verify", direct)
        a = self.evaluate(native, HELDOUT, "--seqlen", "256")["perplexity"]
        b = self.evaluate(dense, HELDOUT, "--seqlen", "256")["perplexity"]
        print(model.name, "native", a, "dense", b)
        return a, b

    def test_llama(self):
        a, b = self.check(LLAMA)
        self.assertLess(abs(a / b - 1), 1e-5)

    def test_opt_grouped(self):
        a, b = self.check(OPT, "--group-size", "32")
        self.assertLess(abs(a / b - 1), 1e-5)

    def test_verify_finds_a_flipped_byte(self):
        native = self.scratch / "native"
        self.quantize(LLAMA, native, *QUICK)
        weights = native / "model.safetensors"
        data = bytearray(weights.read_bytes())
        data[len(data) // 2] ^= 1
        weights.write_bytes(data)
        result = self.bitwright("verify", native, code=3)
        self.assertIn("model.safetensors", result.stderr)


if __name__ == "__main__":
    harness.main()
