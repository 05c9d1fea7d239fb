"""What the figures share: colours, style, widths, axes, names of lines."""

import math
import textwrap
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from report_data import scale_of

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


@dataclass(frozen=True)
class Layout:
    columns: int  # panels side by side, at most
    panel: float  # a panel's width, inches

    @property
    def wide(self) -> bool:
        return self.columns > 1

    def grid(self, count: int, columns: int = 0) -> tuple[int, int]:
        """Lines and columns of `count` panels, of which `columns` stand side by side where there is room for more than one."""
        columns = min(columns if columns and self.wide else self.columns, count)
        return -(-count // columns), columns

    def title(self, text: str) -> str:
        return text if self.wide else textwrap.fill(text, 40)


WIDE = Layout(2, 6.2)
NARROW = Layout(1, 4.5)  # of a phone: letters of 11 points are 9 pixels high there


def axis_formatter(unit: str) -> FuncFormatter:
    def write(value: float, _: int) -> str:
        if unit == "share":
            return f"{value:g}"
        factor, suffix = scale_of(value, unit) if value else (1, "")
        if not suffix and abs(value) >= 1e4:
            factor, suffix = (1e-6, "M") if abs(value) >= 1e6 else (1e-3, "K")
        return f"{value * factor:,.12g}{suffix}"
    return FuncFormatter(write)


def log_ticks(axes: Axes) -> None:
    """1, 2, 5 of each decade, or fewer, as many as the x axis has room for. The layout is known."""
    axes.xaxis.set_minor_locator(NullLocator())
    low, high = axes.get_xlim()
    room = axes.get_window_extent().width / axes.figure.dpi / 0.6
    decades = math.log10(high / low)
    subs = next((subs for subs in ((1, 2, 5), (1, 3)) if decades * len(subs) <= room), (1,))
    axes.xaxis.set_major_locator(LogLocator(subs=subs, numticks=20))


def make_room(axes: Axes, ends: list[tuple[float, object]]) -> None:
    """Moves the right limit of the x axis until the texts that begin at `ends` (x, text) are inside. The layout is known."""
    renderer = axes.figure.canvas.get_renderer()
    width = axes.get_window_extent().width
    low, high = axes.get_xlim()
    logarithmic = axes.get_xscale() == "log"
    scale, back = (math.log, math.exp) if logarithmic else (float, float)
    for x, text in ends:
        taken = (text.get_window_extent(renderer).width + 10 * axes.figure.dpi / 72) / width
        high = max(high, back(scale(low) + (scale(x) - scale(low)) / max(0.2, 1 - taken)))
    axes.set_xlim(low, high)


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
