#!/usr/bin/env python3
"""Adds to tests/unit/worker/model/fixtures what PyTorch's autograd says of the
models there, run by Hugging Face Transformers in float32.

From the root of the repository, with the two environments that
tests/interop/logits/make_fixtures.py describes:

  for v in 4.30.2 4.44.2; do
    /tmp/transformers-$v/bin/python tests/interop/gradients/make_fixtures.py
  done

For each case NAME, made by the release that made NAME.safetensors:
NAME.gradients.safetensors, the gradients of the summed negative log-likelihood
of NAME.safetensors' tokens, each sequence's tokens 1 .. given what precedes
them. `boundary.B` F32 [sequences, seqlen, width]: in what enters block B, and
in what leaves the last one. `LINEAR` F64 [rows]: for each linear of the blocks
the sum over all tokens of the squared gradient in its output. `LINEAR.fisher`
F64 [rows]: the sum over all sequences, each on its own, and over the weights of
a row of the squared gradient in the weight.
"""
import argparse
import pathlib

import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file, save_file


def keep_gradient(kept, name):
    def hook(module, arguments, output):
        tensor = output[0] if isinstance(output, tuple) else output
        tensor.retain_grad()
        kept[name] = tensor
    return hook


def keep_input_gradient(kept, name):
    def hook(module, arguments):
        arguments[0].retain_grad()
        kept[name] = arguments[0]
    return hook


def nll(model, tokens):
    logits = model(tokens, use_cache=False).logits
    return torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten(), reduction="sum")


def row_fisher(model, decoder, prefix, tokens):
    linears = {f"{prefix}.layers.{b}.{name}": module
               for b, layer in enumerate(decoder.layers)
               for name, module in layer.named_modules()
               if isinstance(module, torch.nn.Linear)}
    sums = {}
    for sequence in tokens:
        model.zero_grad()
        nll(model, sequence[None]).backward()
        for name, module in linears.items():
            squares = module.weight.grad.double().square().sum(1)
            sums[f"{name}.fisher"] = sums.get(f"{name}.fisher", 0) + squares
    return sums


def make(directory):
    stored = load_file(directory.with_suffix(".safetensors"))
    tokens = stored["tokens"].long()
    extra = {} if transformers.__version__ == "4.30.2" else {
        "attn_implementation": "eager"}
    model = transformers.AutoModelForCausalLM.from_pretrained(
        directory, torch_dtype=torch.float32, **extra).eval()
    decoder = model.model.decoder if hasattr(model.model, "decoder") else model.model
    prefix = "model.decoder" if decoder is not model.model else "model"

    boundaries, outputs = {}, {}
    for b, layer in enumerate(decoder.layers):
        layer.register_forward_pre_hook(keep_input_gradient(boundaries, b))
        for name, module in layer.named_modules():
            if isinstance(module, torch.nn.Linear):
                module.register_forward_hook(
                    keep_gradient(outputs, f"{prefix}.layers.{b}.{name}"))
    decoder.layers[-1].register_forward_hook(
        keep_gradient(boundaries, len(decoder.layers)))

    logits = model(tokens, use_cache=False).logits
    assert (logits - stored["logits"]).abs().max() < 1e-5, directory
    nll(model, tokens).backward()

    width = model.config.hidden_size
    out = {f"boundary.{b}": x.grad.reshape(*tokens.shape, width).contiguous()
           for b, x in boundaries.items()}
    for name, y in outputs.items():
        out[name] = y.grad.flatten(0, -2).double().square().sum(0)
    out |= row_fisher(model, decoder, prefix, tokens)
    save_file(out, directory.with_suffix(".gradients.safetensors"),
              metadata={"transformers": transformers.__version__,
                        "torch": torch.__version__})
    print(directory.name, *(f"{float(x.grad.norm()):.3g}"
                            for x in boundaries.values()))


def main():
    root = pathlib.Path(__file__).resolve().parents[3]
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=pathlib.Path,
                        default=root / "tests/unit/worker/model/fixtures")
    out = parser.parse_args().out
    torch.set_num_threads(1)
    for directory in sorted(p for p in out.iterdir() if p.is_dir()):
        with safe_open(directory.with_suffix(".safetensors"), "pt") as file:
            made_by = file.metadata()["transformers"]
        if made_by == transformers.__version__:
            make(directory)


if __name__ == "__main__":
    main()
