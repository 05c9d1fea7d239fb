"""The two halves of tokenizer_parity.sh around the program: the mixed text, and the comparison with `tokenizers`.

Invalid UTF-8 has no Python string: there, and in the program, each maximal invalid sequence is one U+FFFD (errors="replace").
Byte ranges are compared for WordPiece; of byte-level BPE the package knows characters alone. Where normalisation moves marks
(Unicode's canonical ordering), the package gives a token the range of their new places, the program that of the characters; texts of
stacked marks may differ by that, and are counted, the others may not.
"""

import gzip
import json
import pathlib
import random
import sys

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

PART = 64 * 1024
MOVED_MARKS = ("stacked", "words")  # kinds of text, see above
# Bytes from the front of each (unpacked): English, code, languages, mark-up, old spelling, names with accents.
REAL = {
    "wikitext2": ("wikitext2", 400), "tinyshakespeare": ("tinyshakespeare", 200), "timeqa": ("timeqa/human_annotated_train.json", 300),
    "ripgrep": ("github_code/BurntSushi__ripgrep.jsonl.gz", 500), "fmt": ("github_code/fmtlib__fmt.jsonl.gz", 500),
    "flask": ("github_code/pallets__flask.jsonl.gz", 400), "changelogs": ("debian_changelogs", 300),
    "tydiqa": ("tydiqa_tiny/tiny_dev.jsonl.gz", 280), "xquad": ("squad_format", 700), "pubmed": ("pubmedqa", 200),
    "articles": ("lost_in_the_middle", 300),
}


def read_front(path, size):
    """The first `size` bytes of a file, or of a folder's files in order of their names."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith("SOURCE"))
    out = b""
    for file in files:
        with open(file, "rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
        with (gzip.open if packed else open)(file, "rb") as content:
            out += content.read(size - len(out))
        if len(out) == size:
            break
    assert len(out) == size, f"{path}: {len(out)} of {size} bytes"
    return out


def unicode_texts(draw):
    points = [c for c in range(1, 0x110000) if not 0xD800 <= c < 0xE000]
    common = [c for c in points if c < 0x3000] + list(range(0x1F300, 0x1FB00))
    marks = list(range(0x300, 0x370)) + list(range(0x1AB0, 0x1AFF)) + [0x302E, 0x302F, 0x0591, 0x05B0, 0x064B, 0x0E38, 0x0F71, 0x1D165]
    word = lambda pool, longest: "".join(map(chr, draw.choices(pool, k=draw.randint(1, longest))))
    # Every code point of the planes that hold letters, and a sample of the others, alone and inside a word.
    every = "".join(f"a{chr(c)}b {chr(c)} " for c in points if c < 0x3400 or 0xA000 <= c < 0xAC00 or 0xF900 <= c < 0x20000)
    sample = "".join(f"a{chr(c)}b {chr(c)} " for c in draw.sample(points, 20000))
    words = " ".join(word(common, 8) for _ in range(30000))
    stacked = " ".join("".join(draw.choice("aeiouΑЕกกक한") + "".join(chr(draw.choice(marks)) for _ in range(draw.randint(0, 5)))
                               for _ in range(draw.randint(1, 6))) for _ in range(15000))
    hangul = " ".join(word(range(0xAC00, 0xD7A4), 5) for _ in range(8000))
    emoji = "".join(chr(draw.choice(range(0x1F300, 0x1FAFF))) + draw.choice(["", "\u200d", "\ufe0f", "\U0001f3fd", " "]) for _ in range(25000))
    spaces = "".join(draw.choice(["a", "the", "1", "\n", "\r\n", "\t", " ", "  ", "\u00a0", "\u2003", "\u3000", "\x85", "\x0b", "\x1c"])
                     for _ in range(60000))
    long_words = " ".join(draw.choice(["a", "ab", "word", "ß", "漢"]) * n for n in range(1, 180))
    english = ["don't", "we've", "it 's", "I 'm", "they're", "do not", "n't", " .", " ,", "?", "!", "'", "'s", "##ing", "[MASK]", "[CLS]",
               "<|endoftext|>", "<|im_start|>", "1,000", "3.14", "İstanbul", "ΣΑΣ", "Straße", "ﬁ", "ǅ", "naïve", "nai\u0308ve"]
    cleaned = " ".join(draw.choice(english) for _ in range(30000))
    return {"every": every, "sample": sample, "words": words, "stacked": stacked, "hangul": hangul, "emoji": emoji, "spaces": spaces,
            "long_words": long_words, "cleaned": cleaned}


def make(data, out):
    draw = random.Random(20240611)
    texts = {name: read_front(data / path, kilobytes * 1000) for name, (path, kilobytes) in REAL.items()}
    texts |= {name: text.encode() for name, text in unicode_texts(draw).items()}
    noise = bytearray(texts["tydiqa"][:200_000])
    for i in draw.sample(range(len(noise)), 8000):
        noise[i] = draw.randrange(256)
    texts["flipped"] = bytes(noise)
    texts["random_bytes"] = draw.randbytes(100_000)
    for name, text in texts.items():
        for i in range(0, len(text), PART):  # cut inside characters, too
            (out / f"{name}.{i // PART:03d}").write_bytes(text[i:i + PART])
    print(f"{sum(map(len, texts.values())):,} bytes of text in {len(texts)} kinds", file=sys.stderr)


def gpt2(folder):
    vocabulary = json.loads((folder / "encoder.json").read_text())
    merges = [tuple(line.split(" ")) for line in (folder / "vocab.bpe").read_text().splitlines() if not line.startswith("#version")]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    return tokenizer


def from_file(path):
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def byte_ranges(raw, offsets):
    """Character offsets of the text as Python has it -> byte offsets of the file."""
    starts, at = [0], 0
    for character in raw.decode("utf-8", "replace"):
        step = len(character.encode())
        if character != "\ufffd" or raw[at:at + 3] == "\ufffd".encode():
            at += step
        else:  # one invalid sequence: as far as the decoder reads before it goes on
            try:
                raw[at:at + 8].decode()
                raise AssertionError(at)
            except UnicodeDecodeError as error:
                at += error.end - error.start
        starts.append(at)
    assert at == len(raw), (at, len(raw))
    return [[starts[begin], starts[end]] for begin, end in offsets]


def compare(data, out):
    known = {"gpt2": lambda: gpt2(data / "gpt2_bpe"), "smollm2": lambda: from_file("runs/smollm2/tokenizer.json"),
             "minilm": lambda: from_file("runs/minilm/tokenizer.json"), "minilm_vocab": lambda: from_file("runs/minilm/tokenizer.json")}
    print("| tokenizer | texts | bytes | tokens | texts with other ids | other decoded text | tokens with another byte range |")
    print("|---|---|---|---|---|---|---|")
    different = 0
    for name, load in known.items():
        tokenizer = load()
        tokenizer.encode_special_tokens = True  # what data says steers nothing
        texts = size = tokens = ids_differ = text_differs = ranges_differ = 0
        for line in open(out / f"{name}.jsonl"):
            ours = json.loads(line)
            raw = pathlib.Path(ours["file"]).read_bytes()
            theirs = tokenizer.encode(raw.decode("utf-8", "replace"), add_special_tokens=False)
            texts, size, tokens = texts + 1, size + len(raw), tokens + len(theirs.ids)
            other_ids = theirs.ids != ours["ids"]
            other_text = tokenizer.decode(ours["ids"], skip_special_tokens=False) != ours["decoded"]
            ids_differ, text_differs = ids_differ + other_ids, text_differs + other_text
            if name.startswith("minilm") and not other_ids:
                other = sum(a != b for a, b in zip(byte_ranges(raw, theirs.offsets), ours["spans"]))
                ranges_differ += other
                if other and not pathlib.Path(ours["file"]).name.startswith(MOVED_MARKS):
                    print(f"{name}: {ours['file']}: {other} tokens have another byte range", file=sys.stderr)
                    different += 1
            if other_ids:
                at = next((i for i, (a, b) in enumerate(zip(theirs.ids, ours["ids"])) if a != b), min(len(theirs.ids), len(ours["ids"])))
                around = slice(max(0, at - 2), at + 4)
                print(f"{name}: {ours['file']}: token {at}: expected {[tokenizer.id_to_token(i) for i in theirs.ids[around]]}, "
                      f"got {[tokenizer.id_to_token(i) for i in ours['ids'][around]]}", file=sys.stderr)
        different += ids_differ + text_differs
        shown = ranges_differ if name.startswith("minilm") else "-"
        print(f"| {name} | {texts} | {size:,} | {tokens:,} | {ids_differ} | {text_differs} | {shown} |")
    return 1 if different else 0


if __name__ == "__main__":
    if len(sys.argv) != 4 or sys.argv[1] not in ("--make", "--compare"):
        sys.exit("usage: tokenizer_parity.py --make DATA_FOLDER TEXT_FOLDER | --compare DATA_FOLDER OUTPUT_FOLDER")
    action = make if sys.argv[1] == "--make" else compare
    sys.exit(action(pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3])))
