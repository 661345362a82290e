#!/usr/bin/env python3
"""Held-out perplexity of every method at every width, through the real service.

    tests/bench/perplexity_table.py                     # --bits counts bytes of the file
    tests/bench/perplexity_table.py --budget codes      # the papers' accounting

For the sample models and every model in $BITWRIGHT_SHARED_DIR/models: rtn, gptq, baq
reference, baq exact and baq --scope model at 2, 2.25, 2.5, 3 and 4 bits; and, because
gptq and the published rule end at bits of their own, baq exact and model scope once more
at exactly the bits that each of those took. One server and one worker serve the whole
table. Every finished cell is kept in WORKDIR/cells.json, under what it was made with and the
digest of the binaries: stop it at any time and run the same command again to go on. Writes PERPLEXITY.md (PERPLEXITY-codes.md with --budget codes) and
the same as JSON into --output. Needs nothing beyond the standard library.
"""

import argparse
import contextlib
import hashlib
import json
import math
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import tempfile
import time

SOURCE = pathlib.Path(__file__).resolve().parents[2]
SHARED = pathlib.Path(os.environ.get("BITWRIGHT_SHARED_DIR", SOURCE.parent / "shared"))
FIXTURES = SOURCE / "tests/fixtures/models"

# Column -> flags. What the published rule has no other accounting for is fixed here.
METHODS = {
    "rtn": ["--method", "rtn"],
    "gptq": ["--method", "gptq"],
    "baq reference": ["--method", "baq", "--variant", "reference", "--budget", "codes"],
    "baq exact": ["--method", "baq", "--variant", "exact"],
    "baq model scope": ["--method", "baq", "--variant", "exact", "--scope", "model"],
}
WHOLE_BITS_ONLY = ("rtn", "gptq")
RIVALS = ("gptq", "baq reference")
OURS = ("baq exact", "baq model scope")


class Model:
    def __init__(self, path, calibration, heldout):
        self.name, self.path = path.name, path
        self.calibration, self.heldout = calibration, heldout


def known_models():
    text = FIXTURES / "text"
    found = [Model(FIXTURES / name, text / "calibration.txt", text / "heldout.txt")
             for name in ("handbook-llama", "handbook-opt")]
    # The shared models and texts are all of one kind: short stories.
    for path in sorted((SHARED / "models").glob("*/config.json")):
        found.append(Model(path.parent, SHARED / "text/tinystories-calibration.txt",
                           SHARED / "text/tinystories-heldout-b.txt"))
    return found


class Service:
    """A server and its workers in `state`; the client's environment to reach them."""

    def __init__(self, binaries, state, models, threads, workers=1):
        self.binaries, self.state, self.models = binaries, state, models
        self.threads, self.workers = threads, workers
        self.processes = []

    def __enter__(self):
        self.socket = tempfile.mkdtemp(prefix="bitwright-")  # Socket paths must be short.
        address = f"unix:{self.socket}/server"
        roots = sorted({str(model.path.parent) for model in self.models})
        self.state.mkdir(parents=True, exist_ok=True)
        self.start("bitwright-server", "--listen", address, "--state-dir",
                   self.state / "server", *(x for root in roots for x in ("--model-root", root)))
        deadline = time.monotonic() + 60
        while not pathlib.Path(f"{self.socket}/server").exists():
            if self.processes[0].poll() is not None or time.monotonic() > deadline:
                sys.exit(f"the server did not start; see {self.state}/bitwright-server.log")
            time.sleep(0.05)
        for number in range(self.workers):
            self.start("bitwright-worker", "--server", address, "--cache-dir",
                       self.state / f"worker-{number}", "--name", f"worker-{number}",
                       *(["--threads", self.threads] if self.threads else []))
        self.environment = {**os.environ, "BITWRIGHT_SERVER": address}
        return self

    def start(self, name, *flags):
        log = open(self.state / f"{name}.log", "ab")
        self.processes.append(subprocess.Popen(
            [str(self.binaries / name), "--exit-with-parent", *map(str, flags)],
            stdout=log, stderr=log))

    def __exit__(self, *_):
        for process in reversed(self.processes):
            process.terminate()
        for process in self.processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
            process.kill()
            process.wait()
        shutil.rmtree(self.socket, ignore_errors=True)

    def run(self, *arguments):
        return subprocess.run([str(self.binaries / "bitwright"), *map(str, arguments)],
                              capture_output=True, text=True, env=self.environment)


class Table:
    def __init__(self, options, service, models):
        self.options, self.service, self.models = options, service, models
        self.path = options.workdir / "cells.json"
        self.cells = json.loads(self.path.read_text()) if self.path.exists() else {}
        self.binaries = digest_of(service.binaries / "bitwright-worker")
        usage = service.run("quantize", "--help").stdout
        self.methods = [m for m in METHODS if m != "baq model scope" or "--scope" in usage]
        self.kept = {}  # column -> job whose intermediate results others reuse

    def flags(self, model, method, bits, seed):
        options = self.options
        flags = [*METHODS[method], "--bits", f"{bits:.10g}", "--pipeline", options.pipeline,
                 "--calib", model.calibration, "--nsamples", options.nsamples, "--seed", seed,
                 "--eval", model.heldout]
        if "--budget" not in flags:
            flags += ["--budget", options.budget]
        return flags + (["--seqlen", options.seqlen] if options.seqlen else [])

    def cell(self, model, method, bits, seed):
        """The result of one quantization, from the cache if it is there."""
        flags = [str(flag) for flag in self.flags(model, method, bits, seed)]
        texts = [digest_of(path) for path in (model.path / "config.json", model.calibration,
                                              model.heldout)]
        named = [str(pathlib.Path(flag).name) if "/" in flag else flag for flag in flags]
        key = json.dumps([model.name, named, texts, self.binaries])
        if key not in self.cells:
            self.cells[key] = self.quantize(model, method, flags)
            temporary = self.path.with_suffix(".new")
            temporary.write_text(json.dumps(self.cells, indent=1))
            temporary.replace(self.path)
        return self.cells[key]

    def quantize(self, model, method, flags):
        out = self.options.workdir / "checkpoint"
        shutil.rmtree(out, ignore_errors=True)
        start = time.monotonic()
        result = self.service.run("quantize", model.path, "-o", out, "--json", "--quiet", *flags)
        shutil.rmtree(out, ignore_errors=True)
        if result.returncode != 0:
            return {"error": result.stderr.strip().splitlines()[-1:] or [""],
                    "code": result.returncode}
        report = json.loads(result.stdout)
        if self.kept.setdefault(method, report["job"]) != report["job"]:
            self.service.run("delete", report["job"])
        return {"perplexity": report["perplexity"]["after"],
                "before": report["perplexity"]["before"],
                "windows": report["perplexity"]["windows"],
                "seqlen": report["perplexity"]["seqlen"],
                "codes": report["bits_per_weight"]["codes"],
                "file": report["bits_per_weight"]["file"],
                "seconds": round(time.monotonic() - start, 2)}

    def forget_jobs(self):
        for job in self.kept.values():
            self.service.run("delete", job)
        self.kept = {}

    def merged(self, model, method, bits):
        cell = merge([self.cell(model, method, bits, seed) for seed in self.options.seeds])
        print(f"{model.name:16} {bits:<6g} {method:16} {show(cell)}", file=sys.stderr, flush=True)
        return cell

    def rows(self, model):
        """[{bits, cells: {method: cell}}]"""
        return [{"bits": bits,
                 "cells": {method: self.merged(model, method, bits) for method in self.methods
                           if method not in WHOLE_BITS_ONLY or bits == int(bits)}}
                for bits in self.options.bits]

    def duels(self, model, rows):
        """Ours at the bits that a rival took, where those are not in the rows already."""
        found, budget = [], self.options.budget
        for row in rows:
            for rival in RIVALS:
                theirs = row["cells"].get(rival, {"error": []})
                if "error" in theirs or abs(theirs[budget] - row["bits"]) < 1e-9:
                    continue
                bits = math.floor(theirs[budget] * 1e4) / 1e4
                found.append({"bits": bits, "rival": rival, "aimed_at": row["bits"],
                              "theirs": theirs,
                              "cells": {method: self.merged(model, method, bits)
                                        for method in OURS if method in self.methods}})
        return found

    def measure(self):
        results = []
        for model in self.models:
            rows = self.rows(model)
            duels = self.duels(model, rows)
            self.forget_jobs()
            results.append({"model": model.name, "calibration": model.calibration.name,
                            "heldout": model.heldout.name, "rows": rows, "duels": duels})
        return results


def digest_of(path):
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()


def merge(cells):
    """One cell over several seeds: the means, and half the range of the perplexity."""
    failed = [cell for cell in cells if "error" in cell]
    if failed:
        return failed[0]
    mean = {key: sum(cell[key] for cell in cells) / len(cells)
            for key in ("perplexity", "before", "codes", "file", "seconds")}
    values = [cell["perplexity"] for cell in cells]
    return {**cells[0], **mean, "spread": (max(values) - min(values)) / 2}


def show(cell):
    if cell is None:
        return "–"
    if "error" in cell:
        return f"error: {' '.join(cell['error'])}"
    spread = f" ± {cell['spread']:.2g}" if cell["spread"] else ""
    return f"{cell['perplexity']:.3f}{spread} ({cell['codes']:.3f} / {cell['file']:.3f})"


def within(cell, bits, budget):
    """Whether a cell keeps to the bits asked for; the published rule only aims at them."""
    return cell is not None and "error" not in cell and cell[budget] <= bits + 1e-9


def defeats(results, budget):
    """Where a rival that takes no more bits than baq exact has a lower perplexity."""
    lines = []
    for result in results:
        # The published rule and rtn in the rows themselves, the rest bit for bit.
        pairs = [(row["bits"], method, cell, row["cells"].get("baq exact"))
                 for row in result["rows"] for method, cell in row["cells"].items()
                 if method not in OURS]
        pairs += [(duel["bits"], duel["rival"], duel["theirs"], duel["cells"].get("baq exact"))
                  for duel in result["duels"]]
        for bits, method, theirs, exact in pairs:
            if exact is None or "error" in exact or "error" in theirs:
                continue
            if (theirs[budget] <= exact[budget] + 0.005 and
                    theirs["perplexity"] < exact["perplexity"]):
                lines.append(f"- {result['model']}, {bits:g} bits: {method} "
                             f"{theirs['perplexity']:.3f} at {theirs[budget]:.4f} {budget} bits, "
                             f"exact {exact['perplexity']:.3f} at {exact[budget]:.4f}")
    return lines


def model_table(result, methods, budget):
    measured = [cell for row in result["rows"] for cell in row["cells"].values()
                if "error" not in cell]
    about = [f"Full precision: {cell['before']:.3f}. {cell['windows']} windows of "
             f"{cell['seqlen']} tokens of `{result['heldout']}`; calibrated on "
             f"`{result['calibration']}`." for cell in measured[:1]]
    lines = [f"## {result['model']}", "", *about, "",
             "| bits asked | " + " | ".join(methods) + " |",
             "|---|" + "---|" * len(methods)]
    for row in result["rows"]:
        kept = [cell["perplexity"] for cell in row["cells"].values()
                if within(cell, row["bits"], budget)]
        cells = []
        for method in methods:
            cell = row["cells"].get(method)
            text = show(cell)
            if within(cell, row["bits"], budget) and cell["perplexity"] == min(kept):
                text = f"**{text.split(' (')[0]}** ({text.split(' (')[1]}"
            cells.append(text)
        lines.append(f"| {row['bits']:g} | " + " | ".join(cells) + " |")
    return lines + [""] + duel_table(result, [m for m in OURS if m in methods], budget)


def duel_table(result, ours, budget):
    if not result["duels"]:
        return []
    lines = [f"At the {budget} bits that the others took:", "",
             f"| {budget} bits | rival | its perplexity | " + " | ".join(ours) + " |",
             "|---|---|---|" + "---|" * len(ours)]
    for duel in result["duels"]:
        theirs = duel["theirs"]["perplexity"]
        cells = [show(duel["cells"][method]) for method in ours]
        won = [f"**{text}**" if duel["cells"][method].get("perplexity", math.inf) < theirs
               else text for method, text in zip(ours, cells)]
        lines.append(f"| {duel['bits']:.4f} | {duel['rival']} {duel['aimed_at']:g} | "
                     f"{theirs:.3f} | " + " | ".join(won) + " |")
    return lines + [""]


def markdown(document):
    budget, methods = document["budget"], document["methods"]
    lines = ["# Held-out perplexity", "",
             "Each cell: perplexity (code bits / file bits a weight). Code bits are the mean of "
             "log2(levels), the papers' accounting; file bits are all bytes of the quantized "
             "tensors, grids and levels included. Lower is better.", "",
             f"The bits asked for count {'bytes of the file' if budget == 'file' else 'codes'} "
             f"here (`--budget {budget}`) for baq exact and model scope. rtn, gptq and the "
             "published rule know code bits only; rtn and gptq whole ones only. Bold: the lowest "
             f"of the cells that keep to the bits asked for in {budget} bits.", "",
             "    " + document["command"], "",
             ", ".join(f"{key} {value}" for key, value in document["settings"].items()) +
             f"; commit {document['commit']}.", ""]
    for result in document["results"]:
        lines += model_table(result, methods, budget)
    lines += ["## Where baq exact does not win", "",
              f"Against rtn, gptq and the published rule at no more {budget} bits "
              "(0.005 of tolerance):", ""]
    lines += defeats(document["results"], budget) or ["- nowhere"]
    if "baq model scope" not in methods:
        lines += ["", "These binaries know no `--scope`: the column of the model scope is "
                  "missing."]
    return "\n".join(lines) + "\n"


def commit():
    def git(*arguments):
        return subprocess.run(["git", "-C", str(SOURCE), *arguments], capture_output=True,
                              text=True).stdout.strip()
    changed = git("status", "--porcelain", "--untracked-files=no")
    return (git("rev-parse", "--short=12", "HEAD") or "unknown") + (
        " with local changes" if changed else "")


def parse_options():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin-dir", type=pathlib.Path, default=pathlib.Path(
        os.environ.get("BITWRIGHT_BIN_DIR", SOURCE / "build/release/bin")))
    parser.add_argument("--budget", choices=("file", "codes"), default="file")
    parser.add_argument("--pipeline", choices=("sequential", "parallel"), default="sequential")
    parser.add_argument("--models", nargs="+", metavar="NAME", help="only these")
    parser.add_argument("--bits", nargs="+", type=float, default=[2, 2.25, 2.5, 3, 4])
    parser.add_argument("--nsamples", type=int, default=128)
    parser.add_argument("--seqlen", type=int, help="tokens a window [the model's context]")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0],
                        help="calibration seeds; with several, cells are means")
    parser.add_argument("--threads", type=int, help="of the worker [one a core]")
    parser.add_argument("--workdir", type=pathlib.Path, default=SOURCE / "build/perplexity",
                        help="state and finished cells")
    parser.add_argument("--output", type=pathlib.Path, default=SOURCE / "tests/bench")
    return parser.parse_args()


def main():
    options = parse_options()
    models = [m for m in known_models() if not options.models or m.name in options.models]
    if not models:
        sys.exit("no such model; known: " + ", ".join(m.name for m in known_models()))
    if not (options.bin_dir / "bitwright").exists():
        sys.exit(f"{options.bin_dir} has no bitwright; build it, or give --bin-dir")
    options.workdir.mkdir(parents=True, exist_ok=True)
    with Service(options.bin_dir, options.workdir / "state", models, options.threads) as service:
        table = Table(options, service, models)
        results = table.measure()
    arguments = [a for a in sys.argv[1:]]
    document = {
        "command": shlex.join(["tests/bench/perplexity_table.py", *arguments]),
        "commit": commit(), "budget": options.budget, "methods": table.methods,
        "settings": {"pipeline": options.pipeline, "nsamples": options.nsamples,
                     "seqlen": options.seqlen or "the model's context", "shards": 4,
                     "seeds": " ".join(map(str, options.seeds)), "damping": 0.01,
                     "grid": "one a row"},
        "results": results}
    name = "PERPLEXITY" + ("" if options.budget == "file" else "-codes")
    options.output.mkdir(parents=True, exist_ok=True)
    text = markdown(document)
    (options.output / f"{name}.md").write_text(text)
    (options.output / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n")
    print(text)


if __name__ == "__main__":
    main()
