"""One budget over the whole model, and plans: through the real binaries."""

import json
import pathlib
import subprocess
import time

import harness
from harness import BIN, CALIBRATION, LLAMA, OPT, QUICK

# What runs over the text, forwards and backwards, and what is measured of it.
CALIBRATING = ("prepare", "forward", "measure", "gradient")


class Server:
    """A server with workers of its own, so that tasks can be asked for."""

    def __init__(self, test, workers=1, name="service", flags=()):
        self.state = test.scratch / name
        self.state.mkdir()
        self.address = f"unix:{self.state}/socket"
        self.processes = [subprocess.Popen(
            [str(BIN / "bitwright-server"), "--listen", self.address, "--state-dir",
             str(self.state / "server"), "--model-root", str(harness.MODELS),
             "--model-root", str(test.scratch), *flags],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)]
        test.addCleanup(self.stop)
        for number in range(workers):
            self.start_worker(f"w{number}")

    def start_worker(self, name):
        with open(self.state / f"{name}.log", "wb") as log:
            self.processes.append(subprocess.Popen(
                [str(BIN / "bitwright-worker"), "--server", self.address, "--name", name,
                 "--cache-dir", str(self.state / name), "--threads", "1"],
                stdout=log, stderr=log))
        return self.processes[-1]

    def stop(self):
        for process in self.processes:
            process.kill()
            process.wait()


class ModelScopeTest(harness.TestCase):

    def phases(self, job, *server):
        """{kind: (total, cached)} of a job."""
        found = json.loads(self.bitwright("job", job, "--json", *server).stdout)
        return {phase["kind"].removeprefix("TASK_KIND_").lower(): (phase["total"], phase["cached"])
                for phase in found["phases"]}

    def assert_calibration_cached(self, phases):
        for kind in CALIBRATING:
            self.assertEqual(*phases[kind], kind)

    def lineage(self, out):
        return json.loads((pathlib.Path(out) / "bitwright.json").read_text())

    def test_budget_is_met_over_the_whole_model_in_both_accountings(self):
        for model in (LLAMA, OPT):
            for budget, key in (("file", "file"), ("codes", "codes")):
                for pipeline in ("sequential", "parallel"):
                    with self.subTest(model=model.name, budget=budget, pipeline=pipeline):
                        out = self.scratch / f"{model.name}-{budget}-{pipeline}"
                        result = self.quantize(model, out, "--scope", "model", "--bits", "2.5",
                                               "--budget", budget, "--pipeline", pipeline, *QUICK)
                        self.assertLessEqual(result["bits_per_weight"][key], 2.5)
                        self.assertGreater(result["bits_per_weight"][key], 2.495)
                        self.assertGreater(result["predicted"]["nll_rise"], 0)
                        self.bitwright("verify", out)
                        lineage = self.lineage(out)
                        self.assertEqual(lineage["spec"]["method"]["scope"], "SCOPE_MODEL")
                        asked = {layer["name"]: layer["report"]["asked_bits"]
                                 for layer in lineage["layers"]}
                        # Not the same for all, which is the point.
                        self.assertGreater(max(asked.values()) - min(asked.values()), 0.3)
                        for layer in lineage["layers"]:
                            self.assertEqual(layer["report"]["scope"], "model")
                            self.assertLessEqual(layer["report"]["code_bits"],
                                                 layer["report"]["asked_bits"])

    def test_modules_get_whole_bits_and_share_them(self):
        for method in ("gptq", "baq"):
            out = self.scratch / method
            result = self.quantize(LLAMA, out, "--method", method, "--scope", "model",
                                   "--granularity", "module", "--bits", "3.3", "--budget", "codes",
                                   *QUICK)
            self.assertLessEqual(result["bits_per_weight"]["codes"], 3.3)
            self.assertGreater(result["bits_per_weight"]["codes"], 3.1)
            bits = {layer["name"]: layer["report"]["asked_bits"]
                    for layer in self.lineage(out)["layers"]}
            self.assertTrue(set(bits.values()) <= set(range(2, 9)), bits)
            self.assertGreater(len(set(bits.values())), 1)
            for name, value in bits.items():
                for own, other in (("k_proj", "q_proj"), ("v_proj", "q_proj"),
                                   ("up_proj", "gate_proj")):
                    if name.endswith(own):
                        self.assertEqual(value, bits[name.replace(own, other)], name)

    def test_second_budget_runs_no_pass_over_the_text(self):
        server = Server(self)
        at = ("--server", server.address)
        for pipeline, one, other in (("parallel", "3", "2.5"), ("sequential", "2.75", "2.25")):
            first, second = (
                self.quantize(LLAMA, self.scratch / f"{pipeline}{bits}", "--scope", "model",
                              "--pipeline", pipeline, "--bits", bits, *QUICK, *at)
                for bits in (one, other))
            phases = self.phases(second["job"], *at)
            print(pipeline, phases)
            self.assertNotEqual(first["job"], second["job"])
            self.assertEqual(phases["allocate"], (1, 0))
            if pipeline == "parallel":
                self.assert_calibration_cached(phases)
                continue
            for kind in ("prepare", "measure", "gradient"):
                self.assertEqual(*phases[kind], kind)
            # Of the forward passes only the later blocks' behind the quantized prefix.
            blocks = json.loads((LLAMA / "config.json").read_text())["num_hidden_layers"]
            shards = phases["gradient"][0] // blocks
            self.assertEqual(phases["forward"],
                             ((2 * blocks - 1) * shards, blocks * shards))

    def test_plan_predicts_and_a_later_job_reuses_its_calibration(self):
        server = Server(self)
        at = ("--server", server.address)
        command = ("plan", LLAMA, "--scope", "model", "--bits", "2..3", "--step", "0.5", *QUICK,
                   "--json", *at)
        plan = json.loads(self.bitwright(*command).stdout)
        self.assertEqual([point["bits"] for point in plan["points"]], [2, 2.5, 3])
        for point in plan["points"]:
            self.assertAlmostEqual(point["file_bits"], point["bits"], places=5)
            self.assertLess(point["code_bits"], point["file_bits"])
            self.assertGreater(point["perplexity"], point["calibration_perplexity"])
        rises = [point["nll_rise"] for point in plan["points"]]
        self.assertEqual(rises, sorted(rises, reverse=True))
        self.assertNotIn("quantize", self.phases(plan["job"], *at))

        again = json.loads(self.bitwright(*command).stdout)
        self.assertEqual((again["job"], again["points"]), (plan["job"], plan["points"]))
        finer = json.loads(self.bitwright("plan", LLAMA, "--scope", "model", "--bits",
                                          "2,2.25,2.5", *QUICK, "--json", *at).stdout)
        phases = self.phases(finer["job"], *at)
        self.assert_calibration_cached(phases)
        self.assertEqual(phases["allocate"], (3, 2))

        quantized = self.quantize(LLAMA, self.scratch / "out", "--scope", "model", "--bits", "2.5",
                                  "--pipeline", "parallel", *QUICK, *at)
        phases = self.phases(quantized["job"], *at)
        self.assert_calibration_cached(phases)
        self.assertEqual(phases["allocate"], (1, 1))
        self.assertEqual(quantized["predicted"], plan["points"][1])
        self.assertLess(abs(quantized["bits_per_weight"]["codes"] -
                            plan["points"][1]["code_bits"]), 0.02)

    def test_plan_for_layers_and_for_gptq(self):
        layer = json.loads(self.bitwright("plan", LLAMA, "--bits", "2..4", "--step", "1", *QUICK,
                                          "--json").stdout)["points"]
        model = json.loads(self.bitwright("plan", LLAMA, "--bits", "2..4", "--step", "1", "--scope",
                                          "model", *QUICK, "--json").stdout)["points"]
        gptq = json.loads(self.bitwright("plan", LLAMA, "--bits", "2..4", "--step", "1", "--method",
                                         "gptq", "--budget", "codes", *QUICK,
                                         "--json").stdout)["points"]
        for one, two, three in zip(layer, model, gptq):
            self.assertLess(two["nll_rise"], one["nll_rise"])
            self.assertAlmostEqual(three["code_bits"], three["bits"])
        text = self.bitwright("plan", LLAMA, "--bits", "2..4", "--step", "1", *QUICK).stdout
        self.assertIn("second order", text)
        self.assertEqual(len([line for line in text.splitlines() if line.startswith("   ")]), 3)

    def test_worker_count_does_not_change_a_byte(self):
        flags = ["--scope", "model", "--bits", "2.5", *QUICK]
        digests = []
        for workers in ("1", "3"):
            out = self.scratch / workers
            self.quantize(LLAMA, out, *flags, "--workers", workers, state=self.scratch / f"s{workers}")
            digests.append(harness.tree_digest(out))
        self.assertEqual(*digests)

    def test_killed_worker_in_the_middle(self):
        flags = ["--scope", "model", "--bits", "2.5", "--calib", str(CALIBRATION), "--nsamples",
                 "32", "--seqlen", "256"]
        self.quantize(LLAMA, self.scratch / "calm", *flags, state=self.scratch / "undisturbed")
        state = self.scratch / "disturbed"
        run = subprocess.Popen(
            [str(BIN / "bitwright"), "quantize", str(LLAMA), "-o", str(self.scratch / "out"),
             "--state-dir", str(state), *flags], stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True)
        self.assertTrue(harness.wait_until(
            lambda: harness.processes("bitwright-worker", str(state))))
        killed = 0
        for _ in range(3):
            time.sleep(1.5)
            killed += harness.kill_all("bitwright-worker", str(state))
        _, errors = run.communicate(timeout=300)
        self.assertGreater(killed, 0)
        self.assertEqual(run.returncode, 0, errors)
        self.assertEqual(harness.tree_digest(self.scratch / "calm"),
                         harness.tree_digest(self.scratch / "out"))

    def test_what_cannot_be_is_said_clearly(self):
        for flags, message in (
                (["--scope", "model", "--method", "rtn", "--bits", "3"], "--scope model needs"),
                (["--scope", "model", "--variant", "reference"], "--variant exact"),
                (["--granularity", "module"], "--scope model"),
                (["--scope", "model", "--method", "gptq", "--granularity", "column"],
                 "--granularity")):
            result = self.bitwright("quantize", LLAMA, "-o", self.scratch / "out", *QUICK, *flags,
                                    code=3)
            self.assertIn(message, result.stderr)
        result = self.bitwright("quantize", LLAMA, "-o", self.scratch / "out", *QUICK, "--scope",
                                "model", "--bits", "1.2", "--group-size", "8", code=3)
        self.assertIn("smallest possible is", result.stderr)
        result = self.bitwright("plan", LLAMA, *QUICK, "--bits", "4..2", code=3)
        self.assertIn("not a range", result.stderr)

    def test_scope_from_the_environment_and_the_config_file(self):
        config = self.scratch / "config.toml"
        config.write_text('[quantize]\nscope = "model"\ngranularity = "module"\n')
        out = self.scratch / "out"
        self.quantize(LLAMA, out, "--bits", "3", *QUICK,
                      env={"BITWRIGHT_CONFIG": str(config), "BITWRIGHT_GRANULARITY": "column"})
        method = self.lineage(out)["spec"]["method"]
        self.assertEqual((method["scope"], method["granularity"]),
                         ("SCOPE_MODEL", "GRANULARITY_COLUMN"))


if __name__ == "__main__":
    harness.main()
