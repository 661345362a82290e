"""The layer-wise ratio method, end to end, through the real binaries."""

import json
import signal
import subprocess
import time

import harness
from harness import BIN, CALIBRATION, HELDOUT, LLAMA, OPT, QUICK, tree_digest
from test_model_scope import Server

# What runs over the text, and what is measured of the output.
MEASURING = ("prepare", "forward", "gradient", "response")
HYBRID = ["--method", "ratio", "--bits", "2.2", "--iterations"]
RATIO = ["--method", "ratio", "--bits", "2.2", "--quantizer", "gptq"]


class RatioTest(harness.TestCase):

    def small(self):
        """A model and a calibration of a few seconds a job."""
        model = harness.random_llama(self.scratch / "model", blocks=3)
        tokens = harness.random_tokens(self.scratch / "tokens.safetensors", 8 * 64)
        return [model, "--tokens", tokens, "--nsamples", "8", "--seqlen", "64"]

    def phases(self, job, *server):
        """{kind: (total, cached)} of a job."""
        found = json.loads(self.bitwright("job", job, "--json", *server).stdout)
        return {phase["kind"].removeprefix("TASK_KIND_").lower(): (phase["total"], phase["cached"])
                for phase in found["phases"]}

    def layers(self, out):
        return json.loads(self.bitwright("inspect", out, "--json").stdout)["layers"]

    def test_budget_is_met_and_the_rows_are_those_of_the_report(self):
        for model in (LLAMA, OPT):
            out = self.scratch / model.name
            result = self.quantize(model, out, *QUICK, *RATIO)
            self.assertLessEqual(result["bits_per_weight"]["codes"], 2.2)
            self.assertGreater(result["bits_per_weight"]["codes"], 2.1)
            self.assertGreater(result["ratio"]["objective"], 0)
            self.bitwright("verify", out)
            shares = set()
            for layer in self.layers(out):
                report = layer["report"]
                bits = {int(b): n for b, n in report["row_bits_histogram"].items()}
                self.assertEqual(set(bits), {2, 3}, layer["name"])
                self.assertEqual(bits[3], report["ratio"]["high_rows"])
                rows = bits[2] + bits[3]
                self.assertEqual(bits[3], round(report["ratio"]["share"] * rows))
                shares.add(report["ratio"]["share"])
            self.assertGreater(len(shares), 1, "every linear has one ratio")
            self.assertIn("%", self.bitwright("inspect", out).stdout)

    def test_dense_and_native_are_the_same_model(self):
        out, dense = self.scratch / "native", self.scratch / "dense"
        self.quantize(LLAMA, out, *QUICK, "--method", "ratio", "--quantizer", "gptq",
                      "--group-size", "32", "--bits-high", "16", "--bits", "2.9")
        self.bitwright("verify", out)
        self.bitwright("export", out, "--format", "dense", "-o", dense)
        text = [HELDOUT, "--seqlen", "128"]
        self.assertEqual(self.evaluate(out, *text)["perplexity"],
                         self.evaluate(dense, *text)["perplexity"])

    def test_another_budget_solves_again_without_a_forward_pass(self):
        server = Server(self)
        at = ["--server", server.address]
        parallel = [*self.small(), "--method", "ratio", "--quantizer", "gptq", "--pipeline",
                    "parallel", *at]
        first = self.quantize(parallel[0], self.scratch / "a", *parallel[1:], "--bits", "2.2")
        other = self.quantize(parallel[0], self.scratch / "b", *parallel[1:], "--bits", "2.12")
        self.assertNotEqual(first["ratio"]["bits"], other["ratio"]["bits"])
        phases = self.phases(other["job"], *at)
        for kind in MEASURING:
            self.assertEqual(*phases[kind], kind)
        self.assertEqual(phases["solve"], (1, 0))

    def test_three_workers_make_what_one_makes(self):
        model, *text = self.small()
        outs = {}
        for workers in (1, 3):
            server = Server(self, workers, f"of{workers}")
            for name, options in (("gptq", RATIO), ("hybrid", [*HYBRID, "60"])):
                out = self.scratch / f"{name}-of{workers}"
                self.quantize(model, out, *text, *options, "--server", server.address)
                outs.setdefault(name, []).append(tree_digest(out))
            server.stop()
        for name, digests in outs.items():
            self.assertEqual(*digests, name)
        self.assertNotEqual(outs["gptq"], outs["hybrid"])

    def test_the_hybrid_quantizer_loses_less(self):
        for model, group in ((LLAMA, "0"), (OPT, "32")):
            rows = {}
            for name, options in (("gptq", RATIO), ("hybrid", [*HYBRID, "400", "--batch", "2"])):
                out = self.scratch / f"{name}-{group}"
                rows[name] = self.quantize(model, out, *QUICK, *options, "--group-size", group,
                                           "--eval", HELDOUT)
                self.bitwright("verify", out)
            self.assertEqual(rows["gptq"]["bits_per_weight"], rows["hybrid"]["bits_per_weight"])
            self.assertLess(rows["hybrid"]["perplexity"]["after"], rows["gptq"]["perplexity"]["after"])
            # Native and dense are one model.
            dense = self.scratch / f"dense-{group}"
            self.bitwright("export", out, "--format", "dense", "-o", dense)
            self.assertEqual(self.evaluate(dense, HELDOUT, "--seqlen", "128")["perplexity"],
                             rows["hybrid"]["perplexity"]["after"])
            for layer in self.layers(out):
                learned = layer["report"]["reconstruction"]
                self.assertLess(learned["loss"], learned["first_loss"])
                self.assertGreater(layer["report"]["loss"], 0)

    def test_an_interrupted_reconstruction_goes_on_at_its_block(self):
        server = Server(self)
        at = ["--server", server.address]
        model, *text = self.small()
        hybrid = [*HYBRID, "60"]
        want = self.scratch / "want"
        self.quantize(model, want, *text, *hybrid)
        client = subprocess.Popen(
            [str(BIN / "bitwright"), "quantize", str(model), "-o", str(self.scratch / "out"),
             "--json", *map(str, text), *hybrid, *at],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        job = self.wait_for_phase("RECONSTRUCT", at, client, done=1)
        worker = server.processes[1]
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        done, total = self.reconstructed(job, at)
        self.assertIn(done, range(1, total))
        server.start_worker("after")
        output, errors = client.communicate(timeout=300)
        self.assertEqual(client.returncode, 0, errors)
        # No finished block was learned again.
        log = (server.state / "after.log").read_text()
        again = [line for line in log.splitlines()
                 if "/tasks/reconstruct-" in line and " starts" in line]
        self.assertEqual(len(again), total - done, log)
        self.assertEqual(tree_digest(want), tree_digest(self.scratch / "out"))

    def test_a_running_reconstruction_shows_its_loss_and_can_be_cancelled(self):
        server = Server(self, flags=["--lease-duration", "1s"])
        at = ["--server", server.address]
        model, *text = self.small()
        job = self.bitwright("submit", model, *text, *HYBRID, "1000000", "--patience", "0",
                             *at).stdout.strip()

        def found(*command):
            return json.loads(self.bitwright(*command, job, "--json", *at).stdout)

        def note():
            return next((task["note"] for task in found("tasks")["tasks"]
                         if "loss" in task.get("note", "")), None)

        self.assertTrue(harness.wait_until(note, 120))
        self.assertRegex(note(), r"^block 0, iteration \d+ of 1000000, loss [\d.e-]+$")
        self.assertTrue(any("loss" in phase.get("note", "") for phase in found("job")["phases"]))
        self.assertIn("%, block 0, iteration", self.bitwright("tasks", job, *at).stdout)
        self.bitwright("cancel", job, *at)
        self.assertTrue(harness.wait_until(
            lambda: found("job")["state"] == "JOB_STATE_CANCELLED", 120))

    def reconstructed(self, job, at):
        found = json.loads(self.bitwright("job", job, "--json", *at).stdout)
        return next((phase.get("done", 0), phase["total"]) for phase in found["phases"]
                    if phase["kind"] == "TASK_KIND_RECONSTRUCT")

    def test_a_worker_killed_in_each_phase_changes_nothing(self):
        model, *text = self.small()
        want = self.scratch / "want"
        self.quantize(model, want, *text, *RATIO)
        for kind in ("FORWARD", "GRADIENT", "RESPONSE", "SOLVE", "QUANTIZE"):
            with self.subTest(kind):
                out = self.scratch / kind
                server = Server(self, 2, f"service-{kind}")
                at = ["--server", server.address]
                client = subprocess.Popen(
                    [str(BIN / "bitwright"), "quantize", str(model), "-o", str(out), "--json",
                     *map(str, text), *RATIO, *at],
                    stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
                self.wait_for_phase(kind, at, client)
                victim = server.processes[1]
                victim.send_signal(signal.SIGKILL)
                victim.wait()
                server.start_worker("after")
                output, errors = client.communicate(timeout=300)
                self.assertEqual(client.returncode, 0, errors)
                self.assertEqual(tree_digest(want), tree_digest(out))
                server.stop()

    def wait_for_phase(self, kind, at, client, done=0):
        """The job, once a task of the kind runs, or that many have run."""
        until = time.monotonic() + 120
        while time.monotonic() < until and client.poll() is None:
            jobs = json.loads(self.bitwright("jobs", "--json", *at).stdout)
            for job in jobs["jobs"] if isinstance(jobs, dict) else jobs:
                found = json.loads(self.bitwright("job", job["name"], "--json", *at).stdout)
                for phase in found.get("phases", []):
                    if phase["kind"] == f"TASK_KIND_{kind}" and phase.get("done", 0) >= done and (
                            phase.get("running", 0) or phase.get("done", 0)):
                        return job["name"]
            time.sleep(0.02)

    def test_bad_options_are_refused_and_nothing_is_written(self):
        for options, word in (
                (["--bits", "2.2", "--bits-normal", "3", "--bits-high", "3"], "bits_high"),
                (["--bits", "2.2", "--ratios", "0.2,0.1"], "ratios"),
                (["--bits", "2.2", "--ratios", "0,0.1"], "ratios"),
                (["--bits", "2.2", "--ratios", "0.1,1"], "ratios"),
                (["--bits", "2.2", "--estimate", "paper", "--interactions", "all"],
                 "interactions"),
                (["--bits", "2.2", "--iterations", "0"], "iterations 0"),
                (["--bits", "2.2", "--quantizer", "gptq", "--iterations", "9"],
                 "quantizer hybrid"),
                (["--bits", "2.2", "--clip-lr", "0"], "clip_rate is 0"),
                (["--bits", "2.2", "--edge-gradient", "2"], "edge_gradient is 2"),
                (["--bits", "2.2", "--act-order"], "act_order"),
                (["--bits", "2.2", "--damping", "0.1"], "damping"),
                (["--bits", "2.0001"], "between 2.02562 and 2.20484"),
                (["--bits", "3.5"], "between 2.02562 and 2.20484")):
            out = self.scratch / "out"
            result = self.bitwright("quantize", LLAMA, "-o", out, *QUICK, "--method", "ratio",
                                    *options, code=3)
            self.assertIn(word, result.stderr.replace("-", "_"), options)
            self.assertFalse(out.exists())

    def test_the_papers_estimate(self):
        model, *text = self.small()
        out = self.scratch / "out"
        result = self.quantize(model, out, *text, *RATIO, "--estimate", "paper", "--ratios", "0.05,0.2")
        self.assertLessEqual(result["bits_per_weight"]["codes"], 2.2)
        self.assertTrue(result["ratio"]["optimal"])  # Blocks only: exact.
        self.bitwright("verify", out)


if __name__ == "__main__":
    harness.main()
