"""Published models: perplexities as an independent implementation measured them."""

import harness
from harness import SHARED

ROWS = [("stories260k", "tinystories-heldout.txt", 512, 4.31693),
        ("stories260k", "tinystories-heldout.txt", 256, 4.43900),
        ("stories260k", "wikitext-2-valid.txt", 512, 118.97198),
        ("stories260k", "tinystories-heldout-b.txt", 512, 5.27800),
        ("stories15m", "tinystories-heldout-b.txt", 256, 17.54104)]


class SharedModelsTest(harness.TestCase):

    def test_perplexities(self):
        harness.require(SHARED / "models")
        for model, text, seqlen, expected in ROWS:
            with self.subTest(model=model, text=text, seqlen=seqlen):
                result = self.evaluate(SHARED / "models" / model, SHARED / "text" / text,
                                       "--seqlen", seqlen)
                print(model, text, seqlen, result["perplexity"], "expected", expected)
                self.assertEqual(f"{result['perplexity']:.4g}", f"{expected:.4g}")

    def test_quantize_every_method_and_width(self):
        calibration = harness.require(SHARED / "text/tinystories-calibration.txt")
        for model in ("stories260k", "stories15m"):
            for method in ("rtn", "gptq", "baq"):
                for bits in (2, 3, 4):
                    with self.subTest(model=model, method=method, bits=bits):
                        result = self.quantize(
                            SHARED / "models" / model, self.scratch / f"{model}-{method}-{bits}",
                            "--method", method, "--bits", bits, "--budget", "codes", "--calib",
                            calibration, "--nsamples", "16", "--seqlen", "128")
                        self.assertLessEqual(result["bits_per_weight"]["codes"], bits)


if __name__ == "__main__":
    harness.main()
