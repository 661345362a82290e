"""A worker's peak memory does not grow with the number of blocks."""

import subprocess

import harness
from harness import BIN


class MemoryTest(harness.TestCase):

    def peak_kib(self, blocks):
        """The largest resident set of any process of the run, in KiB."""
        model = harness.random_llama(self.scratch / f"model{blocks}", blocks, width=256, ffn=768)
        tokens = harness.random_tokens(self.scratch / "tokens.safetensors", 20_000)
        script = ("import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True); "
                  "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)")
        result = subprocess.run(
            ["/usr/bin/python3", "-c", script, str(BIN / "bitwright"), "quantize", str(model), "-o",
             str(self.scratch / f"out{blocks}"), "--tokens", str(tokens), "--nsamples", "16",
             "--seqlen", "128", "--bits", "3", "--eval-tokens", str(tokens), "--state-dir",
             str(self.scratch / f"state{blocks}"), "--quiet"],
            capture_output=True, text=True, timeout=900)
        self.assertEqual(result.returncode, 0, result.stderr)
        return int(result.stdout.split()[-1])

    def test_two_and_twenty_four_blocks(self):
        few, many = self.peak_kib(2), self.peak_kib(24)
        print(f"peak resident: 2 blocks {few / 1024:.1f} MiB, 24 blocks {many / 1024:.1f} MiB")
        # The model itself grows by 22 blocks of 1.6 MiB on disk and 3.2 MiB in float.
        self.assertLess(many, few * 1.1)


if __name__ == "__main__":
    harness.main()
