#!/usr/bin/env python3
"""Draws a report from what dsrsq-eval and dsrsq-train wrote: figures as PNG and SVG, and one self-contained report.html.

    .venv/bin/python scripts/plot.py --results A/eval/results.json [more] --runs name=RUN_FOLDER ... --output FOLDER

The table of the report is the `table.md` beside each results.json; where there is none, it is made from the records. A value
that was not measured is shown as n/a, never as 0. A figure that nothing was measured for is left out.
"""

import argparse
import math
import os
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator  # noqa: E402

from report_data import InputError, Results, Run, format_value, read_results, read_run, scale_of  # noqa: E402
from report_page import write_report  # noqa: E402

# Okabe and Ito's colour-blind safe palette; its yellow cannot be read on white, grey stands in for it.
BLUE, ORANGE, GREEN, VERMILLION, PURPLE, SKY, BLACK, GREY = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000", "#7F7F7F")
PALETTE = [BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY, BLACK, GREY]
STYLE = {
    "font.size": 11, "axes.titlesize": 12, "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.labelsize": 11,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True, "grid.color": "#E3E3E3",
    "grid.linewidth": 0.8, "axes.edgecolor": "#555555", "xtick.color": "#333333", "ytick.color": "#333333",
    "legend.frameon": False, "savefig.facecolor": "white", "svg.hashsalt": "dsrsq",
}
LOSS_TERMS = [("train/loss", "Training loss, all terms weighted"), ("train/task", "Task: cross-entropy of answers (nats a token)"),
              ("train/retrieval", "Retrieval (nats)"), ("train/compression", "Compression: relative squared error"),
              ("validation/loss", "Validation: cross-entropy of answers (nats a token)")]
# Key, title and, where there is one, the key of what it is driven to.
REWARD = [("ppo/reward", "Reward"), ("ppo/task_score", "Task score"),
          ("ppo/token_share", "Tokens read, share of the context (dashed: target)", "ppo/target_share"),
          ("ppo/token_cost", "Token cost: weight in the reward")]
POLICY = [("ppo/clip_fraction", "Clipped ratios (share of picks)"), ("ppo/approximate_kl", "Approximate KL to the rollout's policy (nats)"),
          ("ppo/entropy", "Entropy of picks (1: uniform)"), ("ppo/budget_entropy", "Entropy of budget bins"),
          ("ppo/evidence_recall", "Recall of evidence tokens in rollouts"), ("ppo/answer_recall", "Recall of answer tokens in rollouts"),
          ("ppo/value_loss", "Loss of the critic")]
HELD_OUT = [("validation/em", "Exact match"), ("validation/f1", "Token F1"), ("validation/answer_recall", "Recall of answer tokens"),
            ("validation/evidence_recall", "Recall of evidence tokens"), ("validation/token_share", "Tokens read, share of the context")]
FROM_ZERO = ("_share", "_recall", "_fraction", "_score", "entropy", "_kl", "_cost", "/em", "/f1")  # axes that start at 0


# ---- drawing helpers ----

def axis_formatter(unit: str) -> FuncFormatter:
    def write(value: float, _: int) -> str:
        if unit == "share":
            return f"{value:g}"
        factor, suffix = scale_of(value, unit) if value else (1, "")
        if not suffix and abs(value) >= 1e4:
            factor, suffix = (1e-6, "M") if abs(value) >= 1e6 else (1e-3, "K")
        return f"{value * factor:,.12g}{suffix}"
    return FuncFormatter(write)


def row_color(row: str) -> str:
    """The full model, its ablations, the same weights read in another way, and everything it is compared with."""
    method = row.split(": ")[-1]
    if method == "dsrsq":
        return BLUE
    if method.startswith("no_"):
        return ORANGE
    return SKY if method.startswith("dsrsq") else GREY


def color_key(figure: Figure, rows: list[str]) -> None:
    names = {BLUE: "full model", ORANGE: "a part left out", SKY: "same weights, read otherwise", GREY: "comparison"}
    used = [color for color in names if any(row_color(row) == color for row in rows)]
    if len(used) > 1:
        handles = [plt.Line2D([], [], marker="s", linestyle="", markersize=9, color=color, label=names[color]) for color in used]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(used), fontsize=10, handletextpad=0.2)


def row_axis(axes: Axes, rows: list[str]) -> None:
    axes.set_yticks(range(len(rows)), rows)
    axes.set_ylim(len(rows) - 0.4, -0.6)  # the first row on top
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)


def figure_of_rows(rows: list[str], panels: int = 1) -> tuple[Figure, list[Axes]]:
    size = (8.5 if panels == 1 else 11, 1.7 + 0.36 * len(rows))
    figure, axes = plt.subplots(1, panels, figsize=size, sharey=True, squeeze=False, layout="constrained")
    return figure, list(axes[0])


def log_axis(axes: Axes) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=20))
    axes.xaxis.set_minor_locator(NullLocator())


def draw_bars(axes: Axes, results: Results, metric: str, upper: str | None = None) -> None:
    """Horizontal bars from 0; dots on a logarithmic axis where values differ by more than 30 times. `upper`: a second
    metric, drawn as the end of a line."""
    found = [results.get(row, metric) for row in results.rows]
    values = [record.value for record in found if record]
    unit = next(record.unit for record in found if record)
    logarithmic = unit != "share" and min(values) > 0 and max(values) > 30 * min(values)
    if logarithmic:
        log_axis(axes)
    for y, (row, record) in enumerate(zip(results.rows, found)):
        if record is None:
            axes.annotate("n/a", (0, y), xycoords=("axes fraction", "data"), xytext=(6, 0), textcoords="offset points",
                          va="center", color=GREY, style="italic", fontsize=10)
            continue
        color, end = row_color(row), record.value
        if logarithmic:
            axes.plot(record.value, y, "o", color=color, markersize=8)
        else:
            axes.barh(y, record.value, height=0.66, color=color)
        text = format_value(record)
        if math.isfinite(record.low) and math.isfinite(record.high):
            axes.errorbar(record.value, y, xerr=[[record.value - record.low], [record.high - record.value]], color="black",
                          capsize=3, linewidth=1.2)
            end = record.high
        above = results.get(row, upper) if upper else None
        if above:
            axes.plot([record.value, above.value], [y, y], color="black", linewidth=1.2)
            axes.plot(above.value, y, "|", color="black", markersize=9, markeredgewidth=1.6)
            end, text = max(end, above.value), f"{text} / {format_value(above)}"
        axes.annotate(text, (end, y), xytext=(7, 0), textcoords="offset points", va="center", fontsize=10)
    row_axis(axes, results.rows)
    if unit == "share":
        axes.set_xlim(0, 1.2)  # room for the numbers
        axes.set_xticks([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    elif not logarithmic:
        axes.set_xlim(0, axes.get_xlim()[1] * (1.25 if upper else 1.1))
        axes.xaxis.set_major_locator(MaxNLocator(6))
    else:
        low, high = axes.get_xlim()
        axes.set_xlim(low, high * (high / low) ** (0.4 if upper else 0.2))
    axes.xaxis.set_major_formatter(axis_formatter(unit))


def spread(positions: list[float], gap: float) -> list[float]:
    """Moves positions apart until neighbours stand at least `gap` away, as little as possible and in the same order."""
    order = sorted(range(len(positions)), key=lambda i: positions[i])
    blocks: list[list] = []  # [sum of (position - offset), members]
    for i in order:
        blocks.append([positions[i], [i]])
        while len(blocks) > 1:
            (a, left), (b, right) = blocks[-2], blocks[-1]
            if b / len(right) - a / len(left) >= gap * len(left):
                break
            blocks[-2:] = [[a + b - gap * len(left) * len(right), left + right]]
    moved = list(positions)
    for total, members in blocks:
        for k, i in enumerate(members):
            moved[i] = total / len(members) + gap * k
    return moved


def label_ends(axes: Axes, ends: list[tuple[float, float, str, str]]) -> None:
    """Names lines at their right ends: (x, y, name, colour)."""
    axes.figure.canvas.draw()
    inverse = axes.transAxes.inverted()
    gap = inverse.transform((0, 15.0 * axes.figure.dpi / 72))[1] - inverse.transform((0, 0))[1]
    places = [inverse.transform(axes.transData.transform((x, y))) for x, y, _, _ in ends]
    heights = spread([place[1] for place in places], gap)
    for (x, y, name, color), height in zip(ends, heights):
        axes.annotate(name, (x, y), xytext=(1.02, height), textcoords="axes fraction", va="center", color=color, fontsize=10,
                      annotation_clip=False, arrowprops={"arrowstyle": "-", "color": color, "linewidth": 0.6, "shrinkB": 0})


def smoothed(values: list[float]) -> list[float]:
    """A centred moving mean over about a fortieth of the points; what is not finite is left out of it."""
    reach = len(values) // 80
    out = []
    for i in range(len(values)):
        around = [v for v in values[max(0, i - reach): i + reach + 1] if math.isfinite(v)]
        out.append(sum(around) / len(around) if around else math.nan)
    return out


def run_style(index: int) -> dict:
    return {"color": PALETTE[index % len(PALETTE)], "linestyle": ["-", "--", ":"][index // len(PALETTE) % 3]}


def loss_scale(axes: Axes, values: list[float]) -> None:
    positive = [v for v in values if math.isfinite(v) and v > 0]
    if positive and len(positive) == sum(map(math.isfinite, values)) and max(positive) > 20 * min(positive):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    else:
        axes.set_ylim(bottom=min(0, *axes.get_ylim()))


# ---- the figures ----

def draw_lines(runs: list[Run], panels: list[tuple[str, ...]]) -> Figure | None:
    """A panel a key, a line a run; dashed, what the key of a panel's third element says."""
    panels = [panel for panel in panels if any(any(map(math.isfinite, run.get(panel[0])[1])) for run in runs)]
    if not panels:
        return None
    columns = min(2, len(panels))
    lines = -(-len(panels) // columns)
    figure, grid = plt.subplots(lines, columns, figsize=(6.2 * columns, 3.5 * lines), squeeze=False, layout="constrained")
    ends: list[list] = []
    for axes, (key, title, *targets) in zip(grid.flat, panels):
        ends.append([])
        everything = []
        for index, run in enumerate(runs):
            steps, values = run.get(key)
            if not any(map(math.isfinite, values)):
                continue
            line = smoothed(values)
            for target in targets:
                axes.plot(*run.get(target), color=run_style(index)["color"], linestyle=(0, (5, 3)), linewidth=1.2)
            if key.startswith(("train/", "ppo/")) and len(values) >= 80:
                axes.plot(steps, values, color=run_style(index)["color"], alpha=0.18, linewidth=0.8)
            axes.plot(steps, line, marker="o" if len(values) < 40 else "", markersize=4, linewidth=1.8, **run_style(index))
            everything += line
            last = max(i for i, v in enumerate(line) if math.isfinite(v))
            ends[-1].append((steps[last], line[last], run.name, run_style(index)["color"]))
        axes.set_title(title, fontsize=11)
        axes.set_xlabel("step (optimiser updates)")
        axes.margins(x=0.02)
        if key.startswith("train/") or key == "validation/loss":
            loss_scale(axes, everything)
        elif key.endswith(FROM_ZERO):
            axes.set_ylim(bottom=min(0, *axes.get_ylim()))
    for axes in list(grid.flat)[len(panels):]:
        axes.set_visible(False)
    # Labels are outside the axes, so the layout has to be known before they are placed and made once more after.
    for axes, of_panel in zip(grid.flat, ends):
        label_ends(axes, of_panel)
    return figure


def draw_loss_terms(results: Results, runs: list[Run]) -> Figure | None:
    return draw_lines(runs, LOSS_TERMS)


def draw_validation_metrics(results: Results, runs: list[Run]) -> Figure | None:
    keys = list(dict.fromkeys(key for run in runs for key in run.series if key.startswith("validation/")))
    shown = {"validation/loss"} | {panel[0] for panel in HELD_OUT}
    return draw_lines(runs, [(key, key.removeprefix("validation/").replace("_", " ")) for key in keys if key not in shown])


def lines_of(panels: list[tuple[str, ...]]):
    return lambda results, runs: draw_lines(runs, panels)


def budget_bins(run: Run) -> tuple[list[float], list[list[float]], list[str]]:
    """Steps, shares of rollouts a bin, and the bins' names, from the fewest tokens to the most."""
    shares = []
    while run.get(f"ppo/budget_share_{len(shares)}")[0]:
        shares.append(dict(zip(*run.get(f"ppo/budget_share_{len(shares)}"))))
    steps = [step for step in (shares[0] if shares else []) if all(math.isfinite(bin.get(step, math.nan)) for bin in shares)]
    names = []
    for index in range(len(shares)):
        tokens = [value for value in run.get(f"ppo/budget_tokens_{index}")[1] if math.isfinite(value)]
        names.append(f"{tokens[-1]:,.0f} tokens" if tokens else f"bin {index}")
    return steps, [smoothed([bin[step] for step in steps]) for bin in shares], names


def draw_budget(results: Results, runs: list[Run]) -> Figure | None:
    panels = [(run.name, *budget_bins(run)) for run in runs]
    panels = [panel for panel in panels if len(panel[1]) > 1]
    if not panels:
        return None
    columns = min(2, len(panels))
    lines = -(-len(panels) // columns)
    figure, grid = plt.subplots(lines, columns, figsize=(max(7.5, 6.2 * columns), 1 + 3.2 * lines), squeeze=False, sharey=True,
                                layout="constrained")
    for axes, (name, steps, shares, names) in zip(grid.flat, panels):
        # Light to dark with the number of tokens: an order that greyscale keeps.
        colors = [plt.get_cmap("viridis_r")(0.05 + 0.85 * i / max(1, len(shares) - 1)) for i in range(len(shares))]
        layers = axes.stackplot(steps, shares, colors=colors, labels=names, edgecolor="white", linewidth=0.6)
        axes.legend(handles=layers[::-1], loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=10, handlelength=1.2)
        axes.set_title(name, fontsize=11)
        axes.set_xlabel("step (optimiser updates)")
        axes.set_xlim(steps[0], steps[-1])
        axes.set_ylim(0, 1)
        axes.grid(visible=False)
    for axes in list(grid.flat)[len(panels):]:
        axes.set_visible(False)
    grid[0][0].set_ylabel("share of rollouts")
    return figure


def draw_loss_by_run(results: Results, runs: list[Run]) -> Figure | None:
    runs = [run for run in runs if run.get("train/task")[0] or run.get("validation/loss")[0]]
    if not runs:
        return None
    columns = min(3, len(runs))
    lines = -(-len(runs) // columns)
    figure, grid = plt.subplots(lines, columns, figsize=(max(6.5, 4.2 * columns), 1.3 + 2.8 * lines), squeeze=False,
                                sharey=True, layout="constrained")
    everything = []
    for axes, run in zip(grid.flat, runs):
        steps, values = run.get("train/task")
        axes.plot(steps, values, color=SKY, alpha=0.35, linewidth=0.8)
        axes.plot(steps, smoothed(values), color=BLUE, linewidth=1.8, label="training (task)")
        held_steps, held = run.get("validation/loss")
        axes.plot(held_steps, held, "o-", color=VERMILLION, markersize=4.5, linewidth=1.2, label="validation")
        stage_steps, stages = run.get("train/stage")
        for i in range(1, len(stages)):
            if stages[i] != stages[i - 1]:
                axes.axvline(stage_steps[i], color=GREY, linestyle=":", linewidth=1.1, label="next stage of the curriculum")
        axes.set_title(run.name, fontsize=11)
        everything += smoothed(values) + held
    for axes in list(grid.flat)[len(runs):]:
        axes.set_visible(False)
    loss_scale(grid[0][0], everything)
    handles = {label: handle for axes in grid.flat for handle, label in zip(*axes.get_legend_handles_labels())}
    figure.legend(handles.values(), handles.keys(), loc="outside upper left", ncols=len(handles))
    figure.supxlabel("step (optimiser updates)", fontsize=11)
    figure.supylabel("cross-entropy of answers (nats a token)", fontsize=11)
    return figure


def draw_panels(results: Results, panels: list[tuple[str, str, str | None]]) -> Figure | None:
    panels = [panel for panel in panels if results.has(panel[0])]
    if not panels:
        return None
    figure, grid = figure_of_rows(results.rows, len(panels))
    for axes, (metric, label, upper) in zip(grid, panels):
        draw_bars(axes, results, metric, upper)
        axes.set_xlabel(label + (" (logarithmic)" if axes.get_xscale() == "log" else ""))
    color_key(figure, results.rows)
    return figure


def panels_of(*panels: tuple[str, str, str | None]):
    return lambda results, runs: draw_panels(results, list(panels))


def place_labels(axes: Axes, points: list[tuple[float, float, str]]) -> None:
    """Names points where no other point or name stands: the first free place of right and left, from near to far."""
    axes.figure.canvas.draw()
    renderer, scale = axes.figure.canvas.get_renderer(), axes.figure.dpi / 72
    frame = axes.get_window_extent()
    pixels = [axes.transData.transform(point[:2]) for point in points]
    taken = [(x - 6 * scale, y - 6 * scale, x + 6 * scale, y + 6 * scale) for x, y in pixels]
    for (x, y), point in zip(pixels, points):
        text = axes.text(0, 0, point[2], fontsize=9.5)
        box = text.get_window_extent(renderer)
        text.remove()
        width, height = box.width, box.height
        options = [(side, k * sign * 7 * scale) for k in range(40) for sign in (1, -1) for side in (1, -1)]
        for side, dy in options:
            left = x + 9 * scale if side > 0 else x - 9 * scale - width
            place = (left, y + dy - height / 2, left + width, y + dy + height / 2)
            inside = frame.x0 < place[0] and place[2] < frame.x1 and frame.y0 < place[1] and place[3] < frame.y1
            if inside and not any(place[0] < t[2] and t[0] < place[2] and place[1] < t[3] and t[1] < place[3] for t in taken):
                break
        taken.append(place)
        line = {"arrowstyle": "-", "color": "#888888", "linewidth": 0.7, "shrinkB": 3, "shrinkA": 1} if dy else None
        axes.annotate(point[2], point[:2], xytext=(side * 9, dy / scale), textcoords="offset points", va="center",
                      ha="left" if side > 0 else "right", fontsize=9.5, arrowprops=line)


def draw_ablation(results: Results, runs: list[Run]) -> Figure | None:
    panels = [("bytes_held", "bytes held a sequence"), ("tokens_read", "context tokens read a question")]
    panels = [panel for panel in panels if results.has("em") and results.has(panel[0])]
    if not panels:
        return None
    rows = [row for row in results.rows if row_color(row) != SKY]  # the same weights cost the same: no ablation
    figure, grid = plt.subplots(1, len(panels), figsize=(6 * len(panels), 5.6), sharey=True, squeeze=False, layout="constrained")
    named = []
    for axes, (metric, label) in zip(grid[0], panels):
        points = []
        for row in rows:
            em, cost = results.get(row, "em"), results.get(row, metric)
            if em is None or cost is None:
                continue
            layer = 3 + [GREY, ORANGE, BLUE].index(row_color(row))  # what is compared stands behind the full model
            if math.isfinite(em.low) and math.isfinite(em.high):
                axes.plot([cost.value] * 2, [em.low, em.high], color=row_color(row), linewidth=1.4, zorder=layer)
            axes.plot(cost.value, em.value, "o", color=row_color(row), markersize=8, markeredgecolor="white", zorder=layer)
            points.append((cost.value, em.value, row))
        costs = [point[0] for point in points]
        logarithmic = bool(costs) and min(costs) > 0 and max(costs) > 8 * min(costs)
        unit = next(results.get(row, metric).unit for row in results.rows if results.get(row, metric))
        axes.margins(x=0.2)
        if logarithmic:
            log_axis(axes)
        else:
            axes.set_xlim(left=-0.04 * max(costs, default=1))
        axes.xaxis.set_major_formatter(axis_formatter(unit))
        axes.set_xlabel(label + (" (logarithmic)" if logarithmic else ""))
        axes.set_ylim(-0.05, 1.12)
        axes.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1.0])
        named.append(points)
    grid[0][0].set_ylabel("exact match (share of questions)")
    color_key(figure, rows)
    for axes, points in zip(grid[0], named):
        place_labels(axes, points)
    return figure


FIGURES = [
    ("loss_terms", "Loss terms", "Terms of the loss over training, smoothed over a fortieth of the steps; the faint lines are not smoothed.",
     draw_loss_terms),
    ("loss_by_run", "Training and validation loss", "The answers' cross-entropy on training batches and on the held-out split, a panel a run.",
     draw_loss_by_run),
    ("validation_metrics", "Evaluation during training", "Metrics of the validation split over steps.", draw_validation_metrics),
    ("reward", "Training by reward", "Reward and what it is made of, of the rollouts of each step; faint lines are not smoothed.", lines_of(REWARD)),
    ("policy", "The policy", "How far each update went, how sure the policy is, and what its picks hold; faint lines are not smoothed.",
     lines_of(POLICY)),
    ("budget", "Budgets that the policy chose", "Share of rollouts that chose each bin of the budget, the fewest tokens at the bottom.", draw_budget),
    ("held_out", "Held-out questions during training", "Greedy choice of tokens on the validation split.", lines_of(HELD_OUT)),
    ("quality", "Exact match and F1", "Share of questions, with 95 % bootstrap intervals.",
     panels_of(("em", "exact match (share of questions)", None), ("f1", "token F1 (mean over questions)", None))),
    ("ablation", "What each part buys", "Exact match against what a method holds and reads; vertical lines are 95 % intervals.", draw_ablation),
    ("answer_place", "Where answers stood", "Exact match where every answer token was an exact key, and where all had left the exact set (n/a: no such question).",
     panels_of(("em_exact", "EM, answer among exact keys", None), ("em_latent", "EM, answer only in latents", None))),
    ("bytes_held", "Bytes held", "State kept a sequence when its answer is decoded: keys, values, latents and everything beside them.",
     panels_of(("bytes_held", "bytes held a sequence", None))),
    ("token_efficiency", "Token efficiency", "Context tokens read over context tokens available: a cost, less is better.",
     panels_of(("token_efficiency", "tokens read / tokens available", None))),
    ("throughput", "Throughput", "Context tokens a second of generation, at the evaluation's batch size.",
     panels_of(("throughput", "context tokens a second", None))),
    ("latency", "Latency", "One question at a time: the median, and the 95th percentile at the tick.",
     panels_of(("latency_p50", "time to the whole answer: p50 / p95", "latency_p95"))),
]


# ---- the program ----

def draw_all(folder: str, results: Results, runs: list[Run]) -> list[tuple[str, str, str]]:
    os.makedirs(folder, exist_ok=True)
    drawn = []
    for name, title, caption, draw in FIGURES:
        figure = draw(results, runs)
        for kind in ("png", "svg"):
            path = os.path.join(folder, f"{name}.{kind}")
            if figure is None and os.path.exists(path):
                os.remove(path)  # of an earlier report
            if figure is not None:
                figure.savefig(path, dpi=150, bbox_inches="tight", metadata={"Date": None} if kind == "svg" else None)
        if figure is not None:
            plt.close(figure)
            drawn.append((name, title, caption))
    return drawn


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", nargs="+", default=[], metavar="FILE", help="results.json of dsrsq-eval")
    parser.add_argument("--runs", nargs="+", default=[], metavar="NAME=RUN_FOLDER", help="runs of dsrsq-train")
    parser.add_argument("--output", required=True, metavar="FOLDER")
    args = parser.parse_args(argv)
    if not args.results and not args.runs:
        parser.error("nothing to draw: give --results, --runs or both")
    try:
        results, runs = read_results(args.results), [read_run(run) for run in args.runs]
        with plt.rc_context(STYLE):
            drawn = draw_all(args.output, results, runs)
        write_report(args.output, results, drawn)
    except (InputError, OSError) as error:
        print(f"plot: {error}", file=sys.stderr)
        return 3
    print(f"{os.path.join(args.output, 'report.html')}: {len(drawn)} figures")
    return 0


if __name__ == "__main__":
    sys.exit(main())
