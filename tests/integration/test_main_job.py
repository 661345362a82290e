"""The main job: one command quantizes a real model through the real service."""

import json
import shutil
import subprocess
import time

import harness
from harness import CALIBRATION, HELDOUT, LLAMA, OPT, QUICK


class MainJobTest(harness.TestCase):

    def test_every_method_on_both_sample_models(self):
        for model in (LLAMA, OPT):
            for method, extra in (("rtn", []), ("gptq", []), ("baq", []),
                                  ("baq", ["--variant", "reference"])):
                with self.subTest(model=model.name, method=method, extra=extra):
                    out = self.scratch / f"{model.name}-{method}{len(extra)}"
                    result = self.quantize(model, out, "--method", method, "--bits", "3",
                                           "--budget", "codes", *QUICK, *extra)
                    self.assertEqual(result["checkpoint"], str(out))
                    self.assertLessEqual(result["bits_per_weight"]["codes"], 3.0 + (
                        0.1 if extra else 1e-9))
                    self.assertGreater(result["bits_per_weight"]["codes"], 2.8)
                    self.bitwright("verify", out)

    def test_baq_beats_gptq_beats_rtn_at_two_bits(self):
        for model in (LLAMA, OPT):
            after = {}
            for method in ("rtn", "gptq", "baq"):
                result = self.quantize(
                    model, self.scratch / f"{model.name}-{method}", "--method", method, "--bits",
                    "2", "--budget", "codes", "--calib", CALIBRATION, "--nsamples", "64",
                    "--seqlen", "256", "--eval", HELDOUT)
                after[method] = result["perplexity"]["after"]
                self.assertGreater(after[method], result["perplexity"]["before"])
            print(model.name, result["perplexity"]["before"], after)
            self.assertLess(after["gptq"], after["rtn"], model.name)
            self.assertLess(after["baq"], after["gptq"], model.name)

    def test_inspect_reports_every_layer(self):
        out = self.scratch / "out"
        result = self.quantize(LLAMA, out, "--bits", "2.5", "--budget", "codes", *QUICK)
        description = json.loads(self.bitwright("inspect", out, "--json").stdout)
        self.assertEqual(description["method"], "baq")
        self.assertAlmostEqual(description["bits_per_weight"]["codes"],
                               result["bits_per_weight"]["codes"], places=9)
        config = json.loads((LLAMA / "config.json").read_text())
        self.assertEqual(len(description["layers"]), 7 * config["num_hidden_layers"])
        for layer in description["layers"]:
            self.assertGreater(layer["loss"], 0)
            self.assertLessEqual(layer["bits"], 2.5)
        self.assertIn("q_proj", self.bitwright("inspect", out).stdout)

    def test_file_budget_counts_every_byte(self):
        result = self.quantize(LLAMA, self.scratch / "out", "--bits", "3", *QUICK)
        self.assertLessEqual(result["bits_per_weight"]["file"], 3.0)
        self.assertGreater(result["bits_per_weight"]["file"], 2.995)

    def test_grids_order_and_pipelines(self):
        for number, flags in enumerate((["--group-size", "32"], ["--sym"], ["--act-order"],
                                        ["--mse-clip"], ["--pipeline", "parallel"],
                                        ["--method", "gptq", "--group-size", "64", "--sym",
                                         "--act-order"])):
            with self.subTest(flags=flags):
                out = self.scratch / str(number)
                self.quantize(LLAMA, out, "--bits", "4", "--budget", "codes", *QUICK, *flags)
                self.bitwright("verify", out)

    def test_second_job_at_other_bits_reuses_cached_tasks(self):
        for pipeline, at_least in (("sequential", 5), ("parallel", 17)):
            first = self.quantize(LLAMA, self.scratch / f"{pipeline}3", "--bits", "3", "--pipeline",
                                  pipeline, *QUICK)
            second = self.quantize(LLAMA, self.scratch / f"{pipeline}2", "--bits", "4",
                                   "--pipeline", pipeline, *QUICK)
            print(pipeline, "tasks", second["tasks"])
            self.assertEqual(first["tasks"]["total"], second["tasks"]["total"])
            self.assertGreaterEqual(second["tasks"]["cached"], at_least)

    def test_one_worker_or_three_give_the_same_bytes(self):
        flags = ["--bits", "3", *QUICK]
        self.quantize(LLAMA, self.scratch / "one", *flags, state=self.scratch / "s1")
        self.quantize(LLAMA, self.scratch / "three", *flags, "--workers", "3",
                      state=self.scratch / "s3")
        self.quantize(LLAMA, self.scratch / "threads", *flags, "--threads", "3",
                      state=self.scratch / "st")
        expected = harness.tree_digest(self.scratch / "one")
        self.assertEqual(expected, harness.tree_digest(self.scratch / "three"))
        self.assertEqual(expected, harness.tree_digest(self.scratch / "threads"))

    def test_rerun_finds_the_finished_job(self):
        out = self.scratch / "out"
        first = self.quantize(LLAMA, out, *QUICK)
        second = self.quantize(LLAMA, out, *QUICK)
        self.assertEqual(first["job"], second["job"])
        third = self.quantize(LLAMA, self.scratch / "elsewhere", *QUICK)
        self.assertEqual(first["job"], third["job"])
        self.assertEqual(harness.tree_digest(out), harness.tree_digest(self.scratch / "elsewhere"))

    def test_changed_model_is_not_served_from_the_old_job(self):
        model = self.scratch / "model"
        shutil.copytree(LLAMA, model)
        self.quantize(model, self.scratch / "before", *QUICK)
        perplexity = self.evaluate(model, HELDOUT)["perplexity"]
        tensors, metadata = harness.read_safetensors(model / "model.safetensors")
        tensors = {name: array.copy() for name, array in tensors.items()}
        tensors["model.layers.0.mlp.down_proj.weight"] *= -1
        harness.write_safetensors(model / "model.safetensors", tensors, metadata)
        self.quantize(model, self.scratch / "after", *QUICK)
        self.assertNotEqual(harness.tree_digest(self.scratch / "before"),
                            harness.tree_digest(self.scratch / "after"))
        self.assertGreater(self.evaluate(model, HELDOUT)["perplexity"], 1.1 * perplexity)

    def test_abandoned_job_does_not_hold_up_the_next(self):
        state = self.scratch / "state"
        run = subprocess.Popen(
            [str(harness.BIN / "bitwright"), "quantize", str(LLAMA), "-o",
             str(self.scratch / "abandoned"), "--calib", str(CALIBRATION), "--state-dir",
             str(state)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.assertTrue(harness.wait_until(
            lambda: harness.processes("bitwright-worker", str(state))))
        time.sleep(1)
        run.kill()
        run.wait()
        self.evaluate(LLAMA, HELDOUT, state=state)
        self.quantize(LLAMA, self.scratch / "out", *QUICK, state=state)
        # And the abandoned one goes on when it is asked for again.
        self.quantize(LLAMA, self.scratch / "abandoned", "--calib", CALIBRATION, state=state)

    def test_two_commands_with_one_output(self):
        out = self.scratch / "out"
        commands = [subprocess.Popen(
            [str(harness.BIN / "bitwright"), "quantize", str(LLAMA), "-o", str(out), "--method",
             method, "--state-dir", str(self.scratch / method), *map(str, QUICK)],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for method in ("baq", "gptq")]
        for command in commands:
            command.communicate(timeout=300)
        self.assertEqual(sorted(command.returncode for command in commands), [0, 3])
        self.bitwright("verify", out)


if __name__ == "__main__":
    harness.main()
