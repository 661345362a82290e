#!/usr/bin/env python3
"""Ablations of the ratio method by held-out perplexity, through the real service.

    tests/bench/ratio_table.py
    tests/bench/ratio_table.py --models stories15m

For the sample models and every model in $BITWRIGHT_SHARED_DIR/models, at the code bits that a
ratio of 0.1 takes in all linears alike: for each seed one `bitwright compare` over the optimal
ratio with all, block and no interactions and the uniform ratio, each with both quantizers;
rows kept at 3, 4 and 16 bits at equal budget; more ratios to choose from; thrice the
iterations; the same over 3 bits instead of 2; the published gradient of the clipping; and gptq
and baq at the same file bits. The seeds run beside each other, on --workers. What the solver
expected of its choices is read from the server's store. Every model's result is kept in
WORKDIR, under what it was made with and the digests of the programs: models can be measured
one by one, and a run over all of them then only writes the table. Writes RATIO.md and
RATIO.json into --output. Needs nothing beyond the standard library.
"""

import argparse
import concurrent.futures
import hashlib
import json
import math
import os
import pathlib
import shlex
import statistics
import sys

from perplexity_table import SOURCE, Service, commit, digest_of, known_models

# The published ratios, at 3 bits for the rows that matter most. What 4 and 16 bits may
# have are the shares of rows that take the same extra bits.
RATIOS = (0.02, 0.05, 0.1, 0.15, 0.2)
# What lets a linear have any bits from 2 to 3.
WIDE = (0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.97)
INTERACTIONS = ("all", "block", "none", "uniform")
QUANTIZERS = ("hybrid", "gptq")
# Rows that a larger model leaves out.
WITHOUT = {"stories15m": ["ratio all, hybrid, ratios to 0.97, more iterations"] + [
    f"ratio {interactions}, {quantizer}, one bit more"
    for quantizer in QUANTIZERS for interactions in INTERACTIONS]}
MORE_ITERATIONS = 3
# Of all hybrid rows: the published 1e-3 is for thousands of iterations.
ROUND_LR = 0.01
PROGRAMS = ("bitwright", "bitwright-server", "bitwright-worker")


def ratio(bits, iterations, quantizer, interactions="all", bits_high=3, extra="",
          ratios=RATIOS, bits_normal=2):
    shares = ",".join(f"{share / (bits_high - bits_normal):.6g}" for share in ratios)
    hybrid = (f" --iterations {iterations} --round-lr {ROUND_LR}{extra}"
              if quantizer == "hybrid" else "")
    return (f"ratio --bits {bits:.7g} --bits-normal {bits_normal} --bits-high {bits_high} "
            f"--ratios {shares} --interactions {interactions} --quantizer {quantizer}{hybrid}")


def methods(bits, iterations, without=()):
    """Name -> flags. The first is what @1 refers to."""
    rows = {f"ratio {interactions}, {quantizer}": ratio(
        bits, iterations, quantizer, interactions)
            for quantizer in QUANTIZERS for interactions in INTERACTIONS}
    for bits_high in (4, 16):
        for quantizer in QUANTIZERS:
            rows[f"ratio all, {quantizer}, {bits_high} bits"] = ratio(
                bits, iterations, quantizer, bits_high=bits_high)
    for quantizer in QUANTIZERS:
        rows[f"ratio all, {quantizer}, ratios to 0.97"] = ratio(
            bits, iterations, quantizer, ratios=WIDE)
    more = MORE_ITERATIONS * iterations
    rows |= {f"ratio {interactions}, hybrid, more iterations": ratio(
        bits, more, "hybrid", interactions) for interactions in ("all", "uniform")}
    rows["ratio all, hybrid, ratios to 0.97, more iterations"] = ratio(
        bits, more, "hybrid", ratios=WIDE)
    for quantizer in QUANTIZERS:
        for interactions in INTERACTIONS:
            rows[f"ratio {interactions}, {quantizer}, one bit more"] = ratio(
                bits + 1, iterations, quantizer, interactions, bits_high=4, bits_normal=3)
    rows["ratio all, hybrid, published gradient"] = ratio(
        bits, iterations, "hybrid", extra=" --edge-gradient 1")
    rows["gptq at 2 bits"] = "gptq --bits 2"
    rows["gptq, same file bits"] = "gptq --scope model --budget file --bits @1"
    rows["baq, same file bits"] = "baq --budget file --bits @1"
    rows["baq over the model, same file bits"] = "baq --scope model --budget file --bits @1"
    return {name: flags for name, flags in rows.items() if name not in without}


# Orderings of the publication, and our own choice of gradient: the first should be no
# higher than the second.
def orderings():
    pairs = [(f"ratio {interactions}, {quantizer}", f"ratio uniform, {quantizer}")
             for quantizer in QUANTIZERS for interactions in ("all", "block", "none")]
    pairs += [(f"ratio all, {quantizer}", f"ratio none, {quantizer}")
              for quantizer in QUANTIZERS]
    pairs += [(f"ratio {interactions}, hybrid", f"ratio {interactions}, gptq")
              for interactions in INTERACTIONS]
    pairs += [(f"ratio all, {quantizer}", f"ratio all, {quantizer}, {bits} bits")
              for quantizer in QUANTIZERS for bits in (4, 16)]
    pairs += [("ratio all, hybrid", other) for other in (
        "gptq at 2 bits", "gptq, same file bits", "baq, same file bits",
        "baq over the model, same file bits", "ratio all, hybrid, published gradient")]
    pairs += [(f"ratio {interactions}, {quantizer}, one bit more",
               f"ratio uniform, {quantizer}, one bit more")
              for quantizer in QUANTIZERS for interactions in ("all", "block", "none")]
    pairs += [("ratio all, hybrid, one bit more", "ratio all, gptq, one bit more")]
    pairs += [(f"ratio all, {quantizer}, ratios to 0.97", f"ratio all, {quantizer}")
              for quantizer in QUANTIZERS]
    pairs += [("ratio all, hybrid, ratios to 0.97", "ratio all, gptq, ratios to 0.97"),
              ("ratio all, hybrid, ratios to 0.97", "baq over the model, same file bits"),
              ("ratio all, hybrid, more iterations", "ratio all, hybrid"),
              ("ratio all, hybrid, more iterations", "ratio uniform, hybrid, more iterations"),
              ("ratio all, hybrid, more iterations", "baq over the model, same file bits"),
              ("ratio all, hybrid, ratios to 0.97, more iterations",
               "baq over the model, same file bits")]
    return pairs


def compare(options, service, model, seed, rows):
    done = service.run(
        "compare", model.path, "--calib", model.calibration, "--eval", model.heldout,
        "--nsamples", options.nsamples, "--seqlen", options.seqlen, "--seeds", seed,
        "--methods", *rows, "--json", "--quiet")
    if done.returncode != 0:
        sys.exit(f"{model.name}, seed {seed}: {done.stderr.strip()}")
    return json.loads(done.stdout)


def compare_seeds(options, service, model, rows):
    """As one `compare` over all seeds, but beside each other."""
    with concurrent.futures.ThreadPoolExecutor(len(options.seeds)) as pool:
        merged, *others = pool.map(
            lambda seed: compare(options, service, model, seed, rows), options.seeds)
    for i, row in enumerate(merged["rows"]):
        for other in others:
            row["runs"] += other["rows"][i]["runs"]
        for mean in ("code_bits", "file_bits", "perplexity"):
            row[mean] = statistics.fmean(one[mean] for one in row["runs"])
        if others:
            row["deviation"] = statistics.stdev(one["perplexity"] for one in row["runs"])
    return merged


def objectives(blobs, bits):
    """{"all": [one for each seed], ..., "all, 16 bits": [...]} of the solutions."""
    found = {}
    for path in sorted(blobs.glob("*/*")):
        with open(path, "rb") as file:
            if file.read(1) != b"{":
                continue
        solution = json.loads(path.read_text())
        if solution.get("interactions") != "all" or abs(solution["bits"] - bits) > 1e-6:
            continue
        high = solution["bits_high"]
        wide = max(solution["ratios"]) > 0.5
        for other in solution["alternatives"]:
            name = (other["interactions"] + ("" if high == 3 else f", {high} bits") +
                    (", ratios to 0.97" if wide else ""))
            found.setdefault(name, []).append(other["objective"])
    return found


def run(options, model):
    """All rows of one model."""
    with Service(options.bin_dir, options.workdir / model.name, [model],
                 options.threads, options.workers) as service:
        # More than a ratio of 0.1 takes, and less than 0.15.
        enough = ratio(2.135, 0, "gptq", "uniform")
        uniform = compare(options, service, model, options.seeds[0], [enough])
        bits = math.ceil(uniform["rows"][0]["code_bits"] * 1e6) / 1e6
        rows = methods(bits, options.iterations, WITHOUT.get(model.name, ()))
        print(f"{model.name}: {bits} bits, {len(rows)} methods, {len(options.seeds)} seeds",
              file=sys.stderr)
        found = compare_seeds(options, service, model, list(rows.values()))
    for name, row in zip(rows, found["rows"]):
        row["name"] = name
        for one in row["runs"]:
            del one["job"]
    found["objectives"] = objectives(
        options.workdir / model.name / "server/store/blobs", bits)
    return {"model": model.name, "calibration": model.calibration.name,
            "heldout": model.heldout.name, "bits": bits, **found}


def measure(options, model):
    """The same, from WORKDIR if it is there."""
    made_with = [model.name, options.nsamples, options.seqlen, options.seeds,
                 methods(0, options.iterations, WITHOUT.get(model.name, ())),
                 *map(digest_of, (model.path / "config.json", model.calibration,
                                  model.heldout, *sorted(model.path.glob("*.safetensors")),
                                  *(options.bin_dir / name for name in PROGRAMS)))]
    key = hashlib.sha256(json.dumps(made_with).encode()).hexdigest()[:16]
    path = options.workdir / f"{model.name}-{key}.json"
    if not path.exists():
        path.write_text(json.dumps(run(options, model)))
    return json.loads(path.read_text())


def row_of(result, name):
    return next((row for row in result["rows"] if row["name"] == name), None)


def cell(row):
    if row is None:
        return "–"
    return (f"{row['perplexity']:.2f} ± {row['deviation']:.2f} "
            f"({row['code_bits']:.3f} / {row['file_bits']:.3f})")


def verdict(result, first, second):
    """Of the seeds, how many have the first no higher, and the means' ratio."""
    ours, theirs = row_of(result, first), row_of(result, second)
    if ours is None or theirs is None:
        return "–"
    held = sum(a["perplexity"] <= b["perplexity"] for a, b in zip(ours["runs"], theirs["runs"]))
    text = f"{held} of {len(ours['runs'])}, {ours['perplexity'] / theirs['perplexity']:.3f}"
    return text if ours["perplexity"] <= theirs["perplexity"] else f"**{text}**"


def markdown(document):
    results = document["results"]
    head = "| | " + " | ".join(result["model"] for result in results) + " |"
    rule = "|---|" + "---|" * len(results)
    lines = ["# Ablations of the ratio method", "",
             "Perplexity on held-out text, mean and standard deviation over the seeds of the "
             "calibration set, and (code bits / file bits a weight): code bits count the codes "
             "and one flag a row, as published; file bits all bytes of the quantized tensors. "
             "Lower is better. The rows of one model share calibration sets, scores and "
             "solutions.", "", "    " + document["command"], "",
             f"Commit {document['commit']}; calibration {document['nsamples']} windows of "
             f"{document['seqlen']} tokens, seeds {' '.join(map(str, document['seeds']))}; "
             f"sequential pipeline; hybrid: {document['iterations']} iterations a block at a "
             f"rounding rate of {ROUND_LR}, more iterations: {MORE_ITERATIONS} times as many.", "",
             head, rule,
             "| code bits asked for | " + " | ".join(
                 f"{result['bits']:.4f}" for result in results) + " |",
             "| full precision | " + " | ".join(
                 f"{result['perplexity']['before']:.2f}" for result in results) + " |"]
    for name in methods(0, 0):
        lines.append(f"| {name} | " + " | ".join(
            cell(row_of(result, name)) for result in results) + " |")
    lines += ["", "–: left out of a larger model. One bit more: 4 bits over 3. At 16 bits a ratio "
              "is one or two rows of a linear of the small models: fewer choices."]
    lines += ["", "## Orderings", "",
              "In how many of the seeds the first has no higher perplexity than the second, and "
              "their means' ratio; bold where the means are the other way round.", "",
              "| first ≤ second | " + head.removeprefix("| | "), rule]
    for first, second in orderings():
        lines.append(f"| {first} ≤ {second} | " + " | ".join(
            verdict(result, first, second) for result in results) + " |")
    lines += ["", "## What the solver expected", "",
              "The objective (δᵀMδ over all pairs, to which the likelihood's rise is in "
              "proportion at second order, before error feedback or learning) of the choice "
              "that counts these interactions, over that of the uniform ratio at 3 bits.", "",
              head, rule]
    for name in ("none", "block", "all", "all, 4 bits", "all, 16 bits",
                 "all, ratios to 0.97"):
        lines.append(f"| {name} | " + " | ".join(
            f"{sum(result['objectives'][name]) / sum(result['objectives']['uniform']):.3f}"
            for result in results) + " |")
    return "\n".join(lines) + "\n"


def parse_options():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin-dir", type=pathlib.Path, default=pathlib.Path(
        os.environ.get("BITWRIGHT_BIN_DIR", SOURCE / "build/release/bin")))
    parser.add_argument("--models", nargs="+", metavar="NAME", help="only these")
    parser.add_argument("--iterations", type=int, default=500)
    parser.add_argument("--nsamples", type=int, default=32)
    parser.add_argument("--seqlen", type=int, default=128)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)),
                        help="[one a core]")
    parser.add_argument("--threads", type=int, default=1, help="of each worker [1]")
    parser.add_argument("--workdir", type=pathlib.Path, default=SOURCE / "build/ratio",
                        help="state and finished models")
    parser.add_argument("--output", type=pathlib.Path, default=SOURCE / "tests/bench")
    return parser.parse_args()


def main():
    options = parse_options()
    models = [m for m in known_models() if not options.models or m.name in options.models]
    if not models:
        sys.exit("no such model; known: " + ", ".join(m.name for m in known_models()))
    options.workdir.mkdir(parents=True, exist_ok=True)
    document = {
        "command": shlex.join(["tests/bench/ratio_table.py", *sys.argv[1:]]),
        "commit": commit(), "nsamples": options.nsamples, "seqlen": options.seqlen,
        "seeds": options.seeds, "iterations": options.iterations,
        "results": [measure(options, model) for model in models]}
    options.output.mkdir(parents=True, exist_ok=True)
    text = markdown(document)
    (options.output / "RATIO.md").write_text(text)
    (options.output / "RATIO.json").write_text(json.dumps(document, indent=1) + "\n")
    print(text)


if __name__ == "__main__":
    main()
