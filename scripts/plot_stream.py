#!/usr/bin/env python3
"""Draws what a stream costs and how old its memory is against how long it is: time of a token, state, memory of the process, age.

    .venv/bin/python scripts/plot_stream.py --results results.json --output stream.png

Results: those of scripts/reproduce/stream.sh and of `dsrsq-bench --suite stream`.
"""
import argparse
import json
import pathlib
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

from plot_parts import PALETTE, STYLE  # noqa: E402

MEGABYTE = 1e6
COLUMNS = 3
# (metrics, title, unit, factor)
PANELS = [
    (["token_core_time", "token_time"], "Time of a token", "µs", 1e6),
    (["state"], "What is carried on", "MB", 1 / MEGABYTE),
    (["rss_anon"], "Memory of the process (RssAnon)", "MB", 1 / MEGABYTE),
    (["age_median"], "Median age of a held pair", "tokens", 1),
    (["scan"], "Search of all history, a question", "ms", 1e3),
]


def points(records, metrics):
    """{method: [(tokens, value)]} of the first of the metrics that there is."""
    for metric in metrics:
        found = {}
        for record in records:
            if record["metric"] == metric and "tokens" in record["shape"]:
                found.setdefault(record["method"], []).append((record["shape"]["tokens"], record["value"]))
        if found:
            return metric, {method: sorted(values) for method, values in found.items()}
    return metrics[0], {}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", required=True)
    parser.add_argument("--output", required=True)
    args = parser.parse_args()
    records = json.loads(pathlib.Path(args.results).read_text(encoding="utf-8"))["records"]
    panels = [(points(records, metrics), title, unit, factor) for metrics, title, unit, factor in PANELS]
    panels = [panel for panel in panels if panel[0][1]]
    if not panels:
        print(f"plot_stream: {args.results}: expected metrics of a stream (token_time, state, ...), found none", file=sys.stderr)
        return 2
    plt.rcParams.update(STYLE)
    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    figure, grid = plt.subplots(rows, columns, figsize=(4.6 * columns, 3.4 * rows), layout="constrained", squeeze=False)
    for unused in grid.flat[len(panels):]:
        unused.set_axis_off()
    methods = sorted({method for (_, found), *_ in panels for method in found})
    for axes, ((metric, found), title, unit, factor) in zip(grid.flat, panels):
        for method, values in found.items():
            # Rows often lie on one another: a broad line below a dashed one.
            index = methods.index(method)
            axes.plot([tokens for tokens, _ in values], [value * factor for _, value in values], marker=".", label=method,
                      color=PALETTE[index % len(PALETTE)], linewidth=1.5 if index else 3.5, linestyle="--" if index else "-",
                      zorder=2 + index)
        axes.set_title(title)
        axes.set_ylabel(unit)
        axes.set_xlabel("tokens searched" if metric == "scan" else "tokens read")
        axes.set_ylim(0, 1.08 * axes.get_ylim()[1])
        axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1e6:g}M" if value >= 1e6 else f"{value / 1e3:g}K" if value else "0")
        if len(found) > 1:
            axes.legend()
    figure.savefig(args.output, dpi=150)
    print("wrote", args.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
