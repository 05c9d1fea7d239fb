#!/usr/bin/env python3
"""Draws what `dsrsq-bench --suite trained` wrote: what a model loses by reading fewer keys, chosen by clusters or by blocks.

    .venv/bin/python scripts/plot_trained.py --results data/results/trained_attention_h200.json --output trained_attention_h200.png

Left the loss above dense attention's, right the share of dense attention's probability on the keys that are read, both against the
share of query-key pairs; the numbers at the points are the clusters or blocks that a query reads.
"""

import argparse
import json
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

from plot_parts import BLUE, GREY, STYLE, VERMILLION  # noqa: E402

PANELS = [("loss_gap", "loss above dense (nats a token)"), ("mass_recall", "dense attention's probability that is read")]
METHODS = {"cluster_attention": ("clusters (SQA)", BLUE, "o-"), "blocks": ("blocks by mean key (MoBA)", VERMILLION, "s-"),
           "window": ("window and sinks alone", GREY, "D")}


def points(records: list[dict]) -> dict[str, dict[float, dict[str, float]]]:
    """{method: {slots: {metric: value}}} of the records over all layers."""
    found: dict[str, dict[float, dict[str, float]]] = {}
    for r in records:
        if "layers" in r["shape"] and r["method"] in METHODS:
            found.setdefault(r["method"], {}).setdefault(r["shape"]["slots"], {})[r["metric"]] = r["value"]
    return found


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", required=True, metavar="FILE", help="what dsrsq-bench --suite trained wrote, of one case")
    parser.add_argument("--output", required=True, metavar="PNG")
    args = parser.parse_args(argv)
    try:
        with open(args.results, encoding="utf-8") as file:
            results = json.load(file)
        found = points(results["records"])
        shape = next(r["shape"] for r in results["records"] if "layers" in r["shape"])
    except (OSError, ValueError, KeyError, StopIteration) as error:
        print(f"plot_trained: {args.results}: expected records of dsrsq-bench --suite trained: {error!r}", file=sys.stderr)
        return 3
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(1, 2, figsize=(12, 5), layout="constrained")
        for axes, (metric, title) in zip(panels, PANELS):
            for method, (name, color, style) in METHODS.items():
                line = sorted(found.get(method, {}).items())
                x, y = [p["density"] for _, p in line], [p[metric] for _, p in line]
                axes.plot(x, y, style, color=color, label=name)
                for (slots, _), at in zip(line, zip(x, y)):
                    if slots > 0:
                        above = (method == "cluster_attention") == (metric == "mass_recall")
                        axes.annotate(f"{slots:g}", at, xytext=(0, 7 if above else -15), textcoords="offset points", ha="center",
                                      color=color, fontsize=9)
            axes.set_xscale("log")
            ticks = [0.03, 0.05, 0.1, 0.2]
            axes.set_xticks(ticks, [f"{100 * t:g} %" for t in ticks])
            axes.minorticks_off()
            axes.set_xlabel("query-key pairs read")
            axes.set_title(title)
        panels[0].set_ylim(bottom=0)
        panels[0].legend(loc="upper right", fontsize=9.5)
        figure.suptitle(f"{shape['tokens']:g} tokens, {shape['clusters']:g} clusters or blocks, window {shape['window']:g}, sinks {shape['sinks']:g}; "
                        f"{shape['layers']:g} layers, {shape['heads']:g} heads", fontsize=11)
        figure.savefig(args.output, dpi=150)
    return 0


if __name__ == "__main__":
    sys.exit(main())
