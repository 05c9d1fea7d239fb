#!/usr/bin/env python3
"""Writes golden/word_piece.json: a small WordPiece tokenizer, and what `tokenizers` makes of texts with it.

    .venv/bin/python tests/text/make_word_piece_golden.py

All text here was written for this project.
"""

import json
import pathlib

from make_golden import INVALID, TEXTS
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

CONTROL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["the", "re", "##trie", "##ver", "##s", "read", "question", "##ing", "memory", "isn", "don", "cafe", "strasse", "istanbul", "не",
         "вопрос", "##ы", "質", "問", "中", "文", "한", "##ᆨ", "ᄒ", "##ᅡ", "##ᆫ", "ᄀ", "αβγ", "##σ", "##ς", "i", "##̇", "क", "##ा",
         "do", "not", "n", "'", "s", "ve", "m", "İ", "É", "Cafe", "The", "😀", "##😀", "\u302e", "a\u302e", "##\u302f", "\u1ab0"]
MORE = ["Cafés, CAFE\u0301!", "The retrievers' questions aren't", "Straße STRASSE", "İstanbul ISTANBUL ıstanbul", "ΑΒΓΣ αβγς", "한국어 각",
        "質問と中文\uf900豈", "x" * 100 + " " + "x" * 101, "the\u00adretriever \u200bthe", "[MASK] [CLS]the", "##ing ing", "a\u302f\u302e a\u0334\u302e\u302f",
        "it's do not n't 'm 've 's . , ? !", "\u1ab0 \u0e38a", "\U0001fae8 \U000e0001a \U0002b820 \U0002b81f", "ﬁ ǅ ǆ", "$+<=>^`|~ §¶ ‼", "का कि",
        "\u1c89 \U00010d50 \u0130\u0307"]
CHANGES = [dict(), dict(lowercase=False), dict(strip_accents=False), dict(lowercase=False, strip_accents=True), dict(clean_text=False),
           dict(handle_chinese_chars=False)]


def main():
    letters = [chr(c) for c in range(33, 127) if not chr(c).isupper()] + [chr(c) for c in range(65, 91)]
    tokens = CONTROL + letters + ["##" + c for c in letters if c.isalnum()] + WORDS
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    cases = []
    for change in CHANGES:
        options = dict(clean_text=True, handle_chinese_chars=True, strip_accents=None, lowercase=True) | change
        tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer(**options)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.WordPiece(cleanup="clean_text" not in change)
        tokenizer.add_special_tokens(CONTROL)
        tokenizer.encode_special_tokens = True
        rows = []
        for raw in [text.encode() for text in TEXTS + MORE] + [bytes.fromhex(text) for text in INVALID]:
            encoding = tokenizer.encode(raw.decode("utf-8", "replace"), add_special_tokens=False)
            row = {"hex": raw.hex(), "ids": encoding.ids, "decoded": tokenizer.decode(encoding.ids, skip_special_tokens=False),
                   "plain": tokenizer.decode(encoding.ids, skip_special_tokens=True)}
            try:  # byte ranges where there is a string to count in
                text = raw.decode()
                row["spans"] = [[len(text[:a].encode()), len(text[:b].encode())] for a, b in encoding.offsets]
            except UnicodeDecodeError:
                pass
            if "\u302f\u302e" in raw.decode("utf-8", "replace"):  # marks move: see scripts/reproduce/tokenizer_parity.py
                row.pop("spans")
            rows.append(row)
        cases.append({"tokenizer": json.loads(tokenizer.to_str()), "texts": rows})
    for case in cases[1:]:
        case["tokenizer"]["model"]["vocab"] = {}  # the same
    path = pathlib.Path(__file__).resolve().parent / "golden" / "word_piece.json"
    path.write_text(json.dumps(cases, ensure_ascii=True, separators=(",", ":")) + "\n")
    print(path, path.stat().st_size, "bytes,", sum(len(case["texts"]) for case in cases), "texts")


if __name__ == "__main__":
    main()
