#!/usr/bin/env python3
"""A table and a figure of quality against the budget, from what dsrsq-eval wrote.

    .venv/bin/python scripts/reproduce/budget_curve.py FOLDER
        reads FOLDER/results.json and FOLDER/questions.jsonl, writes FOLDER/curve.md and FOLDER/curve.png

Rows that have a budget are called METHOD@BUDGET; others (dense attention) are a level or a point of their own. The figure, the report's too
(scripts/plot.py), shows F1 and EM against the budget and, where the bytes were measured (--measure costs), against the bytes held.
"""

import collections
import json
import pathlib
import sys

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from plot_parts import STYLE, WIDE  # noqa: E402
from plot_results import BUDGET_QUALITY, draw_sweeps  # noqa: E402
from report_data import read_results  # noqa: E402

COLUMNS = [("f1", "F1"), ("em", "EM"), ("subspan_em", "subspan EM"), ("answer_held", "answer held"), ("bytes_held", "bytes held, MB"),
           ("budget_bytes", "budget, MB"), ("prefill_bytes", "most held in prefill, MB"), ("peak_memory", "peak memory, MB"),
           ("latency_p50", "latency p50, ms")]
SCALE = {"bytes_held": 1e-6, "budget_bytes": 1e-6, "prefill_bytes": 1e-6, "peak_memory": 1e-6, "latency_p50": 1e3}
# Random entries for what reads everything and evicts, random tokens for what chooses before it reads.
CONTROLS = ["random_eviction", "random"]


def read(folder):
    """{row: {metric: record}} in the order of the file."""
    rows = collections.OrderedDict()
    for record in json.loads((folder / "results.json").read_text())["records"]:
        rows.setdefault(record["method"], {})[record["metric"]] = record
    return rows


def value(records, metric):
    record = records.get(metric)
    return None if record is None else record["value"]


def cell(records, metric):
    found = value(records, metric)
    if found is None:
        return "n/a"
    text = f"{found * SCALE[metric]:.1f}" if metric in SCALE else f"{found:.3f}"
    difference = records[metric].get("difference")
    if metric == "f1" and difference:
        low, high = difference["ci"]
        text += f" ({difference['value']:+.3f} [{low:.3f}, {high:.3f}])"
    return text


def table(rows, scores):
    columns = [c for c in COLUMNS if any(value(records, c[0]) is not None for records in rows.values())]
    lines = ["| row | " + " | ".join(title for _, title in columns) + " |", "|:---|" + "---:|" * len(columns)]
    for name, records in rows.items():
        lines.append(f"| {name} | " + " | ".join(cell(records, metric) for metric, _ in columns) + " |")
    return ("\n".join(lines) + "\n\nIn brackets: difference of F1 to the first row, question by question, with its 95 % paired bootstrap "
            "interval. Answer held: share of the answer tokens' entries, over layers and heads, that are exact keys when the answer is "
            "decoded.\n\n" + below_random(rows, scores))


def control_of(records, rows, budget):
    chooses = value(records, "token_efficiency") < 1 or value(records, "answer_recall") is not None and value(records, "answer_recall") < 1
    for name in (CONTROLS[1], CONTROLS[0]) if chooses else CONTROLS:
        if f"{name}@{budget}" in rows:
            return name
    return None


def cause(records, control):
    """What of the answer was lost, in the evaluation's own numbers."""
    read_share, random_read = value(records, "answer_recall"), value(control, "answer_recall")
    held, random_held = value(records, "answer_held"), value(control, "answer_held")
    if read_share is not None and random_read is not None and read_share < 1:
        verb = "fewer" if read_share < random_read else "no fewer"
        return f"{verb} of the answer's tokens are read: {read_share:.3f} against {random_read:.3f}"
    if held is None or random_held is None:
        return "no question has its answer marked"
    if held == random_held == 1:
        return "not by losing the answer: all of its entries are held, and read in another order or not by every query"
    if held < random_held:
        return f"more of the answer is evicted: {held:.3f} of its entries are held against {random_held:.3f}"
    density, random_density = value(records, "density"), value(control, "density")
    return (f"not by losing the answer: {held:.3f} of its entries are held against {random_held:.3f}; what goes is around it "
            f"(density {density:.3f} against {random_density:.3f})")


def f1_by_question(path):
    """{row: F1 of its questions, in the order of the split}."""
    scores = collections.defaultdict(list)
    with open(path) as file:
        for line in file:
            question = json.loads(line)
            scores[question["row"]].append(question["f1"])
    return {row: np.array(values) for row, values in scores.items()}


def interval(differences):
    """95 % of the means of 1,000 resamples of the questions."""
    draws = np.random.default_rng(0).integers(0, len(differences), (1000, len(differences)))
    return np.quantile(differences[draws].mean(1), [0.025, 0.975])


def below_random(rows, scores):
    """Rows that answer worse than random entries or tokens of the same budget, beyond chance, each with what it lost."""
    lines, compared = [], 0
    for name, records in rows.items():
        method, at, budget = name.partition("@")
        control = control_of(records, rows, budget) if at and method not in CONTROLS else None
        if control is None:
            continue
        compared += 1
        differences = scores[name] - scores[f"{control}@{budget}"]
        low, high = interval(differences)
        if high < 0:
            lines.append(f"| {name} | {value(records, 'f1'):.3f} | {control} | {differences.mean():+.3f} [{low:.3f}, {high:.3f}] | "
                         f"{cause(records, rows[f'{control}@{budget}'])} |")
    if not compared:
        return "No row of random entries or tokens to compare with.\n"
    if not lines:
        return "No row is below random entries (or random tokens, where a method chooses before it reads) of its budget.\n"
    head = ["| below random | F1 | control of the same budget | difference | cause |", "|:---|---:|:---|---:|:---|"]
    return ("Below random: rows whose paired 95 % bootstrap interval of the difference to random entries (random tokens, where a method "
            "chooses before it reads) of the same budget is below 0.\n\n" + "\n".join(head + lines) + "\n")


def draw(path, image):
    with plt.rc_context(STYLE):
        figure = draw_sweeps(read_results([str(path)]), BUDGET_QUALITY, WIDE)
        if figure is None:
            print(f"budget_curve.py: {path}: no method was measured at several budgets: no figure", file=sys.stderr)
            return
        figure.savefig(image, dpi=150, bbox_inches="tight")


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    folder = pathlib.Path(sys.argv[1])
    rows = read(folder)
    text = table(rows, f1_by_question(folder / "questions.jsonl"))
    (folder / "curve.md").write_text(text)
    draw(folder / "results.json", folder / "curve.png")
    print(text)


if __name__ == "__main__":
    main()
