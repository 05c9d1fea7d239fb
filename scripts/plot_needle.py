"""The needle map: how right answers are by where the answer stands and how long the context is."""

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from plot_parts import Layout
from report_data import Needle, Results

MAPS = 6  # of one figure; more methods stand in the CSV alone


def lines_of(needles: list[Needle], row: str) -> list[tuple[float, str]]:
    """(context tokens, task) of a row's lines, from the shortest. Tasks of one length are lines of their own."""
    return sorted({(needle.context_tokens, needle.case) for needle in needles if needle.row == row})


def draw_needle(results: Results, layout: Layout) -> Figure | None:
    rows = list(dict.fromkeys(needle.row for needle in results.needles))[:MAPS]
    if not rows:
        return None
    depths = sorted({needle.depth for needle in results.needles})
    lengths = {row: lines_of(results.needles, row) for row in rows}
    tallest = max(map(len, lengths.values()))
    lines, columns = layout.grid(len(rows))
    figure, grid = plt.subplots(lines, columns, figsize=(layout.panel * columns, (1.8 + 0.42 * tallest) * lines), squeeze=False,
                                layout="constrained")
    image = None
    for axes, row in zip(grid.flat, rows):
        image = draw_map(axes, results.needles, row, lengths[row], depths)
        axes.set_title(row)
        axes.set_xlabel("where the answer stands (share of the context)")
    for axes in list(grid.flat)[len(rows):]:
        axes.remove()
    figure.colorbar(image, ax=grid.ravel().tolist()[:len(rows)], label="right (share of questions)", shrink=0.9, aspect=25)
    return figure


def draw_map(axes: plt.Axes, needles: list[Needle], row: str, lengths: list[tuple[float, str]], depths: list[float]) -> object:
    values = {(needle.context_tokens, needle.case, needle.depth): needle.value for needle in needles if needle.row == row}
    grid = [[values.get((*length, depth), float("nan")) for depth in depths] for length in lengths]
    axes.set_facecolor("#EEEEEE")  # where there is no value
    image = axes.imshow(grid, cmap="cividis", vmin=0, vmax=1, aspect="auto", origin="lower")
    for y, line in enumerate(grid):
        for x, value in enumerate(line):
            text = "n/a" if value != value else f"{value:.2f}".removeprefix("0")
            axes.text(x, y, text, ha="center", va="center", fontsize=9, color="white" if value < 0.5 else "black")
    axes.set_xticks(range(len(depths)), [f"{depth:g}" for depth in depths])
    axes.set_yticks(range(len(lengths)), [f"{case}\n{tokens:,.0f} tokens" for tokens, case in lengths], fontsize=9)
    axes.grid(visible=False)
    axes.tick_params(length=0)
    return image


FIGURE = ("needle_map", "Needle map", "Share of right answers by where the answer begins in the context and how long that is; grey: no such "
          "question. The number of questions in each cell stands in the CSV.", draw_needle)
