"""A server and workers started by hand, as in production."""

import json
import os
import signal
import subprocess
import urllib.request

import harness
from harness import BIN, CALIBRATION, HELDOUT, LLAMA

JOB = ["--calib", CALIBRATION, "--nsamples", "16", "--seqlen", "256", "--bits", "3"]


class ServerTest(harness.TestCase):

    def start(self, binary, *args):
        log = open(self.scratch / f"{binary}.log", "ab")
        process = subprocess.Popen([str(BIN / binary), *map(str, args)], stdout=log, stderr=log)
        self.addCleanup(log.close)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process

    def start_server(self, *args):
        self.address = f"unix:{self.scratch}/server.sock"
        ready = self.scratch / "ready"
        ready.unlink(missing_ok=True)
        server = self.start("bitwright-server", "--listen", self.address, "--state-dir",
                            self.scratch / "server", "--model-root", harness.MODELS,
                            "--ready-file", ready, "--lease-duration", "3s", *args)
        self.assertTrue(harness.wait_until(ready.exists), "the server did not start")
        return server

    def start_worker(self, name, *args):
        return self.start("bitwright-worker", "--server", self.address, "--name", name,
                          "--cache-dir", self.scratch / name, "--threads", "1", *args)

    def cli(self, command, *args, code=0):
        return self.bitwright(command, *args, "--server", self.address, code=code)

    def job(self, name):
        return json.loads(self.cli("job", name, "--json").stdout)

    def test_submit_watch_list_and_download(self):
        self.start_server()
        self.start_worker("w0")
        self.start_worker("w1")
        name = self.cli("submit", LLAMA, *JOB, "--eval", HELDOUT).stdout.strip()
        self.assertTrue(name.startswith("jobs/"), name)
        again = self.cli("submit", LLAMA, *JOB, "--eval", HELDOUT).stdout.strip()
        self.assertEqual(name, again)
        self.cli("watch", name)
        job = self.job(name)
        self.assertEqual(job["state"], "JOB_STATE_SUCCEEDED")
        self.assertGreater(job["result"]["perplexity_after"]["perplexity"], 1)
        self.assertIn(name, self.cli("jobs").stdout)
        tasks = json.loads(self.cli("tasks", name, "--json").stdout)["tasks"]
        self.assertEqual({task["state"] for task in tasks}, {"TASK_STATE_SUCCEEDED"})
        self.assertEqual({task["worker"] for task in tasks}, {"w0", "w1"})
        workers = json.loads(self.cli("workers", "--json").stdout)["workers"]
        self.assertEqual(sum(int(w["completed_tasks"]) for w in workers), len(tasks))
        # The same job from the server and from a private service: the same bytes.
        self.cli("quantize", LLAMA, "-o", self.scratch / "a", *JOB)
        self.bitwright("quantize", LLAMA, "-o", self.scratch / "b", *JOB)
        self.assertEqual(harness.tree_digest(self.scratch / "a"),
                         harness.tree_digest(self.scratch / "b"))

    def test_cancel_retry_delete(self):
        self.start_server()
        name = self.cli("submit", LLAMA, *JOB).stdout.strip()   # No worker: it waits.
        self.cli("job", name, "--exit-status", code=8)
        self.cli("watch", name, "--timeout", "1", code=6)
        self.cli("delete", name, code=3)
        self.cli("cancel", name)
        self.assertTrue(harness.wait_until(
            lambda: self.job(name)["state"] == "JOB_STATE_CANCELLED"))
        self.cli("retry", name)
        self.start_worker("w0")
        self.cli("watch", name)
        self.cli("delete", name)
        self.cli("job", name, code=3)
        blobs = list((self.scratch / "server").rglob("blobs/**/*"))
        self.assertEqual([b for b in blobs if b.is_file()], [])

    def test_dead_worker_is_replaced(self):
        self.start_server()
        first = self.start_worker("w0")
        name = self.cli("submit", LLAMA, *JOB).stdout.strip()
        self.assertTrue(harness.wait_until(lambda: any(
            int(phase.get("running", 0)) for phase in self.job(name).get("phases", []))))
        first.send_signal(signal.SIGKILL)
        self.start_worker("w1")
        self.cli("watch", name)

    def test_paused_worker_cannot_commit_late(self):
        self.start_server()
        paused = self.start_worker("w0")
        name = self.cli("submit", LLAMA, *JOB).stdout.strip()
        self.assertTrue(harness.wait_until(lambda: any(
            int(phase.get("running", 0)) for phase in self.job(name).get("phases", []))))
        paused.send_signal(signal.SIGSTOP)
        self.start_worker("w1")
        self.cli("watch", name)
        paused.send_signal(signal.SIGCONT)
        self.assertEqual(self.job(name)["state"], "JOB_STATE_SUCCEEDED")

    def test_drain_charges_no_attempt(self):
        self.start_server()
        worker = self.start_worker("w0")
        name = self.cli("submit", LLAMA, *JOB).stdout.strip()
        self.assertTrue(harness.wait_until(lambda: any(
            int(phase.get("running", 0)) for phase in self.job(name).get("phases", []))))
        worker.send_signal(signal.SIGTERM)
        self.assertEqual(worker.wait(timeout=30), 0)
        self.start_worker("w1")
        self.cli("watch", name)
        tasks = json.loads(self.cli("tasks", name, "--json").stdout)["tasks"]
        self.assertEqual([task["errors"] for task in tasks if task.get("errors")], [])

    def test_models_outside_the_roots_are_refused(self):
        self.start_server()
        link = self.scratch / "model"
        os.symlink(LLAMA, link)
        self.cli("submit", self.scratch, *JOB, code=4)
        self.cli("submit", LLAMA, *JOB)
        self.cli("submit", f"{harness.MODELS}/../../..", *JOB, code=4)

    def test_metrics_and_second_server(self):
        self.start_server("--metrics-address", "127.0.0.1:19464")
        self.start_worker("w0", "--metrics-address", "127.0.0.1:19465")
        name = self.cli("submit", LLAMA, *JOB).stdout.strip()
        self.cli("watch", name)
        for port, metric in ((19464, "bitwright_tasks"), (19465, "bitwright_")):
            page = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
            self.assertIn(metric, page)
        second = subprocess.run(
            [str(BIN / "bitwright-server"), "--listen", f"unix:{self.scratch}/other.sock",
             "--state-dir", str(self.scratch / "server")], capture_output=True, text=True,
            timeout=30)
        self.assertEqual(second.returncode, 2, second.stderr)


if __name__ == "__main__":
    harness.main()
