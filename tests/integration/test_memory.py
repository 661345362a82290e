"""A worker's peak memory does not grow with the number of blocks."""

import subprocess

import harness
from harness import BIN


class MemoryTest(harness.TestCase):

    def peak_kib(self, blocks, *options, samples=16):
        """The largest resident set of any process of the run, in KiB."""
        model = harness.random_llama(self.scratch / f"model{blocks}", blocks, width=256, ffn=768)
        tokens = harness.random_tokens(self.scratch / "tokens.safetensors", 20_000)
        script = ("import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True); "
                  "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)")
        result = subprocess.run(
            ["/usr/bin/python3", "-c", script, str(BIN / "bitwright"), "quantize", str(model), "-o",
             str(self.scratch / f"out{blocks}"), "--tokens", str(tokens), "--nsamples", str(samples),
             "--seqlen", "128", *options, "--eval-tokens", str(tokens), "--state-dir",
             str(self.scratch / f"state{blocks}"), "--quiet"],
            capture_output=True, text=True, timeout=900)
        self.assertEqual(result.returncode, 0, result.stderr)
        return int(result.stdout.split()[-1])

    def test_two_and_twenty_four_blocks(self):
        few, many = self.peak_kib(2, "--bits", "3"), self.peak_kib(24, "--bits", "3")
        print(f"peak resident: 2 blocks {few / 1024:.1f} MiB, 24 blocks {many / 1024:.1f} MiB")
        # The model itself grows by 22 blocks of 1.6 MiB on disk and 3.2 MiB in float.
        self.assertLess(many, few * 1.1)

    def test_responses_and_reconstruction_of_two_and_ten_blocks(self):
        ratio = ["--method", "ratio", "--bits", "2.2", "--ratios", "0.1,0.2", "--quantizer", "hybrid",
                 "--iterations", "20"]
        few, many = (self.peak_kib(blocks, *ratio, samples=4) for blocks in (2, 10))
        print(f"peak resident: 2 blocks {few / 1024:.1f} MiB, 10 blocks {many / 1024:.1f} MiB")
        # One block's weights in float, 3.2 MiB, left behind by each of the 8 more would be 26 MiB.
        self.assertLess(many, few * 1.07)


if __name__ == "__main__":
    harness.main()
