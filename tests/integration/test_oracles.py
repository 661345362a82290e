"""One layer against the public code's results in float64."""

import json
import subprocess

import numpy as np

import harness
from harness import BIN, SHARED


def loss(weight, dequantized, hessian):
    error = weight.astype(np.float64) - dequantized
    return float(np.sum((error @ hessian.astype(np.float64)) * error))


class OraclesTest(harness.TestCase):

    def oracles(self):
        return sorted(harness.require(SHARED / "oracles").glob("*.safetensors"))

    def quantize_layer(self, source, *flags):
        out = self.scratch / "out.safetensors"
        result = subprocess.run(
            [str(BIN / "bitwright-worker"), "quantize-layer", str(source), "-o", str(out),
             "--json", *map(str, flags)], capture_output=True, text=True)
        self.assertEqual(result.returncode, 0, result.stderr)
        tensors, _ = harness.read_safetensors(out)
        return tensors, json.loads(result.stdout)

    def test_gptq_agrees(self):
        for path in self.oracles():
            oracle, metadata = harness.read_safetensors(path)
            ours, report = self.quantize_layer(path, "--method", "gptq", "--bits",
                                               metadata["bits"])
            expected = oracle["dequantized_uniform"]
            same = np.mean(np.abs(ours["dequantized"] - expected)
                           <= 1e-5 * np.abs(oracle["weight"]).max())
            ratio = report["loss"] / float(metadata["loss_uniform"])
            print(f"{path.name}: gptq same {100 * same:.4f} %, loss ratio {ratio:.6f}")
            self.assertGreaterEqual(same, 0.999)
            self.assertLess(abs(ratio - 1), 1e-3)
            self.assertAlmostEqual(
                loss(oracle["weight"], ours["dequantized"], oracle["hessian"]) / report["loss"],
                1, places=4)

    def test_baq_reference_agrees(self):
        for path in self.oracles():
            oracle, metadata = harness.read_safetensors(path)
            ours, report = self.quantize_layer(path, "--method", "baq", "--variant", "reference",
                                               "--bits", metadata["bits"])
            difference = np.abs(ours["levels"].astype(int) - oracle["levels"].astype(int))
            same = np.mean(difference == 0)
            ratio = report["loss"] / float(metadata["loss_baq"])
            print(f"{path.name}: baq levels same {100 * same:.3f} %, loss ratio {ratio:.6f}")
            self.assertGreaterEqual(same, 0.995)
            self.assertLessEqual(difference.max(), 1)
            self.assertLess(abs(ratio - 1), 5e-3)

    def test_exact_is_no_worse_at_no_more_bits(self):
        for path in self.oracles():
            _, metadata = harness.read_safetensors(path)
            _, report = self.quantize_layer(path, "--method", "baq", "--variant", "exact",
                                            "--budget", "codes", "--bits", metadata["mean_bits"])
            ratio = report["loss"] / float(metadata["loss_baq"])
            print(f"{path.name}: exact loss / reference loss {ratio:.4f}, code bits "
                  f"{report['bits_per_weight']['codes']:.5f} of {metadata['mean_bits']}")
            self.assertLessEqual(ratio, 1)
            self.assertLessEqual(report["bits_per_weight"]["codes"], float(metadata["mean_bits"]))

    def test_output_over_the_input_is_refused(self):
        path = self.scratch / "layer.safetensors"
        harness.write_safetensors(path, {"weight": np.ones((4, 4), np.float32),
                                         "hessian": np.eye(4, dtype=np.float32)})
        before = path.read_bytes()
        result = subprocess.run(
            [str(BIN / "bitwright-worker"), "quantize-layer", str(path), "-o", str(path),
             "--method", "gptq", "--bits", "2"], capture_output=True, text=True)
        self.assertEqual(result.returncode, 3, result.stderr)
        self.assertEqual(path.read_bytes(), before)


if __name__ == "__main__":
    harness.main()
