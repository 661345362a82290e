"""math.md §3b against §3a on every linear of the sample models: at the code bits that the
published rule ends with, the exact allocation loses no more, and it meets its budget from
below in both accountings.

    python3 test_exact_beats_reference.py DIR...

prints the table for the layer files that layers.py wrote, and fails nothing.
"""

import concurrent.futures
import os
import pathlib
import sys
import tempfile

import harness
import layers
from harness import CALIBRATION, HELDOUT, LLAMA, OPT

WIDTHS = (2, 3, 4)
CLOSE = 0.005  # bits per weight that may be left unspent


def quantize(path, *flags):
    """A layer as files store it; the processes run side by side, on one thread each."""
    with tempfile.TemporaryDirectory() as scratch:
        return layers.quantize_layer(path, f"{scratch}/out", "--method", "baq", "--f16-ranges",
                                     "--threads", "1", *flags)


def side_by_side(function, arguments):
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(lambda a: function(*a), arguments))


def compare(path, bits):
    """One row of the table: both variants at the code bits of the reference."""
    tensors, _ = harness.read_safetensors(path)
    before, reference = quantize(path, "--variant", "reference", "--bits", bits)
    asked = reference["bits_per_weight"]["codes"]
    after, exact = quantize(path, "--variant", "exact", "--budget", "codes", "--bits",
                            f"{asked:.17g}")
    row = {"layer": path.name.removesuffix(".safetensors"), "bits": bits, "asked": asked,
           "spent": exact["bits_per_weight"]["codes"], "uniform": reference["uniform_loss"],
           "reference": reference["loss"], "exact": exact["loss"], "heldout": None}
    if "hessian_heldout" in tensors:
        weight, hessian = tensors["weight"], tensors["hessian_heldout"]
        row["heldout"] = (layers.loss(weight, after, hessian) /
                          layers.loss(weight, before, hessian))
    return row


def number(value):
    return "-" if value is None else f"{value:.4f}"


def show(rows):
    print(f"{'layer':56} bits  code bits      spent  reference loss   exact loss  exact/ref"
          "  held out")
    for row in rows:
        ratio = row["exact"] / row["reference"]
        print(f"{row['layer']:56} {row['bits']:4} {row['asked']:10.5f} {row['spent']:10.5f} "
              f"{row['reference']:15.6g} {row['exact']:12.6g} {ratio:10.4f} "
              f"{number(row['heldout']):>9}{'  MISS' if ratio > 1 else ''}")
    for bits in WIDTHS:
        chosen = [row for row in rows if row["bits"] == bits]
        if not chosen:
            continue
        total = {key: sum(row[key] for row in chosen) for key in ("reference", "exact")}
        relative = sum(row["exact"] / row["reference"] for row in chosen) / len(chosen)
        measured = [row["heldout"] for row in chosen if row["heldout"] is not None]
        heldout = sum(measured) / len(measured) if measured else None
        missed = sum(row["exact"] > row["reference"] for row in chosen)
        print(f"{bits} bits: {len(chosen)} linears, {missed} missed; total loss exact/reference "
              f"{total['exact'] / total['reference']:.4f}, mean of ratios {relative:.4f}, "
              f"held out {number(heldout)}")


class ExactBeatsReferenceTest(harness.TestCase):

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory(prefix="bitwright-test-")
        cls.addClassCleanup(cls.folder.cleanup)
        cls.paths = {model.name: layers.dump(model, CALIBRATION, None,
                                             pathlib.Path(cls.folder.name))
                     for model in (LLAMA, OPT)}

    def test_no_more_loss_at_the_same_code_bits(self):
        for model, paths in self.paths.items():
            rows = side_by_side(compare, [(path, bits) for path in paths for bits in WIDTHS])
            show(rows)
            at_two = [row for row in rows if row["bits"] == 2]
            self.assertLess(sum(row["exact"] for row in at_two),
                            sum(row["reference"] for row in at_two), model)
            for row in rows:
                with self.subTest(layer=row["layer"], bits=row["bits"]):
                    self.assertLessEqual(row["spent"], row["asked"])
                    self.assertGreaterEqual(row["spent"], row["asked"] - CLOSE)
                    self.assertLessEqual(row["exact"], row["reference"])

    def test_budgets_are_met_from_below(self):
        for paths in self.paths.values():
            # One block has every shape there is.
            cases = [(path, budget, bits) for path in paths if ".layers.0." in path.name
                     for budget in ("codes", "file") for bits in (2, 2.25, 2.5, 3, 4)]
            reports = side_by_side(lambda path, budget, bits: quantize(
                path, "--bits", bits, "--budget", budget)[1], cases)
            for (path, budget, bits), report in zip(cases, reports):
                with self.subTest(layer=path.name, budget=budget, bits=bits):
                    spent = report["bits_per_weight"][budget]
                    self.assertLessEqual(spent, bits)
                    self.assertGreaterEqual(spent, bits - CLOSE)


if __name__ == "__main__":
    if len(sys.argv) > 1 and pathlib.Path(sys.argv[1]).is_dir():
        show(side_by_side(compare, [(path, bits) for folder in sys.argv[1:]
                                    for path in sorted(pathlib.Path(folder).glob("*.safetensors"))
                                    for bits in WIDTHS]))
    else:
        harness.main()
