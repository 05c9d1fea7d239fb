#!/usr/bin/env python3
"""Draws what `dsrsq-bench --suite attention` wrote: time against length, both axes logarithmic, a panel a pass.

    .venv/bin/python scripts/plot_bench.py --results data/results/cluster_attention{,_skewed}_h200.json --output cluster_attention_h200.png

A line joins the cases of one method that differ in length; cases of m = 32 and those whose m grows with the length are two lines.
Bars from the 10th to the 90th percentile; the number at a point is how many times faster than the faster dense backend it is.
"""

import argparse
import json
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

from plot_parts import BLUE, GREY, SKY, STYLE, VERMILLION  # noqa: E402

PANELS = [("forward", "Forward"), ("forward_backward", "Forward and backward")]
DENSE = {"dense_cudnn": ("dense, cuDNN", "#333333", "-"), "dense_flash": ("dense, flash", GREY, "--"), "dense": ("dense", "#333333", "-")}
FIXED = 32  # m of the paper
CLUSTERED = {("balanced", False): ("clusters, m grows with n", BLUE), ("balanced", True): (f"clusters, m = {FIXED}", VERMILLION),
             ("skewed", False): ("clusters, skewed, m grows with n", SKY), ("skewed", True): (f"clusters, skewed, m = {FIXED}", "#E69F00")}


def series(records: list[dict], metric: str) -> dict[tuple, list[dict]]:
    """Records of one line, by length."""
    lines: dict[tuple, list[dict]] = {}
    for record in records:
        if record["metric"] != metric:
            continue
        routing = record["case"].split(",")[0]
        if record["method"] in DENSE:
            lines.setdefault((record["method"],), []).append(record)
        else:
            lines.setdefault((routing, record["shape"]["clusters"] == FIXED), []).append(record)
    for key, line in lines.items():
        line.sort(key=lambda r: r["shape"]["tokens"])
        if len(key) == 1:  # every case times the dense backends: one value a length
            lines[key] = list({r["shape"]["tokens"]: r for r in line}.values())
    return lines


def draw(axes: plt.Axes, records: list[dict], metric: str, title: str) -> None:
    speedups = {(r["case"], r["method"]): r["value"] for r in records if r["metric"] == metric + "_speedup"}
    for key, line in sorted(series(records, metric).items(), key=lambda item: len(item[0])):
        name, color, style = DENSE[key[0]] if len(key) == 1 else (*CLUSTERED[key], "-")
        lengths = [r["shape"]["tokens"] for r in line]
        milliseconds = [1e3 * r["value"] for r in line]
        spread = [[1e3 * (r["value"] - r["p10"]) for r in line], [1e3 * (r["p90"] - r["value"]) for r in line]]
        axes.errorbar(lengths, milliseconds, yerr=spread, color=color, linestyle=style, marker="o", markersize=5, capsize=2, label=name)
        for r in line:
            speedup = speedups.get((r["case"], r["method"]))
            if speedup is not None and key[0] == "balanced":  # skewed ones stand between the two lines
                axes.annotate(f"{speedup:.1f} x", (r["shape"]["tokens"], 1e3 * r["value"]), xytext=(7, -3) if key[1] else (6, -11),
                              textcoords="offset points", fontsize=9, color=color)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    lengths = sorted({r["shape"]["tokens"] for r in records})
    axes.set_xticks(lengths, [f"{int(n) // 1024}K" if n < 1 << 20 else f"{int(n) >> 20}M" for n in lengths])
    axes.minorticks_off()
    axes.margins(x=0.12)
    axes.set_title(title)
    axes.set_xlabel("tokens")
    axes.set_ylabel("time (ms)")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", nargs="+", required=True, metavar="FILE", help="what dsrsq-bench wrote, on one device")
    parser.add_argument("--output", required=True, metavar="PNG")
    args = parser.parse_args(argv)
    records, devices = [], set()
    for path in args.results:
        try:
            with open(path, encoding="utf-8") as file:
                results = json.load(file)
            records += results["records"]
            devices.add(results["provenance"]["device"])
        except (OSError, ValueError, KeyError) as error:
            print(f"plot_bench: {path}: {error}", file=sys.stderr)
            return 3
    if not any(r["metric"] == "forward" for r in records) or len(devices) != 1:
        print(f"plot_bench: expected records of the metric forward, all of one device, got devices {sorted(devices)}; "
              "give what dsrsq-bench wrote on one", file=sys.stderr)
        return 3
    shape = next(r["shape"] for r in records if r["metric"] == "forward")
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(1, len(PANELS), figsize=(12, 5), layout="constrained")
        for axes, (metric, title) in zip(panels, PANELS):
            draw(axes, records, metric, title)
        panels[0].legend(loc="upper left", fontsize=9.5)
        figure.suptitle(f"{devices.pop()}: batch {shape['batch']:g}, {shape['heads']:g} heads of width {shape['width']:g}, "
                        f"{shape['slots']:g} clusters a query, window {shape['window']:g}, sinks {shape['sinks']:g}", fontsize=11)
        figure.savefig(args.output, dpi=150)
    return 0


if __name__ == "__main__":
    sys.exit(main())
