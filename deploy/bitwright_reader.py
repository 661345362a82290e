#!/usr/bin/env python3
"""Reads Bitwright's native checkpoints with nothing but numpy.

    python3 bitwright_reader.py NATIVE_DIR OUT_DIR    # writes the dense checkpoint
    bitwright_reader.Checkpoint(NATIVE_DIR).read("model.norm.weight")   # one tensor

A quantized linear P is stored as P.weight_levels [C] (levels of each column; 1: all zero), P.weight_min and
P.weight_max [R, G] (range of each row and group) and P.weight_codes: the columns by levels, then by index, R packed
codes each. With P.weight_row_bits [R] instead, rows by bits: C codes below 2 ** bits each, or C F16 values if 16.
"""
import json
import pathlib
import shutil
import sys

import numpy as np

TYPES = {"F64": "<f8", "I64": "<i8", "U64": "<u8", "F32": "<f4", "I32": "<i4", "U32": "<u4", "F16": "<f2",
         "BF16": "<u2", "I16": "<i2", "U16": "<u2", "I8": "i1", "U8": "u1", "BOOL": "?"}


def split_runs(data, runs, length, levels):
    """Takes `runs` runs of `length` codes below `levels` off `data`: ([runs, length], the rest)."""
    if levels & (levels - 1) == 0:  # A power of two: a little-endian bitstream.
        bits = levels.bit_length() - 1
        data, rest = np.split(data, [runs * ((length * bits + 7) // 8)])
        stream = np.unpackbits(data.reshape(runs, -1), axis=1, bitorder="little")[:, :length * bits]
        return stream.reshape(runs, length, bits) @ (1 << np.arange(bits)).astype(np.uint16), rest
    per_word = max(k for k in range(1, 64) if levels ** k <= 2 ** 64)
    data, rest = np.split(data, [runs * 8 * -(-length // per_word)])
    words = np.frombuffer(data.tobytes(), "<u8").reshape(runs, -1)  # Digits, the first code least significant.
    digits = [(words // np.uint64(levels ** k) % np.uint64(levels)).astype(np.uint8) for k in range(per_word)]
    return np.stack(digits, axis=2).reshape(runs, -1)[:, :length], rest


class Checkpoint:
    def __init__(self, path):
        self.path, self.tensors, self.dense = pathlib.Path(path), {}, {}
        self.config = json.loads((self.path / "config.json").read_text())
        q = self.quantization = self.config.pop("quantization_config")
        for file in sorted(self.path.glob("*.safetensors")):
            with open(file, "rb") as stream:
                length = int.from_bytes(stream.read(8), "little")
                header = json.loads(stream.read(length))
            self.tensors.update({name: (t["dtype"], t["shape"], file, 8 + length + t["data_offsets"][0])
                                 for name, t in header.items() if name != "__metadata__"})
        for name, entry in self.tensors.items():  # What the dense checkpoint has: name -> (dtype, shape).
            linear, _, part = name.rpartition(".weight_")
            if part == "codes":
                dtype = q.get("weight_dtypes", {}).get(linear, q["weight_dtype"])
                columns = q.get("weight_columns", {}).get(linear) or self.tensors[linear + ".weight_levels"][1][0]
                self.dense[linear + ".weight"] = (dtype, [self.tensors[linear + ".weight_min"][1][0], columns])
            elif part not in ("levels", "row_bits", "min", "max"):
                self.dense[name] = entry[:2]

    def read(self, name):
        """A quantized weight as float32; any other tensor as stored (BF16 as raw uint16)."""
        if name not in self.tensors:
            return self.dequantize(name[:-len(".weight")])
        dtype, shape, file, offset = self.tensors[name]
        return np.fromfile(file, TYPES[dtype], int(np.prod(shape)), offset=offset).reshape(shape)

    def dequantize(self, linear):
        low, high = (self.read(f"{linear}.weight_{part}").astype(np.float32) for part in ("min", "max"))
        by_row = linear + ".weight_row_bits" in self.tensors
        levels, codes = (self.read(f"{linear}.weight_{part}") for part in ("row_bits" if by_row else "levels", "codes"))
        levels = 1 << levels.astype(int)[:, None] if by_row else levels
        values = np.zeros(self.dense[linear + ".weight"][1], np.float32)
        runs = values if by_row else values.T
        for count in (int(c) for c in np.unique(levels) if c > 1):
            own = np.flatnonzero(levels == count)
            runs[own], codes = split_runs(codes, len(own), runs.shape[1], count)
        group = np.arange(values.shape[1]) // (self.quantization["group_size"] or values.shape[1])
        scale = (high - low)[:, group] / np.maximum(levels - 1.0, 1).astype(np.float32)
        return np.select([levels == 1, levels == 1 << 16], [np.float32(0), values.astype(np.uint16).view(np.float16)],
                         scale * (values - np.rint(-low[:, group] / scale)))

    def write_dense(self, out):
        (out := pathlib.Path(out)).mkdir()
        header, end = {"__metadata__": {"format": "pt"}}, 0
        for name, (dtype, shape) in self.dense.items():
            begin, end = end, end + int(np.prod(shape)) * np.dtype(TYPES[dtype]).itemsize
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
        text = json.dumps(header).encode()
        with open(out / "model.safetensors", "wb") as stream:
            stream.write((len(text) + -len(text) % 8).to_bytes(8, "little") + text + b" " * (-len(text) % 8))
            for name, (dtype, _) in self.dense.items():
                values = self.read(name)
                if name not in self.tensors and dtype == "BF16":  # Round to nearest, ties to even.
                    values = ((bits := values.view(np.uint32)) + 0x7FFF + ((bits >> 16) & 1)) >> 16
                stream.write(values.astype(TYPES[dtype]).tobytes())
        (out / "config.json").write_text(json.dumps(self.config, indent=2) + "\n")
        for file in self.path.iterdir():
            if file.name not in ("bitwright.json", "config.json") and ".safetensors" not in file.name:
                shutil.copy(file, out)


if __name__ == "__main__":
    Checkpoint(sys.argv[1]).write_dense(sys.argv[2]) if len(sys.argv) == 3 else sys.exit(__doc__)
