"""Figures of what dsrsq-eval measured."""

import math

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from plot_needle import FIGURE as NEEDLE_MAP
from plot_parts import BLUE, GREY, ORANGE, PALETTE, SKY, Layout, axis_formatter, label_ends, log_ticks, make_room
from report_data import Results, context_points, format_value

SHARES = [0, 0.2, 0.4, 0.6, 0.8, 1.0]
MARKERS = "osD^v<>PX*hp"


def row_color(row: str) -> str:
    """The full model, its ablations, the same weights read in another way, and everything it is compared with."""
    method = row.split(": ")[-1]
    if method == "dsrsq":
        return BLUE
    if method.startswith("no_"):
        return ORANGE
    return SKY if method.startswith("dsrsq") else GREY


def color_key(figure: Figure, rows: list[str], layout: Layout) -> None:
    names = {BLUE: "full model", ORANGE: "a part left out", SKY: "same weights, read otherwise", GREY: "comparison"}
    used = [color for color in names if any(row_color(row) == color for row in rows)]
    if len(used) > 1:
        handles = [plt.Line2D([], [], marker="s", linestyle="", markersize=9, color=color, label=names[color]) for color in used]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(used) if layout.wide else 2, fontsize=10,
                      handletextpad=0.2)


def row_axis(axes: Axes, rows: list[str], places: list[float] | None = None) -> None:
    places = list(range(len(rows))) if places is None else places
    axes.set_yticks(places, rows)
    axes.set_ylim(places[-1] + 0.6, places[0] - 0.6)  # the first row on top
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)


def figure_of_rows(rows: list[str], layout: Layout, panels: int = 1) -> tuple[Figure, list[Axes]]:
    lines, columns = layout.grid(panels, panels)
    width = layout.panel if not layout.wide else 8.5 if panels == 1 else 11
    figure, axes = plt.subplots(lines, columns, figsize=(width, (1.7 + 0.36 * len(rows)) * lines), sharey=True, squeeze=False,
                                layout="constrained")
    return figure, list(axes.flat)


def draw_bars(axes: Axes, results: Results, rows: list[str], metric: str, upper: str | None = None) -> list[tuple[float, object]]:
    """Horizontal bars from 0; dots on a logarithmic axis where values differ by more than 30 times. `upper`: a second
    metric, drawn as the end of a line. Returns the numbers written behind the bars, for make_room."""
    found = [results.get(row, metric) for row in rows]
    values = [record.value for record in found if record]
    unit = next(record.unit for record in found if record)
    texts = []
    if unit != "share" and min(values) > 0 and max(values) > 30 * min(values):
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
    for y, (row, record) in enumerate(zip(rows, found)):
        if record is None:
            axes.annotate("n/a", (0, y), xycoords=("axes fraction", "data"), xytext=(6, 0), textcoords="offset points",
                          va="center", color=GREY, style="italic", fontsize=10)
            continue
        color, end = row_color(row), record.value
        if axes.get_xscale() == "log":
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
        texts.append((end, axes.annotate(text, (end, y), xytext=(7, 0), textcoords="offset points", va="center", fontsize=10)))
    row_axis(axes, rows)
    axes.xaxis.set_major_formatter(axis_formatter(unit))
    if unit == "share":
        axes.set_xlim(0, 1)
        axes.set_xticks(SHARES)
    elif axes.get_xscale() == "linear":
        axes.set_xlim(left=0)
    return texts


def fit_bars(figure: Figure, panels: list[tuple[Axes, list[tuple[float, object]]]]) -> None:
    """Once the layout of all panels is known: room for the numbers, and as many ticks as there is room for."""
    figure.canvas.draw()
    for axes, texts in panels:
        make_room(axes, texts)
        if axes.get_xscale() == "log":
            log_ticks(axes)
        elif list(axes.get_xticks()) != SHARES:
            axes.xaxis.set_major_locator(MaxNLocator(max(2, int(axes.get_window_extent().width / figure.dpi / 0.6))))
    shares = [axes for axes, _ in panels if list(axes.get_xticks()) == SHARES]
    for axes in shares:  # to be compared at a glance
        axes.set_xlim(0, max(other.get_xlim()[1] for other in shares))


def draw_panels(results: Results, panels: list[tuple[str, str, str | None]], layout: Layout) -> Figure | None:
    rows = results.single()
    panels = [panel for panel in panels if results.has(panel[0], rows)]
    if not panels:
        return None
    figure, grid = figure_of_rows(rows, layout, len(panels))
    drawn = []
    for axes, (metric, label, upper) in zip(grid, panels):
        drawn.append((axes, draw_bars(axes, results, rows, metric, upper)))
        axes.set_xlabel(layout.title(label + (" (logarithmic)" if axes.get_xscale() == "log" else "")))
    color_key(figure, rows, layout)
    fit_bars(figure, drawn)
    return figure


def panels_of(*panels: tuple[str, str, str | None]):
    return lambda results, layout: draw_panels(results, list(panels), layout)


def place_labels(axes: Axes, points: list[tuple[float, float, str]], bars: list[tuple[float, float, float]]) -> None:
    """Names points where no other point, name or bar (x, from, to) stands: the first free place of right and left, from near to far."""
    axes.figure.canvas.draw()
    renderer, scale = axes.figure.canvas.get_renderer(), axes.figure.dpi / 72
    frame = axes.get_window_extent()
    pixels = [axes.transData.transform(point[:2]) for point in points]
    taken = [(x - 6 * scale, y - 6 * scale, x + 6 * scale, y + 6 * scale) for x, y in pixels]
    for x, low, high in bars:
        (left, bottom), (_, top) = axes.transData.transform((x, low)), axes.transData.transform((x, high))
        taken.append((left - 2 * scale, bottom, left + 2 * scale, top))
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


def has_ablation(results: Results) -> bool:
    return any(row_color(row) == ORANGE for row in results.rows)


def draw_ablation(results: Results, layout: Layout) -> Figure | None:
    return draw_quality_cost(results, layout) if has_ablation(results) else None


def draw_methods(results: Results, layout: Layout) -> Figure | None:
    return None if has_ablation(results) else draw_quality_cost(results, layout)


def draw_retention(results: Results, layout: Layout) -> Figure | None:
    if not results.has("em_latent", results.single()):
        return None  # nothing left the exact set
    return draw_panels(results, RETENTION, layout)


def draw_quality_cost(results: Results, layout: Layout) -> Figure | None:
    panels = [("bytes_held", "bytes held a sequence"), ("tokens_read", "context tokens read a question")]
    rows = [row for row in results.single() if row_color(row) != SKY]  # the same weights cost the same: no ablation
    panels = [panel for panel in panels if any(results.get(row, "em") and results.get(row, panel[0]) for row in rows)]
    if not panels:
        return None
    ends = [max(em.value, em.high) if math.isfinite(em.high) else em.value for row in rows if (em := results.get(row, "em"))]
    top = max(0.1, 1.12 * max(ends))
    lines, columns = layout.grid(len(panels))
    figure, grid = plt.subplots(lines, columns, figsize=(layout.panel * columns, 5.4 * lines), sharey=True, squeeze=False,
                                layout="constrained")
    named = []
    for axes, (metric, label) in zip(grid.flat, panels):
        points, bars = [], []
        for row in rows:
            em, cost = results.get(row, "em"), results.get(row, metric)
            if em is None or cost is None:
                continue
            layer = 3 + [GREY, ORANGE, BLUE].index(row_color(row))  # what is compared stands behind the full model
            if math.isfinite(em.low) and math.isfinite(em.high):
                axes.plot([cost.value] * 2, [em.low, em.high], color=row_color(row), linewidth=1.4, zorder=layer)
                bars.append((cost.value, em.low, em.high))
            axes.plot(cost.value, em.value, "o", color=row_color(row), markersize=8, markeredgecolor="white", zorder=layer)
            points.append((cost.value, em.value, row))
        costs = [point[0] for point in points]
        logarithmic = bool(costs) and min(costs) > 0 and max(costs) > 8 * min(costs)
        unit = next(results.get(row, metric).unit for row in rows if results.get(row, metric))
        axes.margins(x=0.2)
        if logarithmic:
            axes.set_xscale("log")
        else:
            axes.set_xlim(left=-0.04 * max(costs, default=1))
        axes.xaxis.set_major_formatter(axis_formatter(unit))
        axes.set_xlabel(label + (" (logarithmic)" if logarithmic else ""))
        axes.set_ylim(-0.05 * top, top)
        axes.set_yticks([tick for tick in SHARES if tick <= top])
        named.append((points, bars))
    for line in grid:
        line[0].set_ylabel("exact match (share of questions)")
    color_key(figure, rows, layout)
    figure.canvas.draw()
    for axes in grid.flat:
        if axes.get_xscale() == "log":
            log_ticks(axes)
        else:
            axes.xaxis.set_major_locator(MaxNLocator(max(2, int(axes.get_window_extent().width / figure.dpi / 0.7))))
    for axes, (points, bars) in zip(grid.flat, named):
        place_labels(axes, points, bars)
    return figure


# ---- budgets ----

def budget_name(row: str) -> str:
    return row.rpartition("@")[2].replace("%", " %")


def sweep_axis(axes: Axes, results: Results, layout: Layout) -> None:
    points = {budget: row for line in results.sweeps().values() for budget, row in line}
    axes.set_xscale("log")
    axes.set_xticks(sorted(points), [budget_name(points[budget]) for budget in sorted(points)])
    axes.xaxis.set_minor_locator(NullLocator())
    percent = any("%" in row for row in points.values())
    axes.set_xlabel("budget, share of the context (logarithmic)" if percent else "budget, tokens (logarithmic)")


def draw_sweep(axes: Axes, results: Results, metric: str, across: str | None = None) -> list[tuple[float, float, str, str]]:
    """A line a method, with 95 % intervals, over the budget or over another metric. Rows without a budget are levels or points
    of their own. Returns the names of levels, for label_ends."""
    sweeps, levels = results.sweeps(), []
    for number, (method, points) in enumerate(sweeps.items()):
        pairs = [(results.get(row, across) if across else None, results.get(row, metric), budget) for budget, row in points]
        pairs = [(x.value if x else budget, y) for x, y, budget in pairs if y and (x or not across)]
        if not pairs:
            continue
        shift = 1 if across else 1.012 ** (number - len(sweeps) / 2)  # intervals beside one another
        style = {"color": PALETTE[number % len(PALETTE)], "linestyle": ["-", "--", ":"][number // len(PALETTE) % 3]}
        axes.plot([x * shift for x, _ in pairs], [y.value for _, y in pairs], marker=MARKERS[number % len(MARKERS)], markersize=5,
                  linewidth=1.6, label=method, **style)
        for x, y in pairs:
            if math.isfinite(y.low) and math.isfinite(y.high):
                axes.plot([x * shift] * 2, [y.low, y.high], color=style["color"], linewidth=0.9, alpha=0.6)
    for row in results.single():
        y, x = results.get(row, metric), results.get(row, across) if across else None
        if y and x:
            axes.plot(x.value, y.value, "*", color=BLUE if row_color(row) == BLUE else "#333333", markersize=9)
            axes.annotate(row, (x.value, y.value), xytext=(5, 5), textcoords="offset points", fontsize=9)
        elif y and not across:
            axes.axhline(y.value, color="#555555", linewidth=0.9, linestyle=(0, (5, 3)), zorder=1.5)
            levels.append((1.0, y.value, row, "#333333"))
    return levels


def draw_sweeps(results: Results, panels: list[tuple[str, str, str | None]], layout: Layout) -> Figure | None:
    """Panels of (metric, label, metric across or None: the budget)."""
    swept = [row for points in results.sweeps().values() for _, row in points]
    panels = [(metric, label, across) for metric, label, across in panels
              if any(results.get(row, metric) and (not across or results.get(row, across)) for row in swept)]
    if not panels:
        return None
    lines, columns = layout.grid(len(panels))
    figure, grid = plt.subplots(lines, columns, figsize=(max(8.0, layout.panel * columns) if layout.wide else layout.panel, 1.2 + 4 * lines),
                                squeeze=False, layout="constrained")
    named = []
    for axes, (metric, label, across) in zip(grid.flat, panels):
        unit = next(record.unit for row in swept if (record := results.get(row, metric)))
        named.append((axes, draw_sweep(axes, results, metric, across)))
        if across:
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(axis_formatter(next(r.unit for row in swept if (r := results.get(row, across)))))
            axes.set_xlabel(across.replace("_", " ") + " (logarithmic)")
        else:
            sweep_axis(axes, results, layout)
        values = [record.value for row in results.rows if (record := results.get(row, metric))]
        if unit != "share" and min(values) > 0 and max(values) > 30 * min(values):
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(axis_formatter(unit))
        axes.set_title(layout.title(label))
    for axes in list(grid.flat)[len(panels):]:
        axes.set_visible(False)
    handles = {label: handle for axes in grid.flat for handle, label in zip(*axes.get_legend_handles_labels())}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=min(len(handles), 6 if columns > 1 else 4 if layout.wide else 2),
                  fontsize=10)
    figure.canvas.draw()
    for axes, levels in named:
        label_ends(axes, [(axes.get_xlim()[1], y, name, color) for _, y, name, color in levels])
        if not axes.get_xlabel().startswith("budget"):
            log_ticks(axes)
    return figure


def sweeps_of(*panels: tuple[str, str, str | None]):
    return lambda results, layout: draw_sweeps(results, list(panels), layout)


# ---- a stream of facts ----

LAG = "accuracy_lag_"


def lag_points(results: Results, row: str) -> list[tuple[float, object]]:
    """[(tokens since the fact was last stated, record)], nearest first."""
    found = [(record.shape["lag"], record) for name, metric in results.values
             if name == row and metric.startswith(LAG) and (record := results.get(row, metric))]
    return sorted(found, key=lambda point: point[0])


def draw_lags(results: Results, layout: Layout) -> Figure | None:
    """A line a row, with 95 % intervals, over the logarithm of the lag; lag 0 stands half an octave before the first other one."""
    lines = {row: points for row in results.rows if (points := lag_points(results, row))}
    lags = sorted({lag for points in lines.values() for lag, _ in points})
    if len(lags) < 2:
        return None
    first = next(lag for lag in lags if lag > 0)
    place = {lag: lag if lag > 0 else first / 2 for lag in lags}
    figure, axes = plt.subplots(figsize=(9.5 if layout.wide else layout.panel, 5 if layout.wide else 5.4), layout="constrained")
    axes.set_xscale("log", base=2)
    for number, (row, points) in enumerate(lines.items()):
        color, shift = PALETTE[number % len(PALETTE)], 1.025 ** (number - len(lines) / 2)  # intervals beside one another
        axes.plot([place[lag] * shift for lag, _ in points], [record.value for _, record in points], color=color, linewidth=1.8,
                  marker=MARKERS[number % len(MARKERS)], markersize=6, label=row)
        for lag, record in points:
            if math.isfinite(record.low) and math.isfinite(record.high):
                axes.plot([place[lag] * shift] * 2, [record.low, record.high], color=color, linewidth=1, alpha=0.7)
    axes.set_xticks([place[lag] for lag in lags], [f"{lag / 1024:g}K" if lag >= 1024 else f"{lag:g}" for lag in lags])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_ylim(-0.02, 1.02)
    axes.set_yticks(SHARES)
    axes.set_xlabel(layout.title("tokens since the fact was last stated (logarithmic)"))
    axes.set_ylabel("right answers (share)")
    figure.legend(loc="outside lower center", ncols=min(len(lines), 6 if layout.wide else 2), fontsize=10)
    return figure


# ---- perplexity against context length ----

def draw_context(results: Results, layout: Layout) -> Figure | None:
    """A line a row, with 95 % intervals, over the logarithm of the context."""
    lines = {row: points for row in results.rows if (points := context_points(results, row, "perplexity"))}
    lengths = sorted({length for points in lines.values() for length, _ in points})
    if len(lengths) < 2:
        return None
    figure, axes = plt.subplots(figsize=(9.5 if layout.wide else layout.panel, 5 if layout.wide else 5.4), layout="constrained")
    axes.set_xscale("log", base=2)
    for number, (row, points) in enumerate(lines.items()):
        color, shift = PALETTE[number % len(PALETTE)], 1.025 ** (number - len(lines) / 2)  # intervals beside one another
        axes.plot([length * shift for length, _ in points], [record.value for _, record in points], color=color, linewidth=1.8,
                  marker=MARKERS[number % len(MARKERS)], markersize=6, label=row)
        for length, record in points:
            if math.isfinite(record.low) and math.isfinite(record.high):
                axes.plot([length * shift] * 2, [record.low, record.high], color=color, linewidth=1, alpha=0.7)
    axes.set_xticks(lengths, [f"{length / 1024:g}K" if length >= 1024 else f"{length:g}" for length in lengths])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(layout.title("tokens before the predicted chunk that may be read (logarithmic)"))
    axes.set_ylabel("perplexity")
    figure.legend(loc="outside lower center", ncols=min(len(lines), 6 if layout.wide else 2), fontsize=10)
    return figure


# ---- comparison with the baseline ----

def draw_comparison(results: Results, layout: Layout) -> Figure | None:
    """Differences of F1 with their paired intervals; the budgets of a method are one row, light to dark."""
    groups: list[tuple[str, list[str]]] = []
    sweeps = results.sweeps()
    method_of = {row: method for method, points in sweeps.items() for _, row in points}
    for row in results.rows:
        if not (record := results.get(row, "f1")) or not record.difference:
            continue
        method = method_of.get(row)
        if method is None:
            groups.append((row, [row]))
        elif not groups or groups[-1][0] != method:
            groups.append((method, [row]))
        else:
            groups[-1][1].append(row)
    if not groups:
        return None
    budgets = sorted({budget for points in sweeps.values() for budget, _ in points})
    shade = {budget: plt.get_cmap("viridis_r")(0.1 + 0.8 * i / max(1, len(budgets) - 1)) for i, budget in enumerate(budgets)}
    budget_of = {row: budget for points in sweeps.values() for budget, row in points}
    heights = [max(1.0, 0.5 * len(rows)) for _, rows in groups]
    places = [sum(heights[:i]) + heights[i] / 2 for i in range(len(groups))]
    figure, axes = plt.subplots(figsize=(8.5 if layout.wide else layout.panel, 1.6 + 0.34 * sum(heights)), layout="constrained")
    for (_, rows), place, height in zip(groups, places, heights):
        for k, row in enumerate(rows):
            y = place + (k - (len(rows) - 1) / 2) * height / (len(rows) + 1)
            difference = results.get(row, "f1").difference
            color = shade[budget_of[row]] if row in budget_of else row_color(row)
            axes.plot([difference.low, difference.high], [y, y], color=color, linewidth=2)
            axes.plot(difference.value, y, "o", color=color, markersize=6 if len(rows) > 1 else 7, markeredgecolor="white")
            if len(rows) == 1:
                text = f"{difference.value:+.3f}" + (f" [{difference.low:.3f}, {difference.high:.3f}]" if layout.wide else "")
                axes.annotate(text, (1.01, y), xycoords=("axes fraction", "data"), va="center", fontsize=10, annotation_clip=False)
    row_axis(axes, [name for name, _ in groups], places)
    axes.set_ylim(sum(heights), 0)
    axes.axvline(0, color="black", linewidth=1.1)
    for edge in [sum(heights[:i]) for i in range(1, len(groups))]:
        axes.axhline(edge, color="#EEEEEE", linewidth=0.8, zorder=0.5)
    baseline = next(results.get(row, "f1").baseline for _, rows in groups for row in rows)
    axes.set_xlabel(layout.title(f"F1 less that of {baseline} (0), paired, with 95 % intervals"))
    if budgets:
        handles = [plt.Line2D([], [], marker="o", linestyle="", markersize=7, color=shade[budget],
                              label=budget_name(next(row for row in budget_of if budget_of[row] == budget))) for budget in budgets]
        figure.legend(handles=handles, title="budget", loc="outside lower center", ncols=len(budgets) if layout.wide else 4, fontsize=10,
                      handletextpad=0.1)
    else:
        color_key(figure, [row for _, rows in groups for row in rows], layout)
    fit_bars(figure, [(axes, [])])
    return figure


RETENTION = [("em_exact", "EM, answer among exact keys", None), ("em_latent", "EM, answer only in latents", None),
             ("retained_latent", "answers still held as latents", None)]
BUDGET_QUALITY = [("f1", "F1", None), ("em", "Exact match", None), ("f1", "F1 against bytes held", "bytes_held"),
                  ("em", "Exact match against bytes held", "bytes_held")]
BUDGET_COSTS = [("answer_held", "Answer entries held (share)", None), ("token_efficiency", "Tokens read / tokens available", None),
                ("bytes_held", "Bytes held a sequence", None), ("peak_memory", "Peak memory", None),
                ("throughput", "Throughput (context tokens a second)", None), ("latency_p50", "Latency, median", None)]

FIGURES = [
    ("quality", "Exact match and F1", "Share of questions, with 95 % bootstrap intervals.",
     panels_of(("em", "exact match (share of questions)", None), ("f1", "token F1 (mean over questions)", None))),
    ("comparison", "Comparison with the baseline", "Difference of F1, question by question, with 95 % paired bootstrap intervals: an interval that "
     "holds 0 says that the data cannot tell the two apart.", draw_comparison),
    ("budget_quality", "Quality against the budget", "A line a method, with 95 % intervals; dashed: what has no budget.", sweeps_of(*BUDGET_QUALITY)),
    ("budget_costs", "Costs against the budget", "A line a method; dashed: what has no budget.", sweeps_of(*BUDGET_COSTS)),
    ("ablation", "Ablation: what each part buys", "Exact match against what a method holds and reads; vertical lines are 95 % intervals.",
     draw_ablation),
    ("quality_cost", "Quality against cost", "Exact match against what a method holds and reads; vertical lines are 95 % intervals.",
     draw_methods),
    ("information_retention", "Information retention", "Exact match where every answer token was an exact key, and where all had left the exact "
     "set; of the latter, the share of answers whose latents are still held (n/a: no such question).",
     draw_retention),
    ("stream_retention", "Information retention over a stream", "Right answers by how long ago the fact was last stated, with 95 % bootstrap "
     "intervals over facts.", draw_lags),
    NEEDLE_MAP,
    ("context_perplexity", "Perplexity against context length", "Of the same last tokens of each text, given ever more of what stands before them, with "
     "95 % bootstrap intervals over texts; differences between methods are surer than these, since the texts are the same.", draw_context),
    ("memory", "Memory", "State kept a sequence when its answer is decoded (keys, values, latents and everything beside them), and the most that the "
     "program held at the evaluation's batch size.",
     panels_of(("bytes_held", "bytes held a sequence", None), ("peak_memory", "peak memory", None))),
    ("token_efficiency", "Token efficiency", "Context tokens read over context tokens available: a cost, less is better.",
     panels_of(("token_efficiency", "tokens read / tokens available", None))),
    ("throughput", "Throughput", "Context tokens a second of generation, at the evaluation's batch size.",
     panels_of(("throughput", "context tokens a second", None))),
    ("latency", "Latency", "One question at a time: the median, and the 95th percentile at the tick.",
     panels_of(("latency_p50", "time to the whole answer: p50 / p95", "latency_p95"))),
]
