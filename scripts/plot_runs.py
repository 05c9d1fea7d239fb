"""Figures of training, from the metrics.jsonl of dsrsq-train."""

import math

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from plot_parts import BLUE, GREY, PALETTE, SKY, VERMILLION, Layout, label_ends
from report_data import Run

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
VALIDATION = [("validation/em", "Exact match"), ("validation/f1", "Token F1"), ("validation/answer_recall", "Recall of answer tokens"),
              ("validation/evidence_recall", "Recall of evidence tokens"), ("validation/token_share", "Tokens read, share of the context")]
OTHERWISE = ("validation/loss", "validation/reader_calls")  # drawn with the loss; only counts on
FROM_ZERO = ("_share", "_recall", "_fraction", "_score", "entropy", "_kl", "_cost", "/em", "/f1")  # axes that start at 0


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


def draw_lines(runs: list[Run], panels: list[tuple[str, ...]], layout: Layout) -> Figure | None:
    """A panel a key, a line a run; dashed, what the key of a panel's third element says."""
    panels = [panel for panel in panels if any(any(map(math.isfinite, run.get(panel[0])[1])) for run in runs)]
    if not panels:
        return None
    lines, columns = layout.grid(len(panels))
    figure, grid = plt.subplots(lines, columns, figsize=(layout.panel * columns, 3.5 * lines), squeeze=False, layout="constrained")
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
        axes.set_title(layout.title(title), fontsize=11)
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


def draw_loss_terms(runs: list[Run], layout: Layout) -> Figure | None:
    return draw_lines(runs, LOSS_TERMS, layout)


def draw_validation_metrics(runs: list[Run], layout: Layout) -> Figure | None:
    named = dict(VALIDATION)
    keys = [key for key in dict.fromkeys(key for run in runs for key in run.series)
            if key.startswith("validation/") and key not in OTHERWISE and key not in named and any(any(run.get(key)[1]) for run in runs)]
    named.update((key, key.removeprefix("validation/").replace("_", " ")) for key in keys)
    return draw_lines(runs, list(named.items()), layout)


def lines_of(panels: list[tuple[str, ...]]):
    return lambda runs, layout: draw_lines(runs, panels, layout)


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


def draw_budget(runs: list[Run], layout: Layout) -> Figure | None:
    panels = [(run.name, *budget_bins(run)) for run in runs]
    panels = [panel for panel in panels if len(panel[1]) > 1]
    if not panels:
        return None
    lines, columns = layout.grid(len(panels))
    width = max(layout.panel * columns, min(7.5, layout.panel * layout.columns))
    figure, grid = plt.subplots(lines, columns, figsize=(width, 1 + 3.2 * lines), squeeze=False, sharey=True, layout="constrained")
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


def draw_loss_by_run(runs: list[Run], layout: Layout) -> Figure | None:
    runs = [run for run in runs if run.get("train/task")[0] or run.get("validation/loss")[0]]
    if not runs:
        return None
    lines, columns = layout.grid(len(runs), 3)
    width = max(4.2 * columns, min(6.5, layout.panel * layout.columns))
    figure, grid = plt.subplots(lines, columns, figsize=(width, 1.3 + 2.8 * lines), squeeze=False, sharey=True, layout="constrained")
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
    figure.legend(handles.values(), handles.keys(), loc="outside upper left", ncols=len(handles) if layout.wide else 1)
    figure.supxlabel("step (optimiser updates)", fontsize=11)
    figure.supylabel("cross-entropy of answers (nats a token)", fontsize=11)
    return figure


FIGURES = [
    ("loss_terms", "Loss terms", "Terms of the loss over training, smoothed over a fortieth of the steps; the faint lines are not smoothed.",
     draw_loss_terms),
    ("loss_by_run", "Training and validation loss", "The answers' cross-entropy on training batches and on the held-out split, a panel a run.",
     draw_loss_by_run),
    ("validation_metrics", "Metrics over time", "Held-out questions during training, tokens chosen greedily.", draw_validation_metrics),
    ("reward", "Training by reward", "Reward and what it is made of, of the rollouts of each step; faint lines are not smoothed.", lines_of(REWARD)),
    ("policy", "The policy", "How far each update went, how sure the policy is, and what its picks hold; faint lines are not smoothed.",
     lines_of(POLICY)),
    ("budget", "Budgets that the policy chose", "Share of rollouts that chose each bin of the budget, the fewest tokens at the bottom.", draw_budget),
]
