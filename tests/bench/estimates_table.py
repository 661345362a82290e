#!/usr/bin/env python3
"""The two estimates of the ratio method's matrix M on real models (math.md §4).

    tests/bench/estimates_table.py

For the sample models and every model in $BITWRIGHT_SHARED_DIR/models: M by `--estimate
gram` and by `--estimate paper`, from one calibration set, as the solver used them (the
paper's with its negative eigenvalues cleared). Compares diagonals, and the entries between
linears, each divided by the root of its two diagonals. Writes ESTIMATES.md and
ESTIMATES.json into --output. Needs numpy.
"""

import argparse
import json
import os
import pathlib
import shlex
import struct
import sys

import numpy

from perplexity_table import SOURCE, Service, commit, known_models


def matrices(store):
    """{path: M} of all solutions in a server's store."""
    found = {}
    for path in store.glob("*/*"):
        with open(path, "rb") as file:
            start = file.read(8)
            if len(start) < 8 or struct.unpack("<Q", start)[0] > 10_000:
                continue
            try:
                header = json.loads(file.read(struct.unpack("<Q", start)[0]))
            except ValueError:
                continue
            tensor = header.get("m") if isinstance(header, dict) else None
            if tensor and tensor["dtype"] == "F64":
                found[path] = numpy.frombuffer(file.read(), "<f8").reshape(tensor["shape"])
    return found


def solve(options, service, store, model, estimate):
    before = set(matrices(store))
    done = service.run(
        "quantize", model.path, "-o", options.workdir / f"{model.name}-{estimate}", "--calib",
        model.calibration, "--nsamples", options.nsamples, "--seqlen", options.seqlen,
        "--method", "ratio", "--quantizer", "gptq", "--bits", "2.1", "--estimate", estimate,
        "--interactions", "block", "--quiet")
    if done.returncode != 0:
        sys.exit(f"{model.name}: {done.stderr.strip()}")
    (path, matrix), = ((p, m) for p, m in matrices(store).items() if p not in before)
    return matrix


def measure(options, model):
    state = options.workdir / f"state-{model.name}"
    with Service(options.bin_dir, state, [model], options.threads) as service:
        gram, paper = (solve(options, service, state / "server/store/blobs", model, estimate)
                       for estimate in ("gram", "paper"))
    config = json.loads((model.path / "config.json").read_text())
    n = len(gram)
    per_block = n // config["num_hidden_layers"]
    ratios = 5
    block, linear = numpy.arange(n) // per_block, numpy.arange(n) // ratios
    scale = numpy.sqrt(numpy.outer(gram.diagonal(), gram.diagonal()))
    pairs = numpy.triu(linear[:, None] != linear[None, :])
    within = pairs & (block[:, None] == block[None, :])
    a, b = (gram / scale)[within], (paper / scale)[within]
    across = numpy.abs((gram / scale)[pairs & ~within])
    values = numpy.linalg.eigvalsh(gram)
    return {
        "model": model.name, "size": n,
        "diagonal": float(numpy.max(numpy.abs(paper.diagonal() / gram.diagonal() - 1))),
        "asymmetry": float(max(numpy.max(numpy.abs(m - m.T)) for m in (gram, paper))),
        "least_eigenvalue": float(values[0] / values[-1]),
        "gram_within": float(numpy.mean(numpy.abs(a))),
        "paper_within": float(numpy.mean(numpy.abs(b))),
        "gram_across": float(numpy.mean(across)),
        "correlation": float(numpy.corrcoef(a, b)[0, 1]),
        "difference": float(numpy.mean(numpy.abs(a - b))),
        "largest_difference": float(numpy.max(numpy.abs(a - b)))}


ROWS = (
    ("options of all linears", "size", "d"),
    ("diagonals, largest relative difference", "diagonal", ".1e"),
    ("largest difference of M from its transpose", "asymmetry", ".1e"),
    ("gram: least eigenvalue / largest", "least_eigenvalue", ".1e"),
    ("gram: mean absolute entry within a block", "gram_within", ".4f"),
    ("paper: the same", "paper_within", ".4f"),
    ("gram: mean absolute entry across blocks", "gram_across", ".4f"),
    ("within a block: correlation of the two", "correlation", ".4f"),
    ("mean absolute difference", "difference", ".4f"),
    ("largest absolute difference", "largest_difference", ".4f"),
)


def markdown(document):
    results = document["results"]
    lines = ["# The two estimates of M", "",
             "M by one forward for each option (gram) and by one for each pair of options within "
             "a block as well (paper, its negative eigenvalues cleared). Entries between two "
             "linears are divided by the root of their diagonals: 1 is a move of the output in "
             "the same direction.", "", "    " + document["command"], "",
             f"Commit {document['commit']}; {document['nsamples']} windows of "
             f"{document['seqlen']} tokens; the published ratios at 3 bits over 2.", "",
             "| | " + " | ".join(result["model"] for result in results) + " |",
             "|---|" + "---|" * len(results)]
    for name, key, form in ROWS:
        lines.append(f"| {name} | " + " | ".join(
            format(result[key], form) for result in results) + " |")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin-dir", type=pathlib.Path, default=pathlib.Path(
        os.environ.get("BITWRIGHT_BIN_DIR", SOURCE / "build/release/bin")))
    parser.add_argument("--models", nargs="+", metavar="NAME", help="only these")
    parser.add_argument("--nsamples", type=int, default=4)
    parser.add_argument("--seqlen", type=int, default=128)
    parser.add_argument("--threads", type=int, help="of the worker [one a core]")
    parser.add_argument("--workdir", type=pathlib.Path, default=SOURCE / "build/estimates")
    parser.add_argument("--output", type=pathlib.Path, default=SOURCE / "tests/bench")
    options = parser.parse_args()
    models = [m for m in known_models() if not options.models or m.name in options.models]
    options.workdir.mkdir(parents=True, exist_ok=True)
    document = {"command": shlex.join(["tests/bench/estimates_table.py", *sys.argv[1:]]),
                "commit": commit(), "nsamples": options.nsamples, "seqlen": options.seqlen,
                "results": [measure(options, model) for model in models]}
    text = markdown(document)
    (options.output / "ESTIMATES.md").write_text(text)
    (options.output / "ESTIMATES.json").write_text(json.dumps(document, indent=1) + "\n")
    print(text)


if __name__ == "__main__":
    main()
