#!/usr/bin/env python3
"""Writes the expected token ids of tests/unit/common/text/fixtures.

    python3 -m venv /tmp/venv
    /tmp/venv/bin/pip install tokenizers==0.20.3 sentencepiece==0.2.0
    /tmp/venv/bin/python tests/interop/tokenizers/make_fixtures.py [--train] [--shared DIR]

--train   trains the tiny tokenizers again (otherwise the committed ones are read)
--shared  directory with tokenizers/ and models/, for the expectations of full-size
          tokenizers; without it those files are left as they are
--check   writes nothing: says which expectations differ. With tokenizers==0.13.3 (what
          transformers 4.30 uses), files and settings that it cannot read are skipped.

The references are the Hugging Face `tokenizers` library and sentencepiece.
"""

import argparse
import array
import hashlib
import json
import os
import sys

import sentencepiece
import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from corpus import CORPUS
from strings import INVALID, STRINGS
from variants import VARIANTS

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "..")
FIXTURES = os.path.join(ROOT, "tests", "unit", "common", "text", "fixtures")
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
SHARED = {
    "gpt2": "tokenizers/gpt2/tokenizer.json",
    "pythia": "tokenizers/pythia/tokenizer.json",
    "stories15m": "models/stories15m/tokenizer.json",
    "stories260k": "models/stories260k/tokenizer.json",
    "stories15m_sp": "models/stories15m/tokenizer.model",
    "stories260k_sp": "models/stories260k/tokenizer.model",
}
# The ids themselves are written for these two; for the others, digests of them.
IN_FULL = ["tiny_gpt2.json", "tiny_llama2.json"]
TEXTS = ["tinystories-calibration.txt", "tinystories-heldout.txt", "tinystories-heldout-b.txt",
         "wikitext-2-test.txt", "wikitext-2-valid.txt"]


def byte_level(pre, normalizer=None, vocab=600, ignore_merges=False, specials=("<|endoftext|>",)):
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = pre
    tokenizer.decoder = decoders.ByteLevel()
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    trainer = trainers.BpeTrainer(vocab_size=vocab, special_tokens=list(specials), show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def split_then_bytes(regex):
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(regex), "isolated"),
                                    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def train_gpt2():
    tokenizer = byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False))
    tokenizer.add_tokens([
        AddedToken("<|left|>", lstrip=True, normalized=False), AddedToken("<|right|>", rstrip=True, normalized=False),
        AddedToken("cat", single_word=True, normalized=False), AddedToken("caf\u00e9", normalized=True),
        AddedToken("<|Upper|>", normalized=True), AddedToken("Abc", normalized=False), AddedToken("    ", normalized=True),
        AddedToken("Ab", normalized=True)])
    return tokenizer


def train_llama3():
    tokenizer = byte_level(split_then_bytes(LLAMA3), ignore_merges=True, specials=["<|begin_of_text|>", "<|endoftext|>"])
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", 0)])
    # Tokens that no merge makes, as ignore_merges is for.
    parts = json.loads(tokenizer.to_str())
    for word in ["Hello", "\u0120weather", "mississippi"]:
        parts["model"]["vocab"][word] = len(parts["model"]["vocab"])
    return parts


def train_qwen2():
    return byte_level(split_then_bytes(QWEN2), normalizers.NFC(),
                      specials=["<|endoftext|>", "<|im_start|>", "<|im_end|>"])


def train_llama2():
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    specials = ["<unk>", "<s>", "</s>"] + ["<0x%02X>" % b for b in range(256)]
    tokenizer.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=560, special_tokens=specials, show_progress=False))
    parts = json.loads(tokenizer.to_str())
    parts["pre_tokenizer"] = None
    parts["added_tokens"] = [t for t in parts["added_tokens"] if t["id"] < 3]
    parts["decoder"] = {"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}
    return parts


def train_affix(**affix):
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", **affix))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\s+"), "removed")
    tokenizer.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=300, special_tokens=["<unk>"], show_progress=False, **affix))
    return tokenizer


def train_sentencepiece(name, **options):
    with open(os.path.join(FIXTURES, name + ".model"), "wb") as file:  # A prefix would be written into it.
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(line for text in CORPUS for line in text.splitlines() if line.strip()),
            model_writer=file, normalization_rule_name="identity", minloglevel=2, **options)


def train():
    trained = {
        "tiny_gpt2": train_gpt2(), "tiny_llama3": train_llama3(), "tiny_qwen2": train_qwen2(), "tiny_llama2": train_llama2(),
        "tiny_suffix": train_affix(end_of_word_suffix="</w>"), "tiny_prefix": train_affix(continuing_subword_prefix="##")}
    for name, tokenizer in trained.items():
        parts = tokenizer if isinstance(tokenizer, dict) else json.loads(tokenizer.to_str())
        with open(os.path.join(FIXTURES, name + ".json"), "w", encoding="utf-8") as file:
            json.dump(parts, file, ensure_ascii=False, separators=(",", ":"))
            file.write("\n")
    train_sentencepiece("tiny_sp_bpe", model_type="bpe", vocab_size=520, byte_fallback=True, remove_extra_whitespaces=False,
                        hard_vocab_limit=False)
    train_sentencepiece("tiny_sp_unigram", model_type="unigram", vocab_size=300, hard_vocab_limit=False,
                        user_defined_symbols=["<sep>"])


def merge_patch(base, patch):
    if not isinstance(patch, dict):
        return patch
    result = dict(base) if isinstance(base, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge_patch(result.get(key), value)
    return result


def vary(base, patch):
    """The parts of `patch` in place of those of `base`; its "model" as a merge patch."""
    result = dict(base, **patch)
    if "model" in patch:
        result["model"] = merge_patch(base["model"], patch["model"])
    return result


def load(parts):
    """A Tokenizer from a parsed tokenizer.json, also in versions that want merges as strings."""
    for key in ["truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder"]:
        parts.setdefault(key, None)
    if tokenizers.__version__ < "0.19":
        model = dict(parts["model"])
        if model.pop("ignore_merges", False):
            raise ValueError("ignore_merges")
        model["merges"] = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
        parts = dict(parts, model=model)
    return Tokenizer.from_str(json.dumps(parts))


class HuggingFace:
    def __init__(self, parts):
        self.tokenizer = load(parts)

    def encode(self, text):
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids):
        return self.tokenizer.decode(ids, skip_special_tokens=False)


class SentencePiece:
    def __init__(self, path):
        self.model = sentencepiece.SentencePieceProcessor(model_file=path)

    def encode(self, text):
        return self.model.encode(text)

    def decode(self, ids):
        return self.model.decode(ids)


def read_reference(path):
    if path.endswith(".model"):
        return SentencePiece(path)
    with open(path, encoding="utf-8") as file:
        return HuggingFace(json.load(file))


def expect(reference, in_full):
    ids = [reference.encode(text) for text in STRINGS]
    decoded = [hashlib.sha256(reference.decode(row).encode()).hexdigest()[:8] for row in ids]
    return {"ids": ids, "decoded": decoded} if in_full else {"digests": digests(reference), "decoded": decoded}


def digests(reference):
    """Per string 32 bits of the digest of its ids: enough to tell, a tenth of the size.

    None where the reference itself fails (added tokens and Strip make it panic).
    """
    result = []
    for text in STRINGS:
        try:
            ids = " ".join(map(str, reference.encode(text)))
            result.append(hashlib.sha256(ids.encode()).hexdigest()[:8])
        except BaseException as error:  # A Rust panic is no Exception.
            if type(error).__name__ != "PanicException":
                raise
            result.append(None)
    return result


def expect_texts(reference, directory):
    result = {}
    for name in TEXTS:
        with open(os.path.join(directory, "text", name), encoding="utf-8", errors="replace", newline="") as file:
            ids = reference.encode(file.read())
        data = array.array("i", ids)
        if sys.byteorder == "big":
            data.byteswap()
        result[name] = {"tokens": len(ids), "sha256": hashlib.sha256(data.tobytes()).hexdigest()}
    return result


class Output:
    def __init__(self, check):
        self.check = check
        self.differ = 0

    def write(self, name, value):
        text = json.dumps(value, separators=(",", ":")).replace('],[', '],\n[') + "\n"
        path = os.path.join(FIXTURES, name)
        if not self.check:
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
            return
        with open(path, encoding="utf-8") as file:
            known = json.load(file)
        value = json.loads(text)
        if name == "variants.expected.json":  # Those that could be read.
            known = {key: known[key] for key in value}
        print("same" if known == value else "DIFFERENT", name)
        self.differ += known != value


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--shared")
    args = parser.parse_args()
    os.makedirs(FIXTURES, exist_ok=True)
    if args.train:
        train()
    out = Output(args.check)
    out.write("strings.json", {
        "strings": STRINGS,
        "invalid": [{"hex": raw.hex(), "text": raw.decode("utf-8", "replace")} for raw in INVALID]})
    for name in ["tiny_gpt2.json", "tiny_llama3.json", "tiny_qwen2.json", "tiny_llama2.json", "tiny_suffix.json",
                 "tiny_prefix.json", "tiny_sp_bpe.model", "tiny_sp_unigram.model"]:
        try:
            reference = read_reference(os.path.join(FIXTURES, name))
        except ValueError as error:
            print("skipped", name, error)
            continue
        out.write(name.split(".")[0] + ".expected.json",
                  dict(expect(reference, name in IN_FULL), file=name))
    variants = {}
    for name, (base, patch) in VARIANTS.items():
        with open(os.path.join(FIXTURES, base + ".json"), encoding="utf-8") as file:
            parts = vary(json.load(file), patch)
        try:
            reference = HuggingFace(parts)
        except Exception as error:  # What an older version cannot read.
            print("skipped", name, error)
            continue
        variants[name] = {"base": base, "patch": patch, "digests": digests(reference)}
    out.write("variants.expected.json", variants)
    for name, path in SHARED.items() if args.shared else ():
        reference = read_reference(os.path.join(args.shared, path))
        out.write("shared_%s.expected.json" % name,
                  {"file": path, "digests": digests(reference), "texts": expect_texts(reference, args.shared)})
    return 1 if out.differ else 0


if __name__ == "__main__":
    sys.exit(main())
