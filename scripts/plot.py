#!/usr/bin/env python3
"""Draws a report from what dsrsq-eval and dsrsq-train wrote: index.html, self-contained, with every figure as PNG and SVG and every table
as CSV beside it.

    .venv/bin/python scripts/plot.py --results A/eval/results.json [more] --runs name=RUN_FOLDER ... --output FOLDER
    .venv/bin/python scripts/plot.py --results "Real questions=A.json" "Budgets=B.json" --output FOLDER     a section each

A value that was not measured is shown as n/a, never as 0. A figure that nothing was measured for is left out. scripts/check_report.sh
opens the report in a browser and checks it.
"""

import argparse
import io
import os
import shlex
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

import plot_results  # noqa: E402
import plot_runs  # noqa: E402
from plot_parts import NARROW, STYLE, WIDE  # noqa: E402
from report_data import InputError, read_run, read_sections  # noqa: E402
from report_page import Figure, Page, Section, single_file, slug, write_report  # noqa: E402

# The same file from the same numbers, byte by byte.
SVG = {"format": "svg", "bbox_inches": "tight", "metadata": {"Date": None}}


def draw_figure(folder: str, prefix: str, entry: tuple, measured: object) -> Figure | None:
    """Leaves <prefix><name>.png and .svg; without data, removes those of an earlier report."""
    name, title, caption, draw = entry
    base = os.path.join(folder, prefix + name)
    images = []
    for layout in (WIDE, NARROW):
        figure = draw(measured, layout)
        if figure is None:
            for kind in ("png", "svg"):
                if os.path.exists(f"{base}.{kind}"):
                    os.remove(f"{base}.{kind}")
            return None
        image = io.BytesIO()
        figure.savefig(image, **SVG)
        images.append(image.getvalue())
        if layout is WIDE:
            figure.savefig(base + ".png", dpi=150, bbox_inches="tight")
        plt.close(figure)
    with open(base + ".svg", "wb") as file:
        file.write(images[0])
    return Figure(prefix + name, title, caption, *images)


def draw_all(folder: str, prefix: str, figures: list[tuple], measured: object) -> list[Figure]:
    os.makedirs(folder, exist_ok=True)
    drawn = [draw_figure(folder, prefix, entry, measured) for entry in figures]
    return [figure for figure in drawn if figure]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", nargs="+", default=[], metavar="[SECTION=]FILE", help="results.json of dsrsq-eval")
    parser.add_argument("--runs", nargs="+", default=[], metavar="NAME=RUN_FOLDER", help="runs of dsrsq-train")
    parser.add_argument("--title", default="DSRSQ report")
    parser.add_argument("--output", required=True, metavar="FOLDER")
    parser.add_argument("--single-file", metavar="FILE.html", help="the page once more, with nothing beside it: to send or to publish")
    args = parser.parse_args(argv)
    if not args.results and not args.runs:
        parser.error("nothing to draw: give --results, --runs or both")
    try:
        sections, runs = read_sections(args.results), [read_run(run) for run in args.runs]
        page = Page(args.title, shlex.join(["scripts/plot.py", *(sys.argv[1:] if argv is None else argv)]), runs=runs)
        with plt.rc_context(STYLE):
            for results in sections:
                prefix = slug(results.name) + "-" if results.name else ""
                page.sections.append(Section(results, prefix, draw_all(args.output, prefix, plot_results.FIGURES, results)))
            page.training = draw_all(args.output, "", plot_runs.FIGURES, runs)
        path = write_report(args.output, page)
        if args.single_file:
            with open(path, encoding="utf-8") as source, open(args.single_file, "w", encoding="utf-8") as file:
                file.write(single_file(source.read(), args.output))
    except (InputError, OSError) as error:
        print(f"plot: {error}", file=sys.stderr)
        return 3
    print(f"{path}: {sum(len(section.figures) for section in page.sections) + len(page.training)} figures")
    return 0


if __name__ == "__main__":
    sys.exit(main())
