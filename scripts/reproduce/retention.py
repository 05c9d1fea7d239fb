#!/usr/bin/env python3
"""Information retention by where the fact stands, from what dsrsq-eval wrote.

    .venv/bin/python scripts/reproduce/retention.py last=FOLDER middle=FOLDER first=FOLDER

Each FOLDER holds results.json of the same rows over the same questions, the fact at another place of the text; the first named place is the
nearest to the question. Of each row: its F1 at every place, and the mean over the places behind the first of
(F1 there - F1 of question_only) / (F1 at the first - F1 of question_only), between 0 and 1.
"""

import json
import pathlib
import sys

CONTROL = "question_only"


def f1(folder):
    records = json.loads((pathlib.Path(folder) / "results.json").read_text())["records"]
    return {record["method"]: record["value"] for record in records if record["metric"] == "f1"}


def retention(near, far, without):
    """None where a row answers no better with the fact at hand than without a text."""
    if near <= without:
        return None
    return sum(min(1.0, max(0.0, (value - without) / (near - without))) for value in far) / len(far)


def main():
    places = [argument.partition("=") for argument in sys.argv[1:]]
    if len(places) < 2 or any(not folder for _, _, folder in places):
        sys.exit(__doc__)
    scores = {place: f1(folder) for place, _, folder in places}
    names = list(scores)
    rows = [row for row in scores[names[0]] if all(row in found for found in scores.values())]
    if CONTROL not in rows:
        sys.exit(f"retention.py: expected the row {CONTROL} in every folder, got {', '.join(rows)}")
    print("| row | " + " | ".join(f"F1, fact {name}" for name in names) + " | information retention |")
    print("|:---|" + "---:|" * (len(names) + 1))
    for row in rows:
        values = [scores[name][row] for name in names]
        kept = None if row == CONTROL else retention(values[0], values[1:], scores[names[0]][CONTROL])
        print(f"| {row} | " + " | ".join(f"{value:.3f}" for value in values) + f" | {'n/a' if kept is None else f'{kept:.3f}'} |")
    print("\nTemporal consistency and adaptation speed: not measured, these texts hold no fact that changes.")


if __name__ == "__main__":
    main()
