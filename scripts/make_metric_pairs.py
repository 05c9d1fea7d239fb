#!/usr/bin/env python3
"""Writes tests/text/metric_pairs.json: what the Python packages make of 500 random pairs of a prediction and references.

    python3 -m venv /tmp/metrics && /tmp/metrics/bin/pip install rouge-score==0.1.2 sacrebleu==2.6.0 nltk==3.10.4 torchmetrics==1.9.0 torch==2.11.0
    /tmp/metrics/bin/python scripts/make_metric_pairs.py

The texts are made up here from lists of words; the seed is fixed, so that a second run writes the same file. tests/text reads it.
"""
import json
import pathlib
import random
import warnings
from importlib.metadata import version

import sacrebleu
from nltk.stem.porter import PorterStemmer
from rouge_score import rouge_scorer
from sacrebleu.metrics import BLEU
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a
from torchmetrics.functional.text.squad import _normalize_text, squad

PINNED = {"rouge-score": "0.1.2", "sacrebleu": "2.6.0", "nltk": "3.10.4", "torchmetrics": "1.9.0"}
OUTPUT = pathlib.Path(__file__).resolve().parents[1] / "tests" / "text" / "metric_pairs.json"
SEED = 20240501
PAIRS = 500
CORPUS = 25  # pairs a corpus

WORDS = """the a an of in to and is was on retriever retrieves retrieving retrieval budget budgets budgeted memory memories
compressing compressed compression generalizations rational relational conditionally hopefulness goodness sky skies flies dying
enjoyment happy happily adjustable replacement adoption communism controlling controlled rolling falling hissing agreed feeding
tokens token attention attended sparse sparsely cluster clusters key keys value values question questions answer answered
London Paris 14 1972 1,000.5 3.14 2024 don't it's U.S.A. e.g. well-known re-read km/h A AN THE""".split()
UNICODE = ["Röntgen", "Ro\u0308ntgen", "ΟΔΥΣΣΕΥΣ", "οδυσσευς", "МОСКВА", "москва", "İstanbul", "\u212aelvin", "質問", "答え。", "中文", "naïve",
           "\u201cquoted\u201d", "dash\u2014dash", "x\u00a0y", "x\u3000y", "e\u0301", "a\u0301", "ﬁne", "\U0001f600", "½", "²", "ß", "\u2028", "x\u200by",
           "\x1c", "Ａ", "ſ", "Ǆ", "a\u2019s"]
PUNCTUATION = list("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~") + ["...", "--", "-\n", "&quot;", "&amp;", "&lt;", "&gt;", "&amp;lt;", "<skipped>", ",.",
                                                           ".,", "1-2", "3-", "-4", ".5", "5.", "6,", ",7", "1.-2", "\u2026", "\u00ab", "'s"]
STEMS = """a by cat bl at iz fall hiss fizz fail fil hop tan plaster motor sing feed agre conflat troubl siz happ enjo sk fl sp relat ration valenc
hesit digit conform radic differ vil analog vietnam predic oper feud decis hope call form sensit sensib triplic electr good reviv allow infer
airlin gyroscop adjust defens irrit replac depend adopt homolog commun activ angular effect bowdler probat rat ceas control roll geo archae y yy
syzyg toy x1 99 1a2 oo queue rhythm lyl aeio str""".split()
SUFFIXES = """s es ies sses ss ied eed ed ing y ational tional enci anci izer bli abli alli entli eli ousli ization ation ator alism iveness
fulness ousness aliti iviti biliti fulli logi icate ative alize iciti ical ful ness al ance ence er ic able ible ant ement ment ent sion tion ion
ou ism ate iti ous ive ize e ll lle ley ings edly""".split()


def words_of(draw: random.Random, kind: str, count: int) -> list[str]:
    lists = {"plain": [WORDS], "unicode": [WORDS, UNICODE], "punctuation": [WORDS, PUNCTUATION], "only": [PUNCTUATION],
             "all": [WORDS, UNICODE, PUNCTUATION]}[kind]
    return [draw.choice(draw.choice(lists)) for _ in range(count)]


def join(draw: random.Random, words: list[str], lines: bool) -> str:
    """Most separators are blanks; some are nothing, other white space or newlines."""
    rare = ["", "  ", "\t", "\u00a0", "\r\n"] + (["\n"] * 20 + ["\n\n", "\n \n"] if lines else ["\n"])
    share = 0.25 if lines else 0.1
    return "".join(word + (draw.choice(rare) if draw.random() < share else " ") for word in words).strip(" " if draw.random() < 0.9 else "")


def changed(draw: random.Random, words: list[str], kind: str) -> list[str]:
    """Words dropped, replaced, doubled and moved, so that prediction and reference overlap."""
    out = []
    for word in words:
        action = draw.random()
        if action < 0.6:
            out.append(word)
        elif action < 0.7:
            out += [word, word]
        elif action < 0.8:
            out += words_of(draw, kind, 1)
        elif action < 0.9 and word.isalpha():
            out.append(word + draw.choice(["s", "ed", "ing", "ness", "ly", "ation", "ement"]))
    if len(out) > 3 and draw.random() < 0.4:
        cut = draw.randrange(1, len(out))
        out = out[cut:] + out[:cut]
    return out


def make_pair(draw: random.Random, index: int) -> tuple[str, list[str]]:
    kind = draw.choice(["plain", "unicode", "punctuation", "only", "all"])
    long = index % 10 == 0
    length = draw.randint(40, 120) if long else draw.choice([0, 1, 2, 3, 3, 4, 5, 8, 13, 21])
    words = words_of(draw, kind, length)
    references = [join(draw, words, long)]
    for _ in range(draw.choice([0, 0, 1, 2, 4])):
        other = changed(draw, words, kind) if draw.random() < 0.6 else words_of(draw, kind, draw.randint(1, 6))
        references.append("" if draw.random() < 0.1 else join(draw, other, long))
    draw.shuffle(references)
    prediction = draw.choice([changed, changed, changed, lambda d, w, k: w, lambda d, w, k: words_of(d, k, draw.randint(0, 9))])(draw, words, kind)
    return join(draw, prediction, long), references


def subspan(prediction: str, references: list[str]) -> float:
    """best_subspan_em of lost-in-the-middle, with SQuAD's normalisation."""
    return float(any(_normalize_text(reference).lower() in _normalize_text(prediction).lower() for reference in references))


def rounded(values) -> list[float]:
    return [round(float(value), 10) for value in values]


def rouge(scorer: rouge_scorer.RougeScorer, prediction: str, references: list[str]) -> list[list[float]]:
    scores = scorer.score_multi(references, prediction)
    return [rounded(scores[kind]) for kind in ["rouge1", "rouge2", "rougeL", "rougeLsum"]]


def corpora(pairs: list[tuple[str, list[str]]]) -> list[dict]:
    out = []
    for begin in range(0, len(pairs), CORPUS):
        block = pairs[begin:begin + CORPUS]
        most = max(len(references) for _, references in block)
        streams = [[references[i] if i < len(references) else None for _, references in block] for i in range(most)]
        score = BLEU().corpus_score([prediction for prediction, _ in block], streams)
        out.append({"begin": begin, "end": begin + len(block), "bleu": round(score.score / 100, 10),
                    "counts": [score.sys_len, score.ref_len, *map(int, score.counts), *map(int, score.totals)]})
    return out


def main() -> None:
    for package, wanted in PINNED.items():
        if version(package) != wanted:
            raise SystemExit(f"{package} {version(package)} is installed, {wanted} is wanted: see the first lines of this file")
    warnings.simplefilter("ignore")
    draw = random.Random(SEED)
    pairs = [make_pair(draw, index) for index in range(PAIRS)]
    kinds = ["rouge1", "rouge2", "rougeL", "rougeLsum"]
    plain, stemmed = rouge_scorer.RougeScorer(kinds), rouge_scorer.RougeScorer(kinds, use_stemmer=True)
    tokenize, stemmer = Tokenizer13a(), PorterStemmer()
    items = []
    for prediction, references in pairs:
        answers = {"id": "0", "answers": {"text": references, "answer_start": [0] * len(references)}}
        scores = squad({"id": "0", "prediction_text": prediction}, answers)
        items.append({
            "prediction": prediction, "references": references, "em": float(scores["exact_match"]) / 100, "f1": float(scores["f1"]) / 100,
            "subspan_em": subspan(prediction, references), "rouge": rouge(plain, prediction, references),
            "rouge_porter": rouge(stemmed, prediction, references), "tokens_13a": tokenize(prediction.rstrip()),
            "sentence_bleu": round(sacrebleu.sentence_bleu(prediction, references).score / 100, 10)})
    words = sorted({stem + suffix for stem in STEMS for suffix in ["", *SUFFIXES]} | {word.lower() for word in WORDS if word.isalnum()} |
                   {"sky", "skies", "dying", "lying", "tying", "news", "innings", "outing", "cannings", "howe", "proceed", "exceed", "succeed"})
    content = {"versions": PINNED, "seed": SEED, "pairs": items, "corpora": corpora(pairs),
               "stems": [[word, stemmer.stem(word)] for word in words if len(word) > 3]}
    OUTPUT.write_text(json.dumps(content, ensure_ascii=True, separators=(",", ":")).replace('},{"prediction"', '},\n{"prediction"') + "\n")
    print(f"{OUTPUT.name}: {len(items)} pairs, {len(content['stems'])} stems, {OUTPUT.stat().st_size} bytes")


if __name__ == "__main__":
    main()
