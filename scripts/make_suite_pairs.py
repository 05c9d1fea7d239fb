#!/usr/bin/env python3
"""Writes tests/text/suite_pairs.json: what the suites' scores are for pairs of a prediction and references.

    python3 -m venv /tmp/metrics && /tmp/metrics/bin/pip install rouge==1.0.1 fuzzywuzzy==0.18.0 python-Levenshtein==0.27.5
    /tmp/metrics/bin/python scripts/make_suite_pairs.py

ROUGE-L and the code similarity come from the packages that LongBench uses, the rest from the formulas of the papers' scripts, written
here anew. The texts are those of metric_pairs.json and some made up here from a fixed seed, so that a second run writes the same file.
"""
import collections
import json
import pathlib
import random
import re
import string
from importlib.metadata import version

from fuzzywuzzy import fuzz
from rouge import Rouge

PINNED = {"rouge": "1.0.1", "fuzzywuzzy": "0.18.0", "python-Levenshtein": "0.27.5"}
TESTS = pathlib.Path(__file__).resolve().parents[1] / "tests" / "text"
SEED = 20241129
PAIRS = 200
CLASSES = ["Food", "Food and drink", "drink", "City", "Other city", "city", "Sport", "Sport event", "event", "Other"]
LABELS = ["bathroom", "bedroom", "garden", "Kitchen", "office", "apple"]
CODE = ["def f(x):", "    return x + 1", "\t// a comment", "# include", "int main() {", "}", "", "    x = `y`", "foo(bar, baz)", "größe = 3;",
        "for i in range(10):", "# only", "std::vector<int> a;", "http://x"]


def overlap_f1(prediction: str, reference: str) -> float:
    def words(text: str) -> list[str]:
        text = "".join(c for c in text.lower() if c not in string.punctuation)
        return re.sub(r"\b(a|an|the)\b", " ", text).split()
    a, b = words(prediction), words(reference)
    common = sum((collections.Counter(a) & collections.Counter(b)).values())
    return 2 * common / (len(a) + len(b)) if common else 0.0


def set_rouge_l(prediction: str, reference: str) -> float:
    try:
        return Rouge().get_scores([prediction], [reference], avg=True)["rouge-l"]["f"]
    except ValueError:  # an empty text
        return 0.0


def code_similarity(prediction: str, reference: str) -> float:
    lines = [line for line in prediction.lstrip("\n").split("\n") if not re.search("[`#]|//", line)]
    return fuzz.ratio(lines[0] if lines else "", reference) / 100


def classification(prediction: str, reference: str) -> float:
    named = [c for c in CLASSES if c in prediction]
    for c in named:  # changes what it goes through, as LongBench does
        if c in reference and c != reference:
            named.remove(c)
    return 1 / len(named) if reference in named else 0.0


def number_share(prediction: str, reference: str) -> float:
    numbers = re.findall(r"\d+", prediction)
    return numbers.count(reference) / len(numbers) if numbers else 0.0


def paragraph_share(prediction: str, reference: str) -> float:
    return number_share(prediction, re.search(r"(?:Paragraph |段落)(\d+)", reference).group(1))


def single_label(prediction: str, question: str, reference: str) -> float:
    sentence = re.split(r"\.|<context>|<example>", prediction.lower())[0]
    named = {l.lower() for l in LABELS if l.lower() in sentence} - {l.lower() for l in LABELS if l.lower() in question.lower()}
    return float(named == {reference.lower()})


def best(score, prediction: str, references: list[str]) -> float:
    return max([0.0] + [score(prediction, reference) for reference in references])


def of_texts(item: dict) -> dict:
    prediction, references = item["prediction"], item["references"]
    found = [reference.lower() in prediction.lower() for reference in references]
    return {"overlap_f1": best(overlap_f1, prediction, references), "set_rouge_l": best(set_rouge_l, prediction, references),
            "code_similarity": best(code_similarity, prediction, references),
            "string_match_all": sum(found) / len(found), "string_match_part": float(any(found))}


def summary(draw: random.Random) -> str:
    """Sentences, some of them empty, in a small vocabulary, so that subsequences have equals."""
    sentences = [" ".join(draw.choice("a b c d e The the x1 \n é".split(" ")) for _ in range(draw.randint(0, 9))) for _ in range(draw.randint(0, 5))]
    return draw.choice([". ", ".", " . "]).join(sentences) + draw.choice(["", ".", ".."])


def made(draw: random.Random) -> list[dict]:
    items = []
    choose = lambda words, most: draw.choices(words, k=draw.randint(0, most))
    for _ in range(PAIRS):
        prediction, references = summary(draw), [summary(draw) for _ in range(draw.randint(1, 2))]
        items.append({"metric": "set_rouge_l", "prediction": prediction, "references": references, "score": best(set_rouge_l, prediction, references)})
        prediction = "\n" * draw.randint(0, 2) + "\n".join(choose(CODE, 4))
        references = [draw.choice(CODE), draw.choice(CODE)]
        items.append({"metric": "code_similarity", "prediction": prediction, "references": references,
                      "score": best(code_similarity, prediction, references)})
        prediction, references = draw.choice([", ", " ", ""]).join(choose(CLASSES, 4)), [draw.choice(CLASSES)]
        items.append({"metric": "classification", "prediction": prediction, "references": references, "classes": CLASSES,
                      "score": best(classification, prediction, references)})
        number = str(draw.randint(1, 12))
        prediction = draw.choice([" ", ", ", "x", ""]).join(choose([number, "Paragraph " + number, "3", "段落7", "12", "１２", "٣", "x", "1.5", "-2"], 5))
        items.append({"metric": "number_share", "prediction": prediction, "references": [number], "score": number_share(prediction, number)})
        reference = draw.choice([f"Paragraph {number}", f"段落{number}", f"Paragraph {number}, Paragraph 3"])
        items.append({"metric": "paragraph_share", "prediction": prediction, "references": [reference],
                      "score": paragraph_share(prediction, reference)})
        words = [*LABELS, *map(str.upper, LABELS), "is", "in", "the", ".", "<context>", "<EXAMPLE>"]
        reference = draw.choice(LABELS)
        prediction, question = " ".join(choose([*words, reference, reference], 4)), " ".join(choose(words, 2))
        items.append({"metric": "single_label", "prediction": prediction, "references": [reference], "classes": LABELS, "question": question,
                      "score": single_label(prediction, question, reference)})
    return items


def main() -> None:
    for package, wanted in PINNED.items():
        if version(package) != wanted:
            raise SystemExit(f"{package} {version(package)} is installed, {wanted} is wanted: see the first lines of this file")
    texts = json.loads((TESTS / "metric_pairs.json").read_text())["pairs"]
    content = {"versions": PINNED, "seed": SEED, "of_metric_pairs": list(map(of_texts, texts)), "made": made(random.Random(SEED))}
    output = TESTS / "suite_pairs.json"
    output.write_text(json.dumps(content, ensure_ascii=True, separators=(",", ":")).replace('},{"', '},\n{"') + "\n")
    print(f"{output.name}: {len(content['of_metric_pairs'])} + {len(content['made'])} pairs, {output.stat().st_size} bytes")


if __name__ == "__main__":
    main()
