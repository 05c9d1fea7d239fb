#!/usr/bin/env python3
"""Writes the golden files of tests/text from the Python `tokenizers` package and Python's own string functions.

    .venv/bin/python tests/text/make_golden.py

All text here was written for this project.
"""

import collections
import json
import pathlib
import re
import string
import sys

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "scripts"))
import train_tokenizer  # noqa: E402

GOLDEN = HERE / "golden"

TRAINING_TEXT = """
The retriever reads a question and chooses tokens of a long context under a fixed budget. The reader attends inside the
top clusters of each query, and what has left the exact window lives on in a compressed memory of constant size.
A question is answered from the chosen tokens; the answer is compared with the references by exact match and by F1.
Training begins with a dense model over short documents, then the retriever learns from evidence spans, and at last all
parts are trained together. When a part is switched off, its parameters are gone too, so that an ablation is honest.
We don't say that it's faster until we've measured it: the baseline runs in the same process, on the same card, twice.
In 2024 there were 365 + 1 days; 1,000 tokens cost 0.25 of a second, and 128 clusters of 64 keys hold 8192 of them.
def select(scores, budget):
    # the largest scores first
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    return order[:budget]
for (int i = 0; i < n; ++i) { total += values[i] * weights[i]; }
The memory isn't a cache: the memory is bounded, and the cache isn't. They'll be compared, you'd think, and they were.
Die Schlüssel und die Werte werden verdichtet; où sont les clés d'antan? Вопрос и ответ. 質問と答え。
"""

TEXTS = [
    "", " ", "  ", "\n", "\t\t", "a", " a", "The retriever reads a question.", "the the  the   the",
    "We don't think it's THEY'LL, you'd or I'm; 'tis 's 't", "don\u2019t \u201cquote\u201d \u2014 dash\u2026",
    "x = values[i] * 0.25; // 1,000 + 8192\r\n\r\n\tif (n >= 128) { return; }\n", "12 123 1234 12345678901234567890",
    "\u0661\u0662\u0663 \u2167 \u00bd \u00b2 3\u20443", "caf\u00e9 cafe\u0301 na\u00efve \u00c5ngstr\u00f6m \u1e9e\u00df",
    "Вопрос и ответ", "質問と答え。中文字符，没有空格", "한국어 텍스트", "العربية نص", "हिन्दी पाठ", "ภาษาไทย",
    "\U0001f600 \U0001f469\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea x\U0001f600y",
    "a\u00a0b\u2003c\u2028d\u0085e\u180ef\u200bg\ufeffh\u3000i", "\x00\x01\x1c\x1f\x7f|\x0b\x0c", "   leading and trailing   ",
    "line one\nline two\n\n\n  line three  \n", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" * 3, " " * 70 + "x" + " " * 33,
    "tokens<|eos|>tokens", "<|bos|>The answer<|eos|><|pad|><|pad|>", "<|eos|", "<|bos|> <|bos|>", "a <|mask|>  b<|mask|>",
    "<tool> the <tool><tool>", "<tool", "memory<|tool<tool>", "<|bos|><tool><|eos|>", "snake_case camelCase kebab-case a.b.c",
    "\u017f 'S 'RE 'LL \u212a", "!?!? ... ;;; ((([[[{{{", "e\u0301\u0302\u0303 \u0301 \u0301a", "\ufffd \ufffd\ufffd",
]
INVALID = ["ff", "61ff62", "c3", "c328", "e28241", "f0908d", "f09f9861", "eda080", "c0af", "f8808080", "e4b8ade4b8",
           "20fe20746865", "f4908080"]

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")


def byte_level(prefix: bool, regex: bool) -> dict:
    return {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True, "use_regex": regex}


def sequence(*steps: dict) -> dict:
    return {"type": "Sequence", "pretokenizers": list(steps)}


def split(pattern: dict, behavior: str, invert: bool = False) -> dict:
    return {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": invert}


def added(token_id: int, content: str, special: bool, **flags: bool) -> dict:
    return {"id": token_id, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": not special, "special": special} | flags


def variants(size: int) -> dict:
    """Changes of the trained file: what stands under `root` and `model` replaces the members of that name."""
    tools = [added(size, "<|mask|>", True, lstrip=True, rstrip=True), added(size + 1, "<tool>", False),
             added(size + 2, "the", False, normalized=False), added(size + 3, "<|tool", True)]
    seps = {"Regex": r"[\s.,]+"}
    out = {
        "gpt2": {},
        "prefix": {"root": {"pre_tokenizer": byte_level(True, True)}},
        "no_regex": {"root": {"pre_tokenizer": byte_level(False, False)}},
        "digits": {"root": {"pre_tokenizer": sequence({"type": "Digits", "individual_digits": True}, byte_level(False, True))}},
        "digit_runs": {"root": {"pre_tokenizer": sequence({"type": "Digits", "individual_digits": False}, byte_level(True, False))}},
        "llama3": {"root": {"pre_tokenizer": sequence(split({"Regex": LLAMA3}, "Isolated"), byte_level(False, False))},
                   "model": {"ignore_merges": True}},
        "literal": {"root": {"pre_tokenizer": sequence(split({"String": "e."}, "Isolated"), byte_level(False, True))}},
        "added": {"added_tokens": tools},
        "unknown": {"model": {"unk_token": "!"}, "remove": ["\u00f0", "\u0141", "\u00a9"]},
        "unknown_fused": {"model": {"unk_token": "!", "fuse_unk": True}, "remove": ["\u00f0", "\u0141", "\u00a9"]},
        "unknown_dropped": {"remove": ["\u00f0", "\u0141", "\u00a9"]},
    }
    for behavior in ["Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous", "Isolated"]:
        for invert in [False, True]:
            out[f"{behavior}{'_inverted' if invert else ''}"] = {
                "root": {"pre_tokenizer": sequence(split(seps, behavior, invert), byte_level(False, False))}}
    return out


def apply_variant(base: dict, change: dict) -> dict:
    root = json.loads(json.dumps(base))
    root |= change.get("root", {})
    root["model"] |= change.get("model", {})
    root["added_tokens"] += change.get("added_tokens", [])
    gone = change.get("remove", [])
    for token in gone:
        del root["model"]["vocab"][token]
    def kept(merge: list) -> bool:
        return all(t in root["model"]["vocab"] for t in (*merge, "".join(merge)))
    root["model"]["merges"] = [m for m in root["model"]["merges"] if kept(m)]
    return root


def tokenizer_golden() -> dict:
    train_on = [line + "\n" for line in TRAINING_TEXT.splitlines()]
    tokenizer = train_tokenizer.train(iter(train_on), vocab_size=600, min_frequency=1)
    tokenizer.save(str(GOLDEN / "tokenizer.json"))
    base = json.loads(tokenizer.to_str())
    cases = [(t.encode().hex(), t) for t in TEXTS]
    cases += [(h, bytes.fromhex(h).decode("utf-8", errors="replace")) for h in INVALID]
    out = {"texts": [h for h, _ in cases], "variants": {}}
    for name, change in variants(tokenizer.get_vocab_size()).items():
        loaded = Tokenizer.from_str(json.dumps(apply_variant(base, change)))
        loaded.encode_special_tokens = True
        plain = [loaded.encode(t, add_special_tokens=False).ids for _, t in cases]
        loaded.encode_special_tokens = False
        special = [loaded.encode(t, add_special_tokens=False).ids for _, t in cases]
        broken = [ids[1::2] for ids in special]  # tokens out of their place spell invalid UTF-8
        out["variants"][name] = {
            "change": change, "ids": plain, "ids_special": special,
            "decoded": [loaded.decode(ids, skip_special_tokens=True) for ids in special],
            "decoded_special": [loaded.decode(ids, skip_special_tokens=False) for ids in special],
            "decoded_broken": [loaded.decode(ids, skip_special_tokens=False) for ids in broken],
        }
    return out


def pair_golden() -> dict:
    """The tokenizer of golden/tokenizer.json as the two files vocab.json and merges.txt, read back by the package."""
    folder = GOLDEN / "pair"
    folder.mkdir(exist_ok=True)
    whole = Tokenizer.from_file(str(GOLDEN / "tokenizer.json"))
    whole.model.save(str(folder))
    pair = Tokenizer(models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt")))
    pair.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    pair.decoder = decoders.ByteLevel()
    pair.add_special_tokens(["<|pad|>", "<|bos|>", "<|eos|>"])
    texts = TEXTS + [bytes.fromhex(h).decode("utf-8", errors="replace") for h in INVALID]
    pair.encode_special_tokens = True
    plain = [pair.encode(t).ids for t in texts]
    pair.encode_special_tokens = False
    special = [pair.encode(t).ids for t in texts]
    return {"ids": plain, "ids_special": special, "size": pair.get_vocab_size(),
            "decoded": [pair.decode(ids, skip_special_tokens=True) for ids in special]}


# The official SQuAD evaluation scripts (v1.1 and v2.0): normalisation and F1.
def normalize_answer(text: str) -> str:
    text = "".join(ch for ch in text.lower() if ch not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def f1_score(prediction: str, reference: str) -> float:
    predicted, expected = normalize_answer(prediction).split(), normalize_answer(reference).split()
    if not predicted or not expected:
        return float(predicted == expected)
    common = sum((collections.Counter(predicted) & collections.Counter(expected)).values())
    if common == 0:
        return 0.0
    precision, recall = common / len(predicted), common / len(expected)
    return 2 * precision * recall / (precision + recall)


PAIRS = [
    ("", [""]), ("", ["a"]), ("the", ["an"]), ("", ["x"]), ("x", [""]), ("", []), ("The.", []), ("x", []),
    ("The Eiffel Tower", ["eiffel tower!"]), ("a.n", ["the"]), ("A-n apple", ["apple"]), ("theatre", ["the atre"]),
    ("a b c d", ["b c", "c d e f"]), ("x x x", ["x x y"]), ("x", ["x x x x"]), ("RÖNTGEN", ["röntgen"]),
    ("Röntgen", ["Ro\u0308ntgen"]), ("ΟΔΥΣΣΕΥΣ", ["οδυσσευς"]), ("ΣΟΦΟΣ ΣΑΣ Σ", ["σοφος σας σ"]), ("МОСКВА", ["москва"]),
    ("\u201cthe\u201d cat", ["cat"]), ("a\u00a0cat", ["cat"]), ("éa the_b", ["éa theb"]), ("1a an1 a\u0301", ["1a an1"]),
    ("a\u1160 \u2460a", ["b"]), ("İstanbul", ["i̇stanbul"]), ("U.S.A.", ["usa", "us a"]), ("3,5 %", ["35"]),
    ("a\u2014the\u2014an", ["\u2014"]), ("x\x1cy\x1dz", ["x y z"]), ("x\u200by", ["x y"]), ("x\u3000y", ["x y"]),
    ("b a the an b", ["b b"]), ("one two three", ["three two one"]), ("\U00010400", ["\U00010428"]), ("中文 答案", ["答案"]),
]
SIGMA = ["Σ", "ΑΣ", "ΣΑ", "ΑΣΑ", "ΑΣ.", "ΑΣ.Α", "ΑΣ\u0301", "Α\u0301Σ", ".Σ", "Α.Σ", "ΣΣΣ", "1Σ", "Α1Σ", "Α-Σ", "Α\u2019Σ", "ΑΣ\u2019Α",
         "ΑΣ Α", "ªΣ", "ΑΣʰ", "\u0345Σ", "ΑΣ\u00adΑ", "ⅧΣ"]


def metrics_golden() -> dict:
    ranges = [range(0x21, 0x530), range(0x1C80, 0x1C90), range(0x1E00, 0x2000), range(0x2C60, 0x2C80), range(0x10400, 0x10450)]
    letters = [chr(c) for r in ranges for c in r if chr(c).isprintable()]
    return {
        "pairs": [{
            "prediction": p, "references": r, "normalized": normalize_answer(p),
            "em": float(max((normalize_answer(p) == normalize_answer(x) for x in r), default=not normalize_answer(p))),
            "f1": max((f1_score(p, x) for x in r), default=float(not normalize_answer(p))),
        } for p, r in PAIRS],
        "lower": [[t, t.lower()] for t in [" ".join(letters), *SIGMA]],
    }


def main() -> None:
    GOLDEN.mkdir(exist_ok=True)
    for name, value in [("tokenizer_golden.json", tokenizer_golden()), ("pair_golden.json", pair_golden()),
                        ("metrics_golden.json", metrics_golden())]:
        (GOLDEN / name).write_text(json.dumps(value, ensure_ascii=True, separators=(",", ":")) + "\n")
        print(f"{name}: {(GOLDEN / name).stat().st_size} bytes")


if __name__ == "__main__":
    main()
