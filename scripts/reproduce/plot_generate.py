#!/usr/bin/env python3
"""Draws what `dsrsq-bench --suite generate` wrote: time to the first token, time of a decoded token, most memory and bytes held against the
length of the context, a line a method and a column a batch size.

    .venv/bin/python scripts/reproduce/plot_generate.py --results data/results/generate_h200.json --output generate_h200.png

Several files of one device and one model are one sweep; a case that stands in several is taken from the last. Writes the SVG beside the PNG,
and prints the same as a table with the lengths from which on a method is faster than dense. Bars from the 10th to the 90th percentile of the rounds; both axes are logarithmic.
"""

import argparse
import json
import pathlib
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from plot_parts import BLUE, GREEN, STYLE, VERMILLION, axis_formatter  # noqa: E402
from report_data import Record, format_value  # noqa: E402

PANELS = [("prefill", "Time to the first token", "s"), ("token_latency", "Time of a decoded token", "s"),
          ("peak_memory", "Peak memory above the weights", "bytes"), ("bytes_held", "Bytes held a sequence", "bytes")]
MODEL = ("layers", "width", "heads", "mlp_width", "vocabulary", "clusters", "slots", "window", "latent_width", "buffer", "segment", "budget", "question")
METHODS = {"dense": ("dense", "#333333", "s"), "sqa": ("SQA", BLUE, "o"), "rckv": ("RCKV", GREEN, "D"), "all": ("DSR + SQA + RCKV", VERMILLION, "^")}


def length_text(tokens):
    return f"{int(tokens) // 1024}K" if tokens % 1024 == 0 else f"{int(tokens):,}"


def lines(records, metric, batch):
    """{method: records by length} of one batch size."""
    found = {}
    for record in records:
        if record["metric"] == metric and record["shape"]["batch"] == batch and record["value"] is not None:
            found.setdefault(record["method"], []).append(record)
    return {method: sorted(found[method], key=lambda r: r["shape"]["tokens"]) for method in METHODS if method in found}


def draw(axes, records, metric, unit, batch):
    for method, line in lines(records, metric, batch).items():
        name, color, marker = METHODS[method]
        values = [r["value"] for r in line]
        spread = [[r["value"] - r.get("p10", r["value"]) for r in line], [r.get("p90", r["value"]) - r["value"] for r in line]]
        axes.errorbar([r["shape"]["tokens"] for r in line], values, yerr=spread, color=color, marker=marker, markersize=5, capsize=2, label=name)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    lengths = sorted({r["shape"]["tokens"] for r in records if r["metric"] == metric})
    axes.set_xticks(lengths, [length_text(n) for n in lengths])
    axes.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
    axes.yaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(axis_formatter(unit))
    axes.yaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())


def figure_of(records, device):
    batches = sorted({r["shape"]["batch"] for r in records if r["metric"] == "prefill"})
    alone = len(batches) == 1  # then the four panels stand two by two
    lines_of_panels, columns = (2, 2) if alone else (len(PANELS), len(batches))
    figure, grid = plt.subplots(lines_of_panels, columns, figsize=(1.5 + 4.2 * columns, 0.8 + 3.1 * lines_of_panels), layout="constrained",
                                sharex=True, sharey="none" if alone else "row", squeeze=False)
    for place, axes in enumerate(grid.flat):
        (metric, title, unit), batch = PANELS[place if alone else place // columns], batches[0 if alone else place % columns]
        draw(axes, records, metric, unit, batch)
        axes.set_title(f"{title}, batch {batch:g}", fontsize=10)
    for axes in grid[-1]:
        axes.set_xlabel("tokens of context")
    handles, names = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names))
    shape = next(r["shape"] for r in records if r["metric"] == "prefill")
    figure.suptitle(f"{device}: {shape['layers']:g} layers of width {shape['width']:g}, random weights; {shape['slots']:g} of "
                    f"{shape['clusters']:g} clusters,\nwindow {shape['window']:g}, {shape['buffer']:g} latents, {shape['budget']:g} tokens chosen",
                    fontsize=10)
    return figure


def table(records):
    def cell(record):
        return format_value(Record(record["value"], record["unit"], float("nan"), float("nan"))) if record else "n/a"
    values = {(r["shape"]["batch"], r["shape"]["tokens"], r["method"], r["metric"]): r for r in records}
    columns = ["prefill", "prefill_speedup", "token_latency", "decode_speedup", "peak_memory", "bytes_held", "prefill_flops", "token_flops"]
    print("| batch | context | method | first token | x dense | a token | x dense | peak memory | held a sequence | FLOP, prefill | FLOP, a token |")
    print("|---:|---:|:---|" + "---:|" * len(columns))
    for batch, tokens, method in dict.fromkeys(key[:3] for key in values):
        print(f"| {batch:g} | {length_text(tokens)} | {METHODS[method][0]} | "
              + " | ".join(cell(values.get((batch, tokens, method, metric))) for metric in columns) + " |")
    print()
    for batch, method, what, line in break_even(records):
        length = None
        for record in reversed(line):
            if record["value"] <= 1:
                break
            length = record["shape"]["tokens"]
        found = f"from {length_text(length)} on" if length else "at no length"
        print(f"- batch {batch:g}, {METHODS[method][0]}, {what}: faster than dense {found} (measured: "
              f"{', '.join(length_text(r['shape']['tokens']) for r in line)})")


def break_even(records):
    """Of each batch, method and phase: its speedups over dense, by length."""
    for metric, what in (("prefill_speedup", "first token"), ("decode_speedup", "decoding")):
        for batch in sorted({r["shape"]["batch"] for r in records if r["metric"] == metric}):
            for method, line in lines(records, metric, batch).items():
                yield batch, method, what, line


def read(paths):
    """The records of all files, each case from the last that has it, and their device."""
    cases, devices, models = {}, set(), set()
    for path in paths:
        try:
            results = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
            records = [r for r in results["records"] if not r["metric"].startswith("break_even")]
            devices.add(results["provenance"]["device"])
            for case in {r["case"] for r in records}:
                cases[case] = [r for r in records if r["case"] == case]
            models |= {tuple((key, r["shape"][key]) for key in MODEL) for r in records}
        except (OSError, ValueError, KeyError, TypeError) as error:
            sys.exit(f"plot_generate: {path}: expected what dsrsq-bench --suite generate wrote: {error!r}")
    if not cases or len(devices) > 1 or len(models) > 1:
        sys.exit(f"plot_generate: expected the sweep of one model on one device, got {len(models)} models on {', '.join(devices) or 'none'}")
    records = [record for case in cases.values() for record in case]
    return sorted(records, key=lambda r: (r["shape"]["batch"], r["shape"]["tokens"])), devices.pop()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", nargs="+", required=True, metavar="FILE")
    parser.add_argument("--output", required=True, metavar="PNG")
    args = parser.parse_args()
    records, device = read(args.results)
    with plt.rc_context(STYLE):
        figure = figure_of(records, device)
        figure.savefig(args.output, dpi=150)
        figure.savefig(pathlib.Path(args.output).with_suffix(".svg"), metadata={"Date": None})
    table(records)


if __name__ == "__main__":
    main()
