#!/usr/bin/env python3
"""Builds bitwright_bench, runs it shape by shape and writes the table.

    tests/bench/run.py                        # build/bench/RESULTS.md and results.json
    tests/bench/run.py --shapes 2048x2048 --repetitions 9
    tests/bench/run.py --output tests/bench --plain-up-to 4096

Everything that is compared runs in one process, its repetitions interleaved at random, and
the table takes medians, so that what else the machine does hits both sides. Run it on a
machine that does nothing else: it prints the load before it starts. Needs nothing beyond
the standard library.
"""

import argparse
import json
import os
import pathlib
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile

SOURCE = pathlib.Path(__file__).resolve().parents[2]
SHAPES = ["768x768", "3072x768", "768x3072", "2048x2048", "4096x4096", "4096x11008"]
OURS = ["factor", "gptq", "baq", "baq_reference", "hessian", "distortion", "allocate", "pack",
        "unpack", "sgemm_quantize", "sgemm_factor", "sgemm_hessian"]
ONE_THREAD = ["factor", "gptq", "baq", "hessian", "sgemm_quantize", "sgemm_hessian"]
PLAIN = ["plain_gptq", "plain_baq", "gptq", "baq", "sgemm_quantize"]

# What the project asks of itself, and of which shapes.
LIMIT_SHAPES = ("2048x2048", "4096x4096")
MOST_GPTQ, LEAST_HESSIAN, MOST_BAQ, LEAST_PLAIN = 2.0, 0.70, 3.5, 30
PLAIN_SHAPE = "2048x2048"


def sides(shape):
    return tuple(int(side) for side in shape.split("x"))


class Bench:
    def __init__(self, binary, repetitions, min_time):
        self.binary, self.repetitions, self.min_time = binary, repetitions, min_time
        self.context = None

    def run(self, names, shape, threads, repetitions):
        """{name: {"ms": median, "best_ms", counters...}} of one process."""
        pattern = f"^({'|'.join(names)})/{shape}/t{threads}/"
        with tempfile.NamedTemporaryFile(suffix=".json") as out:
            command = [str(self.binary), f"--benchmark_filter={pattern}",
                       f"--benchmark_repetitions={repetitions}",
                       "--benchmark_enable_random_interleaving=true",
                       f"--benchmark_min_time={self.min_time}", f"--benchmark_out={out.name}",
                       "--benchmark_out_format=json"]
            result = subprocess.run(command, capture_output=True, text=True)
            if result.returncode != 0:
                sys.exit(f"{shlex.join(command)}\n{result.stderr}")
            report = json.load(out)
        self.context = self.context or report["context"]
        runs = {}
        for entry in report["benchmarks"]:
            if entry["run_type"] == "iteration":
                runs.setdefault(entry["name"].split("/")[0], []).append(entry)
        return {name: summarize(entries) for name, entries in runs.items()}


def summarize(entries):
    out = {"ms": statistics.median(entry["real_time"] for entry in entries),
           "best_ms": min(entry["real_time"] for entry in entries),
           "repetitions": len(entries)}
    for key in ("flops", "factor_s", "allocate_s", "quantize_s", "refine_s", "evaluate_s"):
        if key in entries[0]:
            out[key] = statistics.median(entry[key] for entry in entries)
    return out


def ratios(result):
    """The figures that are judged, from one shape's measurements at one thread count."""
    out = {}
    if "gptq" in result and "sgemm_quantize" in result:
        gemm = result["sgemm_quantize"]
        # Both do the same flops but for rounding the rows of the product.
        same_flops = gemm["ms"] * result["gptq"]["flops"] / gemm["flops"]
        out["gptq_over_sgemm"] = result["gptq"]["ms"] / same_flops
        out["baq_over_gptq"] = result["baq"]["ms"] / result["gptq"]["ms"]
        if "plain_gptq" in result:
            out["plain_gptq_over_sgemm"] = result["plain_gptq"]["ms"] / same_flops
    if "hessian" in result and "sgemm_hessian" in result:
        rate = {name: result[name]["flops"] / result[name]["ms"]
                for name in ("hessian", "sgemm_hessian")}
        out["hessian_of_sgemm"] = rate["hessian"] / rate["sgemm_hessian"]
    for method in ("gptq", "baq"):
        if f"plain_{method}" in result:
            out[f"plain_{method}_over_ours"] = (result[f"plain_{method}"]["ms"] /
                                                result[method]["ms"])
    return out


def measure(bench, options, threads):
    results = {}
    for shape in options.shapes:
        rows, columns = sides(shape)
        large = rows * columns > 2 ** 24
        repetitions = min(options.repetitions, 3) if large else options.repetitions
        print(f"{shape} ...", file=sys.stderr, flush=True)
        entry = {f"t{threads}": bench.run(OURS, shape, threads, repetitions)}
        if threads > 1:
            entry["t1"] = bench.run(ONE_THREAD, shape, 1, repetitions)
        if max(rows, columns) <= options.plain_up_to:
            entry["plain"] = bench.run(PLAIN, shape, threads, repetitions)
        entry["ratios"] = {key: ratios(value) for key, value in entry.items()}
        results[shape] = entry
    return results


def verdicts(results, threads):
    """[(what, shape, figure, limit, kept)] for the acceptance of the project."""
    out = []

    def judge(what, shape, value, limit, text, at_most):
        kept = value <= limit if at_most else value >= limit
        out.append({"what": what, "shape": shape, "value": value, "figure": text.format(value),
                    "limit": ("≤ " if at_most else "≥ ") + text.format(limit), "kept": kept})

    for shape in results:
        found = results[shape]["ratios"]
        main = found[f"t{threads}"]
        if shape in LIMIT_SHAPES:
            judge("GPTQ (factor + quantize) / SGEMM of the same flops", shape,
                  main["gptq_over_sgemm"], MOST_GPTQ, "{:.2f}×", True)
            judge("Hessian, share of SGEMM's flop rate", shape, main["hessian_of_sgemm"],
                  LEAST_HESSIAN, "{:.0%}", False)
            judge("BAQ (both passes, allocation) / GPTQ", shape, main["baq_over_gptq"],
                  MOST_BAQ, "{:.2f}×", True)
        if shape == PLAIN_SHAPE and "plain" in found:
            judge("Plain column-by-column GPTQ / ours", shape,
                  found["plain"]["plain_gptq_over_ours"], LEAST_PLAIN, "{:.1f}×", False)
    return out


def ms(result, name):
    return f"{result[name]['ms']:.4g}" if name in result else "–"


def gflops(entry):
    return entry["flops"] / entry["ms"] * 1e-6


def main_table(results):
    lines = ["| shape R×C | threads | SGEMM ms (GFLOPS) | factor | GPTQ | GPTQ / SGEMM | BAQ | "
             "BAQ / GPTQ | BAQ published | Hessian | of SGEMM |", "|---|" + "---|" * 10]
    for shape, entry in results.items():
        for key in sorted((k for k in entry if k.startswith("t")), reverse=True):
            result, found = entry[key], entry["ratios"][key]
            gemm = result["sgemm_quantize"]
            lines.append(
                f"| {shape.replace('x', '×')} | {key[1:]} | {gemm['ms']:.4g} "
                f"({gflops(gemm):.0f}) | {ms(result, 'factor')} | {ms(result, 'gptq')} | "
                f"{found['gptq_over_sgemm']:.2f} | {ms(result, 'baq')} | "
                f"{found['baq_over_gptq']:.2f} | {ms(result, 'baq_reference')} | "
                f"{ms(result, 'hessian')} | {found['hessian_of_sgemm']:.0%} |")
    return lines


def plain_table(results):
    lines = ["| shape R×C | plain GPTQ | of it factor | ours | ratio | at SGEMM's speed | "
             "plain BAQ | ours (exact) | ratio |", "|---|" + "---|" * 8]
    for shape, entry in results.items():
        if "plain" not in entry:
            continue
        result, found = entry["plain"], entry["ratios"]["plain"]
        lines.append(
            f"| {shape.replace('x', '×')} | {ms(result, 'plain_gptq')} | "
            f"{result['plain_gptq']['factor_s'] * 1e3:.4g} | {ms(result, 'gptq')} | "
            f"{found['plain_gptq_over_ours']:.1f} | {found['plain_gptq_over_sgemm']:.1f} | "
            f"{ms(result, 'plain_baq')} | "
            f"{ms(result, 'baq')} | {found['plain_baq_over_ours']:.1f} |")
    return lines


def phase_table(results, threads):
    lines = ["| shape R×C | method | total | factor | allocate | feedback passes | sweep | "
             "loss | rest |", "|---|" + "---|" * 8]
    for shape, entry in results.items():
        result = entry[f"t{threads}"]
        for name, label in (("gptq", "GPTQ"), ("baq", "BAQ"), ("baq_reference", "BAQ published")):
            phases = [result[name][f"{phase}_s"] * 1e3
                      for phase in ("factor", "allocate", "quantize", "refine", "evaluate")]
            rest = max(0.0, result[name]["ms"] - sum(phases))
            cells = " | ".join(f"{value:.4g}" for value in [result[name]["ms"], *phases, rest])
            lines.append(f"| {shape.replace('x', '×')} | {label} | {cells} |")
    return lines


def part_table(results, threads):
    lines = ["| shape R×C | distortion curves | exact allocation | pack, Mcodes/s | "
             "unpack, Mcodes/s |", "|---|" + "---|" * 4]
    for shape, entry in results.items():
        rows, columns = sides(shape)
        result = entry[f"t{threads}"]
        rate = {name: rows * columns / result[name]["ms"] * 1e-3 for name in ("pack", "unpack")}
        lines.append(f"| {shape.replace('x', '×')} | {ms(result, 'distortion')} | "
                     f"{ms(result, 'allocate')} | {rate['pack']:.0f} | {rate['unpack']:.0f} |")
    return lines


def markdown(document):
    results, threads = document["results"], document["threads"]
    machine = document["machine"]
    lines = ["# What the numerics cost", "", "    " + document["command"], "",
             f"{machine['cpu']}, {threads} cores; float32 products and the SGEMM by "
             f"{machine['products'] or 'the BLAS'}, the rest by {machine['blas']} "
             f"({machine['blas_kernels']} kernels); {machine['compiler']}; commit "
             f"{document['commit']}; load before the run {document['load']:.2f}. Times are "
             f"milliseconds, medians of interleaved repetitions; weights at {machine['bits']} "
             "bits; GPTQ and BAQ are whole calls of QuantizeLinear, given H. The SGEMM does "
             "R·C² + C³/3 flops in the same process with as many threads; the Hessian is of "
             f"{machine['tokens']} tokens, its flops those "
             "done on one triangle, tokens·C².", "", "## Acceptance", "",
             "| | shape | measured | limit | |", "|---|---|---|---|---|"]
    lines += [f"| {v['what']} | {v['shape'].replace('x', '×')} | {v['figure']} | {v['limit']} | "
              f"{'kept' if v['kept'] else '**missed**'} |" for v in document["acceptance"]]
    lines += ["", "## Beside SGEMM", "", *main_table(results), "", "## Where the time goes", "",
              *phase_table(results, threads), "", "## Parts", "",
              *part_table(results, threads), "", "## Beside the plain reference", "",
              "tests/bench/plain_reference.cc: Algorithm 1 of the GPTQ paper column by column, "
              f"one thread, compiled with the same flags; ours with {threads} threads. At SGEMM's "
              "speed: the ratio if GPTQ cost no more than the SGEMM of its flops, the most that "
              "any implementation on this library can reach.", "",
              *plain_table(results), ""]
    return "\n".join(lines)


def git(*arguments):
    return subprocess.run(["git", "-C", str(SOURCE), *arguments], capture_output=True,
                          text=True).stdout.strip()


def cpu_name():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def build():
    for command in (["cmake", "--preset", "release"],
                    ["cmake", "--build", "--preset", "release", "--target", "bitwright_bench"]):
        subprocess.run(command, cwd=SOURCE, check=True, stdout=subprocess.DEVNULL)
    return SOURCE / "build/release/bench/bitwright_bench"


def parse_options():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=pathlib.Path, help="do not build; run this one")
    parser.add_argument("--shapes", nargs="+", default=SHAPES, choices=SHAPES, metavar="RxC")
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--min-time", type=float, default=0.1, help="seconds a repetition")
    parser.add_argument("--plain-up-to", type=int, default=2048,
                        help="largest side that the plain reference is run at")
    parser.add_argument("--output", type=pathlib.Path, default=SOURCE / "build/bench")
    return parser.parse_args()


def main():
    options = parse_options()
    binary = options.binary or build()
    threads, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    print(f"load before the run: {load:.2f}", file=sys.stderr)
    bench = Bench(binary, options.repetitions, options.min_time)
    results = measure(bench, options, threads)
    commit = git("rev-parse", "--short=12", "HEAD") or "unknown"
    if git("status", "--porcelain", "--untracked-files=no"):
        commit += " with local changes"
    compiler = subprocess.run(["c++", "--version"], capture_output=True, text=True).stdout
    document = {
        "command": shlex.join(["tests/bench/run.py", *sys.argv[1:]]), "commit": commit,
        "load": load, "threads": threads,
        "machine": {"cpu": cpu_name(), "compiler": compiler.splitlines()[0],
                    **{key: bench.context.get(key, "unknown")
                       for key in ("products", "blas", "blas_kernels", "bits", "tokens")}},
        "acceptance": verdicts(results, threads), "results": results}
    options.output.mkdir(parents=True, exist_ok=True)
    text = markdown(document)
    (options.output / "RESULTS.md").write_text(text)
    (options.output / "results.json").write_text(
        json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    print(text)


if __name__ == "__main__":
    main()
