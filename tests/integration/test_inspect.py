"""`bitwright inspect`: the equal-loss structure, and the gain against the predicted one."""

import json
import math

import harness
from harness import LLAMA, QUICK


class InspectTest(harness.TestCase):

    def inspect(self, checkpoint, *args):
        return json.loads(self.bitwright("inspect", checkpoint, "--json", *args).stdout)

    def test_baq_shows_losses_and_gain_of_every_linear(self):
        out = self.scratch / "out"
        self.quantize(LLAMA, out, "--bits", "2.5", *QUICK)
        description = self.inspect(out)
        for layer in description["layers"]:
            with self.subTest(layer=layer["name"]):
                losses, gain = layer["equal_loss"]["final"], layer["equal_loss"]["gain"]
                self.assertEqual(losses["columns"], layer["cols"])
                self.assertEqual(sum(losses["octaves"]["counts"]),
                                 losses["columns"] - losses["zero"])
                self.assertLessEqual(losses["min"], losses["quartiles"][0])
                self.assertLessEqual(losses["quartiles"][2], losses["max"])
                # A uniform pass at round(2^2.5) = 6 levels, taken to the code bits spent.
                self.assertAlmostEqual(gain["uniform_bits"], math.log2(6))
                uniform = layer["uniform_loss"] * 4 ** (gain["uniform_bits"] - layer["bits"])
                self.assertAlmostEqual(gain["achieved"], layer["loss"] / uniform, places=9)
                self.assertAlmostEqual(gain["predicted"], layer["report"]["gm_over_am"], places=9)
                self.assertLessEqual(gain["predicted"], 1)
        total = description["equal_loss"]
        self.assertEqual(total["final"]["columns"],
                         sum(layer["cols"] for layer in description["layers"]))
        self.assertLess(total["gain"]["achieved"], 1.1)
        text = self.bitwright("inspect", out).stdout
        self.assertIn("within a factor 2", text)
        self.assertIn("loss / mean", text)

    def test_one_linear(self):
        out = self.scratch / "out"
        self.quantize(LLAMA, out, "--bits", "3", "--method", "gptq", *QUICK)
        everything = self.inspect(out)["layers"]
        one = self.inspect(out, "--linear", "layers.1.mlp.down_proj")
        self.assertIn(one, everything)
        self.assertNotIn("gain", one["equal_loss"])  # One pass: nothing was allocated.
        text = self.bitwright("inspect", out, "--linear", one["name"]).stdout
        self.assertIn("column losses: min", text)
        ambiguous = self.bitwright("inspect", out, "--linear", "down_proj", code=3)
        self.assertIn("layers.0.mlp.down_proj", ambiguous.stderr)
        absent = self.bitwright("inspect", out, "--linear", "nothing", code=3)
        self.assertIn("no quantized linear", absent.stderr)


if __name__ == "__main__":
    harness.main()
