"""Tiny tokenizers with parts replaced: name -> (base, the parts)."""

BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
GPT2 = dict(BYTES, use_regex=True)
CL100K = (r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*"
          r"|\s*[\r\n]|\s+(?!\S)|\s+")
O200K = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
DEEPSEEK = (r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
            r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def split(pattern, behavior, invert=False, kind="Regex"):
    return {"type": "Split", "pattern": {kind: pattern}, "behavior": behavior, "invert": invert}


def pre(*steps):
    return {"pre_tokenizer": {"type": "Sequence", "pretokenizers": list(steps)}}


def norm(*steps):
    return {"normalizer": {"type": "Sequence", "normalizers": list(steps)}}


def metaspace(scheme, do_split=True):
    return {"pre_tokenizer": {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": scheme, "split": do_split},
            "normalizer": None}


VARIANTS = {
    "prefix_space": ("tiny_gpt2", {"pre_tokenizer": dict(GPT2, add_prefix_space=True)}),
    "no_regex": ("tiny_gpt2", {"pre_tokenizer": BYTES}),
    "no_regex_prefix": ("tiny_gpt2", {"pre_tokenizer": dict(BYTES, add_prefix_space=True)}),
    "digits": ("tiny_gpt2", pre({"type": "Digits", "individual_digits": True}, GPT2)),
    "digit_groups": ("tiny_gpt2", pre({"type": "Digits", "individual_digits": False}, GPT2)),
    "split_removed": ("tiny_gpt2", pre(split(" ", "Removed", kind="String"), BYTES)),
    "split_isolated": ("tiny_gpt2", pre(split(" ", "Isolated", kind="String"), BYTES)),
    "split_previous": ("tiny_gpt2", pre(split(r"\s", "MergedWithPrevious"), BYTES)),
    "split_next": ("tiny_gpt2", pre(split(r"\s", "MergedWithNext"), BYTES)),
    "split_contiguous": ("tiny_gpt2", pre(split(r"\s", "Contiguous"), BYTES)),
    "split_invert": ("tiny_gpt2", pre(split(r"\w+", "MergedWithPrevious", True), BYTES)),
    "split_invert_removed": ("tiny_gpt2", pre(split(r"\w+", "Removed", True), BYTES)),
    "cl100k": ("tiny_qwen2", pre(split(CL100K, "Isolated"), BYTES)),
    "o200k": ("tiny_qwen2", pre(split(O200K, "Isolated"), BYTES)),
    "deepseek": ("tiny_qwen2", pre(split(r"\p{N}{1,3}", "Isolated"), split("[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+", "Isolated"),
                                   split(DEEPSEEK, "Isolated"), BYTES)),
    "classes": ("tiny_qwen2", pre(split(r" ?[^(\s|[.,!?\u2026\u3002])]+", "Isolated"), split(r"[a-c]{2,3}?|\p{Han}|\W", "Isolated"), BYTES)),
    "nfd": ("tiny_qwen2", {"normalizer": {"type": "NFD"}}),
    "nfkc": ("tiny_qwen2", {"normalizer": {"type": "NFKC"}}),
    "nfkd": ("tiny_qwen2", {"normalizer": {"type": "NFKD"}}),
    "strip_accents": ("tiny_gpt2", norm({"type": "NFD"}, {"type": "StripAccents"}, {"type": "Lowercase"})),
    "lower": ("tiny_gpt2", {"normalizer": {"type": "Lowercase"}}),
    "strip_both": ("tiny_llama3", norm({"type": "Strip", "strip_left": True, "strip_right": True})),
    "strip_right": ("tiny_llama2", norm({"type": "Strip", "strip_left": False, "strip_right": True}, {"type": "Prepend", "prepend": "\u2581"})),
    "replace_regex": ("tiny_gpt2", norm({"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
                                        {"type": "Replace", "pattern": {"String": "the"}, "content": "THE"})),
    "metaspace_always": ("tiny_llama2", metaspace("always")),
    "metaspace_first": ("tiny_llama2", metaspace("first")),
    "metaspace_first_whole": ("tiny_llama2", metaspace("first", False)),
    "metaspace_never": ("tiny_llama2", metaspace("never")),
    "unk_fused": ("tiny_llama2", {"model": {"byte_fallback": False}}),
    "unk_single": ("tiny_llama2", {"model": {"byte_fallback": False, "fuse_unk": False}}),
    "unk_none": ("tiny_llama2", {"model": {"byte_fallback": False, "unk_token": None}}),
    "bytes_missing": ("tiny_llama2", {"model": {"vocab": {"<0xE3>": None, "<0xF0>": None}}}),
    "bytes_missing_single": ("tiny_llama2", {"model": {"fuse_unk": False, "vocab": {"<0xE3>": None, "<0xF0>": None}}}),
    "ignore_merges_off": ("tiny_llama3", {"model": {"ignore_merges": False}}),
}
