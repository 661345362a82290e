"""kill -9 of every process at random moments: the checkpoint is byte-identical
to an undisturbed one."""

import contextlib
import fcntl
import os
import random
import shutil
import signal
import subprocess
import time

import harness
from harness import BIN, LLAMA

ROUNDS = int(os.environ.get("BITWRIGHT_CHAOS_ROUNDS", "5"))
SEED = int(os.environ.get("BITWRIGHT_CHAOS_SEED", str(random.randrange(1 << 30))))
FLAGS = ["--bits", "3", "--calib", harness.CALIBRATION, "--nsamples", "32", "--seqlen", "256"]


class ChaosTest(harness.TestCase):

    @classmethod
    def setUpClass(cls):
        print("BITWRIGHT_CHAOS_SEED =", SEED)
        cls.random = random.Random(SEED)

    def command(self, out, state):
        return [str(part) for part in (BIN / "bitwright", "quantize", LLAMA, "-o", out,
                                       "--state-dir", state, *FLAGS)]

    def undisturbed(self):
        out = self.scratch / "undisturbed"
        start = time.monotonic()
        subprocess.run(self.command(out, self.scratch / "calm"), check=True,
                       capture_output=True)
        return harness.tree_digest(out), time.monotonic() - start

    def disturb(self, victim):
        expected, seconds = self.undisturbed()
        for attempt in range(ROUNDS):
            state, out = self.scratch / f"state{attempt}", self.scratch / f"out{attempt}"
            moment = self.random.uniform(0.05, 0.95) * seconds
            with self.subTest(victim=victim, moment=moment, seed=SEED):
                run = subprocess.Popen(self.command(out, state), stdout=subprocess.PIPE,
                                       stderr=subprocess.STDOUT, text=True)
                time.sleep(moment)
                if victim == "bitwright":
                    run.send_signal(signal.SIGKILL)
                    killed = 1
                else:
                    killed = harness.kill_all(victim, str(state))
                output, _ = run.communicate(timeout=300)
                print(f"{victim} killed {killed} at {moment:.2f} s of {seconds:.2f} s: "
                      f"exit code {run.returncode}")
                rerun = subprocess.run(self.command(out, state), capture_output=True, text=True,
                                       timeout=300)
                self.assertEqual(rerun.returncode, 0, output + rerun.stdout + rerun.stderr)
                self.assertEqual(expected, harness.tree_digest(out))
                leftovers = [path.name for path in self.scratch.iterdir() if "partial" in path.name]
                self.assertEqual(leftovers, [])

    def test_worker(self):
        self.disturb("bitwright-worker")

    def test_server(self):
        self.disturb("bitwright-server")

    def test_client(self):
        self.disturb("bitwright")

    def test_model_changed_under_a_job_and_put_back(self):
        expected, seconds = self.undisturbed()
        model = self.scratch / "model"
        shutil.copytree(LLAMA, model)
        state, out = self.scratch / "state", self.scratch / "out"
        command = [str(model) if part == str(LLAMA) else part for part in self.command(out, state)]
        weights = (model / "model.safetensors").read_bytes()
        run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(seconds / 2)
        run.kill()
        run.wait()
        damaged = bytearray(weights)
        damaged[-100_000:] = bytes(100_000)
        (model / "model.safetensors").write_bytes(damaged)
        subprocess.run(command, capture_output=True, timeout=300)
        shutil.rmtree(out, ignore_errors=True)
        (model / "model.safetensors").write_bytes(weights)
        subprocess.run(command, capture_output=True, check=True, timeout=300)
        self.assertEqual(expected, harness.tree_digest(out))

    def test_children_end_with_the_client(self):
        state = self.scratch / "state"
        run = subprocess.Popen(self.command(self.scratch / "out", state),
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.assertTrue(harness.wait_until(
            lambda: harness.processes("bitwright-worker", str(state))))
        run.kill()
        run.wait()
        for name in ("bitwright-worker", "bitwright-server"):
            self.assertTrue(harness.wait_until(lambda: not harness.processes(name, str(state))),
                            name)

    @contextlib.contextmanager
    def run_with_waiting_worker(self, state, out):
        """A command whose worker waits for its cache, locked as by one of a killed client."""
        cache, log = state / "cache" / "worker-0", state / "logs" / "worker-0.log"
        cache.mkdir(parents=True)
        with open(cache / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            run = subprocess.Popen(self.command(out, state), stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, text=True)
            self.assertTrue(harness.wait_until(
                lambda: log.exists() and "waiting" in log.read_text()))
            yield run

    def test_worker_waits_for_one_that_is_leaving(self):
        out = self.scratch / "out"
        with self.run_with_waiting_worker(self.scratch / "state", out) as run:
            time.sleep(1)
            self.assertIsNone(run.poll())
        _, errors = run.communicate(timeout=300)
        self.assertEqual(run.returncode, 0, errors)
        self.bitwright("verify", out)

    def test_worker_that_waits_can_be_stopped(self):
        with self.run_with_waiting_worker(self.scratch / "state", self.scratch / "out") as run:
            start = time.monotonic()
            run.send_signal(signal.SIGINT)
            _, errors = run.communicate(timeout=60)
            self.assertEqual(run.returncode, 130, errors)
            self.assertLess(time.monotonic() - start, 6)  # Else it was killed after 8.

    def test_interrupt_says_how_to_continue(self):
        state, out = self.scratch / "state", self.scratch / "out"
        run = subprocess.Popen(self.command(out, state), stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
        harness.wait_until(lambda: harness.processes("bitwright-worker", str(state)))
        run.send_signal(signal.SIGINT)
        _, errors = run.communicate(timeout=60)
        self.assertEqual(run.returncode, 130, errors)
        self.assertFalse(out.exists())
        self.assertFalse(harness.processes("bitwright-server", str(state)))
        subprocess.run(self.command(out, state), check=True, capture_output=True)
        self.bitwright("verify", out)


if __name__ == "__main__":
    harness.main()
