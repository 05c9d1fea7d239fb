"""Makes src/text/bert_tables.inc: what `tokenizers`' BertNormalizer and BertPreTokenizer do with each code point.

    .venv/bin/python scripts/make_bert_tables.py

The package mixes Unicode versions: marks and punctuation are of Unicode 8, decompositions of 13, lower case of its compiler's
(16 or later). No library of one version (utf8proc, ICU) gives the same ids, so the tables are read off the package itself.
"""

import pathlib
import unicodedata

import tokenizers
from tokenizers import normalizers, pre_tokenizers

OUTPUT = pathlib.Path(__file__).resolve().parent.parent / "src" / "text" / "bert_tables.inc"
CODE_POINTS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
HANGUL = range(0xAC00, 0xD7A4)  # by rule in bert_normalizer.cpp
WIDTH = 100


def only(**on):
    options = dict(clean_text=False, handle_chinese_chars=False, strip_accents=False, lowercase=False)
    return normalizers.BertNormalizer(**{**options, **on}).normalize_str


def ranges(points, value=lambda c: None):
    """Runs of consecutive code points of equal value: (first, last, value)."""
    runs = []
    for c in sorted(points):
        if runs and runs[-1][1] == c - 1 and runs[-1][2] == value(c):
            runs[-1][1] = c
        else:
            runs.append([c, c, value(c)])
    return runs


def array(type_name, name, comment, entries):
    lines, line = [], ""
    for entry in entries:
        text = "{" + ", ".join(f"0x{x:X}" if x >= 0 else str(x) for x in entry) + "},"
        if len(line) + len(text) + 3 > WIDTH:
            lines.append(line)
            line = ""
        line += (" " if line else "    ") + text
    return f"// {comment}\nconstexpr {type_name} {name}[] = {{\n" + "\n".join(lines + [line]) + "\n};\n"


def check_order(orders, dropped):
    """The package sorts kept marks as these classes say: a mark of class 1 behind them moves in front."""
    nfd, overlay = normalizers.NFD().normalize_str, "\u0334"
    for c in CODE_POINTS:
        if c in dropped or c in HANGUL or len(nfd(chr(c))) != 1:
            continue
        moved = nfd("a" + chr(c) + overlay) == "a" + overlay + chr(c)
        assert moved == (orders.get(c, 0) > 1), hex(c)


def main():
    clean, chinese, strip, lower = only(clean_text=True), only(handle_chinese_chars=True), only(strip_accents=True), only(lowercase=True)
    split = pre_tokenizers.BertPreTokenizer().pre_tokenize_str
    removed = [c for c in CODE_POINTS if clean(chr(c)) == ""]
    spaces = [c for c in CODE_POINTS if clean(chr(c)) == " "]
    cjk = [c for c in CODE_POINTS if chinese(chr(c)) != chr(c)]
    accents = {c for c in CODE_POINTS if strip(chr(c)) == ""}
    punctuation = [c for c in CODE_POINTS if len(split("a" + chr(c) + "b")) == 3]
    stripped = {c: strip(chr(c)) for c in CODE_POINTS if c not in accents and c not in HANGUL and strip(chr(c)) != chr(c)}
    assert max(map(len, stripped.values())) <= 3
    # Python's lower case of Unicode 14 is in lower_case.cpp; U+0130 becomes two characters there too.
    newer = {c: ord(lower(chr(c))) - c for c in CODE_POINTS if lower(chr(c)) != chr(c).lower()}
    orders = {c: unicodedata.combining(chr(c)) for c in CODE_POINTS if c not in accents and unicodedata.combining(chr(c))}
    nfd = normalizers.NFD().normalize_str
    orders = {c: o for c, o in orders.items() if o == 1 or nfd("a" + chr(c) + "\u0334") != "a" + chr(c) + "\u0334"}
    check_order(orders, accents)
    starts = lambda c: int(unicodedata.combining(chr(c)) == 0)
    parts = [
        f"// Made by scripts/make_bert_tables.py from tokenizers {tokenizers.__version__}; do not edit.\n",
        array("Range", "kRemoved", "clean_text drops these.", [r[:2] for r in ranges(removed)]),
        array("Range", "kBlank", "clean_text makes these a blank.", [r[:2] for r in ranges(spaces)]),
        array("Range", "kChinese", "handle_chinese_chars puts blanks around these.", [r[:2] for r in ranges(cjk)]),
        array("Range", "kPunctuation", "Words of their own.", [r[:2] for r in ranges(punctuation)]),
        array("ValueRange", "kAccent", "strip_accents drops these; 1: canonical ordering starts anew behind them.",
              ranges(accents, starts)),
        array("ValueRange", "kOrder", "Canonical combining classes of marks that strip_accents keeps.",
              ranges(orders, orders.get)),
        array("ValueRange", "kNewerLower", "Offset to the lower case, where it differs from Unicode 14.",
              ranges(newer, newer.get)),
        array("Stripped", "kStripped", "Decomposed, without its accents; 0: no further character.",
              [(c, *(list(map(ord, s)) + [0, 0, 0])[:3]) for c, s in sorted(stripped.items())]),
    ]
    OUTPUT.write_text("\n".join(parts))
    print(f"{OUTPUT.name}: {sum(p.count('{') - 1 for p in parts)} entries")


if __name__ == "__main__":
    main()
