#!/usr/bin/env python3
"""A table and a figure of quality against bytes held, from what dsrsq-eval wrote.

    .venv/bin/python scripts/reproduce/budget_curve.py FOLDER     reads FOLDER/results.json, writes FOLDER/curve.md and FOLDER/curve.png

Rows that have a budget are called METHOD@BUDGET; others (dense attention) are a line of their own.
"""

import collections
import json
import pathlib
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

COLUMNS = [("f1", "F1"), ("em", "EM"), ("subspan_em", "subspan EM"), ("bytes_held", "bytes held, MB"), ("budget_bytes", "budget, MB"),
           ("prefill_bytes", "most held in prefill, MB"), ("peak_memory", "peak memory, MB"), ("latency_p50", "latency p50, ms")]
SCALE = {"bytes_held": 1e-6, "budget_bytes": 1e-6, "prefill_bytes": 1e-6, "peak_memory": 1e-6, "latency_p50": 1e3}


def read(folder):
    """{row: {metric: record}} in the order of the file."""
    rows = collections.OrderedDict()
    for record in json.loads((folder / "results.json").read_text())["records"]:
        rows.setdefault(record["method"], {})[record["metric"]] = record
    return rows


def cell(records, metric):
    record = records.get(metric)
    if record is None or record["value"] is None:
        return "n/a"
    value = record["value"] * SCALE.get(metric, 1)
    text = f"{value:.3f}" if metric not in SCALE else f"{value:.1f}"
    difference = record.get("difference")
    if metric == "f1" and difference:
        low, high = difference["ci"]
        text += f" ({difference['value']:+.3f} [{low:.3f}, {high:.3f}])"
    return text


def table(rows):
    lines = ["| row | " + " | ".join(title for _, title in COLUMNS) + " |", "|:---|" + "---:|" * len(COLUMNS)]
    for name, records in rows.items():
        lines.append(f"| {name} | " + " | ".join(cell(records, metric) for metric, _ in COLUMNS) + " |")
    return ("\n".join(lines) + "\n\nIn brackets: difference of F1 to the first row, question by question, with its 95 % paired bootstrap "
            "interval.\n" + below_random(rows))


def below_random(rows):
    """Rows that keep less of the answers than random entries of the same budget do."""
    found = []
    for name, records in rows.items():
        method, at, budget = name.partition("@")
        random = rows.get(f"random_eviction@{budget}")
        if at and random and method != "random_eviction" and records["f1"]["value"] < random["f1"]["value"]:
            found.append(name)
    return f"\nBelow random_eviction of the same budget: {', '.join(found) or 'none'}.\n"


def draw(rows, path):
    curves = collections.OrderedDict()
    figure, axes = plt.subplots(figsize=(8, 5))
    for name, records in rows.items():
        point = (records["bytes_held"]["value"] / 1e6, records["f1"]["value"])
        method, at, _ = name.partition("@")
        if at:
            curves.setdefault(method, []).append(point)
        else:
            axes.axhline(point[1], color="black", linewidth=1, linestyle="--")
            axes.annotate(f"{name}, {point[0]:.1f} MB", (1, point[1]), xycoords=("axes fraction", "data"), ha="right", va="bottom")
    markers = "osD^v<>PX*hp"
    for number, (method, points) in enumerate(curves.items()):
        points.sort()
        axes.plot(*zip(*points), marker=markers[number % len(markers)], label=method, color=plt.cm.tab20(number % 20))
    axes.set_xscale("log")
    axes.set_xlabel("bytes held a question (MB, log scale)")
    axes.set_ylabel("F1")
    axes.legend(fontsize=8, ncol=2, frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    folder = pathlib.Path(sys.argv[1])
    rows = read(folder)
    text = table(rows)
    (folder / "curve.md").write_text(text)
    draw(rows, folder / "curve.png")
    print(text)


if __name__ == "__main__":
    main()
