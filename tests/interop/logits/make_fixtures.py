#!/usr/bin/env python3
"""Makes tests/unit/worker/model/fixtures: tiny random models and the logits
that Hugging Face Transformers computes from them in float32.

Two releases are used, because 4.30.2 knows neither grouped-query attention nor
RoPE scaling, Mistral or Qwen2; each makes the cases that name it. From the
root of the repository, with Debian's python3-torch and python3-numpy installed:

  for v in 4.30.2 4.44.2; do
    /usr/bin/python3 -m venv --system-site-packages /tmp/transformers-$v
    /tmp/transformers-$v/bin/pip install transformers==$v safetensors
    /tmp/transformers-$v/bin/python tests/interop/logits/make_fixtures.py
  done

For each case NAME: NAME/config.json and NAME/model.safetensors as
save_pretrained writes them, and NAME.safetensors with `tokens` I32
[sequences, seqlen] and `logits` F32 [sequences, seqlen, vocab]; its metadata
name the releases that made it. Weights are rounded to the stored dtype first
and the logits computed from what was stored.
"""
import argparse
import pathlib
import shutil

import torch
import transformers
from safetensors.torch import save_file

VOCAB = 67


def llama(cls="Llama", **changes):
    config = dict(vocab_size=VOCAB, hidden_size=24, intermediate_size=40,
                  num_hidden_layers=2, num_attention_heads=4,
                  max_position_embeddings=64, rms_norm_eps=1e-5,
                  bos_token_id=1, eos_token_id=2, tie_word_embeddings=False)
    config.update(changes)
    return cls, config


def opt(**changes):
    config = dict(vocab_size=VOCAB, hidden_size=24, ffn_dim=40,
                  num_hidden_layers=2, num_attention_heads=4,
                  max_position_embeddings=48, word_embed_proj_dim=24,
                  do_layer_norm_before=True, bos_token_id=2, eos_token_id=2,
                  pad_token_id=1)
    config.update(changes)
    return "OPT", config


# name: (release, dtype, sequences, seqlen, (class, config))
CASES = {
    "llama_plain": ("4.30.2", torch.float16, 2, 40, llama()),
    "llama_tied_f32": ("4.30.2", torch.float32, 2, 40,
                       llama(tie_word_embeddings=True)),
    "opt_before": ("4.30.2", torch.float16, 2, 40, opt()),
    "opt_after_projected": ("4.30.2", torch.float16, 2, 40,
                            opt(do_layer_norm_before=False,
                                word_embed_proj_dim=16)),
    "opt_no_bias_bf16": ("4.30.2", torch.bfloat16, 2, 40,
                         opt(enable_bias=False)),
    "opt_untied_gelu_no_final_norm": (
        "4.30.2", torch.float16, 2, 40,
        opt(tie_word_embeddings=False, activation_function="gelu",
            _remove_final_layer_norm=True)),
    "llama_gqa_bias_bf16": ("4.44.2", torch.bfloat16, 2, 40,
                            llama(num_key_value_heads=2, attention_bias=True,
                                  mlp_bias=True)),
    "llama_rope_linear": ("4.44.2", torch.float16, 2, 40,
                          llama(num_key_value_heads=1,
                                rope_scaling={"type": "linear", "factor": 2.5})),
    "llama_rope_dynamic": ("4.44.2", torch.float16, 2, 40,
                           llama(max_position_embeddings=16,
                                 rope_scaling={"type": "dynamic",
                                               "factor": 2.0})),
    "llama_rope_llama3": ("4.44.2", torch.float16, 1, 96,
                          llama(hidden_size=32, num_attention_heads=2,
                                rope_theta=500.0, max_position_embeddings=128,
                                rope_scaling={
                                    "rope_type": "llama3", "factor": 8.0,
                                    "low_freq_factor": 1.0,
                                    "high_freq_factor": 4.0,
                                    "original_max_position_embeddings": 64})),
    # 4.44.2 reads the original context from max_position_embeddings.
    "llama_rope_yarn": ("4.44.2", torch.float16, 1, 96,
                        llama(hidden_size=32, num_attention_heads=2,
                              rope_theta=100.0, max_position_embeddings=64,
                              rope_scaling={
                                  "rope_type": "yarn", "factor": 4.0,
                                  "original_max_position_embeddings": 64})),
    "mistral_window": ("4.44.2", torch.float16, 2, 40,
                       llama("Mistral", num_key_value_heads=2,
                             head_dim=8, sliding_window=11)),
    "qwen2": ("4.44.2", torch.float16, 2, 40,
              llama("Qwen2", num_key_value_heads=2, rope_theta=1e6,
                    rms_norm_eps=1e-6, tie_word_embeddings=True)),
}


def randomize(model, generator):
    """Logits of a few units and attention that is not flat."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            if p.dim() == 2:
                scale = 1.5 / p.shape[1] ** 0.5
                p.copy_(noise * (0.7 if "embed" in name else scale))
            elif "norm" in name and name.endswith("weight"):
                p.copy_(1 + 0.2 * noise)
            else:
                p.copy_(0.2 * noise)


def make(name, out, seed):
    _, dtype, sequences, seqlen, (cls, fields) = CASES[name]
    generator = torch.Generator().manual_seed(seed)
    config = getattr(transformers, cls + "Config")(**fields)
    model_class = getattr(transformers, cls + "ForCausalLM")
    model = model_class(config)
    randomize(model, generator)
    model.tie_weights()
    directory = out / name
    shutil.rmtree(directory, ignore_errors=True)
    model.to(dtype).save_pretrained(directory, safe_serialization=True)
    (directory / "generation_config.json").unlink(missing_ok=True)

    extra = {} if transformers.__version__ == "4.30.2" else {
        "attn_implementation": "eager"}
    model = model_class.from_pretrained(directory, torch_dtype=torch.float32,
                                        **extra).eval()
    tokens = torch.randint(0, VOCAB, (sequences, seqlen), generator=generator)
    with torch.no_grad():
        logits = model(tokens).logits
    assert torch.isfinite(logits).all() and logits.std() > 0.5, name
    save_file({"tokens": tokens.to(torch.int32), "logits": logits.contiguous()},
              out / (name + ".safetensors"),
              metadata={"transformers": transformers.__version__,
                        "torch": torch.__version__})
    print(f"{name}: logits std {logits.std():.3f} max {logits.abs().max():.3f}")


def main():
    root = pathlib.Path(__file__).resolve().parents[3]
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=pathlib.Path,
                        default=root / "tests/unit/worker/model/fixtures")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    for seed, (name, case) in enumerate(CASES.items()):
        if case[0] == transformers.__version__:
            make(name, out, seed)


if __name__ == "__main__":
    main()
