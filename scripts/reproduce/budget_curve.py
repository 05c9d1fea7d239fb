#!/usr/bin/env python3
"""A table and a figure of quality against bytes held, from what dsrsq-eval wrote.

    .venv/bin/python scripts/reproduce/budget_curve.py FOLDER     reads FOLDER/results.json, writes FOLDER/curve.md and FOLDER/curve.png

Rows that have a budget are called METHOD@BUDGET; others (dense attention) are a line of their own. Where the bytes were not measured
(--measure costs), the figure is of quality against the budget that was asked for.
"""

import collections
import json
import pathlib
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

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


def table(rows):
    columns = [c for c in COLUMNS if any(value(records, c[0]) is not None for records in rows.values())]
    lines = ["| row | " + " | ".join(title for _, title in columns) + " |", "|:---|" + "---:|" * len(columns)]
    for name, records in rows.items():
        lines.append(f"| {name} | " + " | ".join(cell(records, metric) for metric, _ in columns) + " |")
    return ("\n".join(lines) + "\n\nIn brackets: difference of F1 to the first row, question by question, with its 95 % paired bootstrap "
            "interval. Answer held: share of the answer tokens' entries, over layers and heads, that are exact keys when the answer is "
            "decoded.\n\n" + below_random(rows))


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


def below_random(rows):
    """Rows that answer worse than random entries or tokens of the same budget, each with what it lost."""
    lines, compared = [], 0
    for name, records in rows.items():
        method, at, budget = name.partition("@")
        control = control_of(records, rows, budget) if at and method not in CONTROLS else None
        if control is None:
            continue
        compared += 1
        other = rows[f"{control}@{budget}"]
        if value(records, "f1") < value(other, "f1"):
            lines.append(f"| {name} | {value(records, 'f1'):.3f} | {control} {value(other, 'f1'):.3f} | {cause(records, other)} |")
    if not compared:
        return "No row of random entries or tokens to compare with.\n"
    if not lines:
        return "No row is below random entries (or random tokens, where a method chooses before it reads) of its budget.\n"
    return "\n".join(["| below random | F1 | control of the same budget | cause |", "|:---|---:|---:|:---|"] + lines) + "\n"


def draw(rows, path):
    measured = any(value(records, "bytes_held") is not None for records in rows.values())
    curves = collections.OrderedDict()
    figure, axes = plt.subplots(figsize=(9, 6))
    for name, records in rows.items():
        method, at, budget = name.partition("@")
        if measured and value(records, "bytes_held") is None:
            continue
        if measured:
            x = records["bytes_held"]["value"] / 1e6
        elif at and budget.endswith("%"):
            x = float(budget[:-1])
        else:  # without a budget to stand at: a line
            axes.axhline(value(records, "f1"), color="0.6", linewidth=0.8, linestyle="--")
            axes.annotate(name, (1, value(records, "f1")), xycoords=("axes fraction", "data"), textcoords="offset points", xytext=(-3, 2),
                          ha="right", fontsize=7, color="0.35")
            continue
        point = (x, value(records, "f1"))
        if at:
            curves.setdefault(method, []).append(point)
        else:
            axes.plot(*point, "k*", markersize=9)
            axes.annotate(name, point, textcoords="offset points", xytext=(5, 5), fontsize=8)
    markers = "osD^v<>PX*hp"
    for number, (method, points) in enumerate(curves.items()):
        points.sort()
        axes.plot(*zip(*points), marker=markers[number % len(markers)], markersize=5, label=method, color=plt.cm.tab20(number % 20))
    axes.set_xscale("log")
    if not measured:
        ticks = sorted({x for points in curves.values() for x, _ in points})
        axes.set_xticks(ticks, [f"{t:g} %" for t in ticks])
        axes.minorticks_off()
    axes.set_xlabel("bytes held a question (MB, log scale)" if measured else "budget, share of the context (log scale)")
    axes.set_ylabel("F1")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
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
