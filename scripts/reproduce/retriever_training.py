"""The figure, the table and results.json of retriever_training.sh.

    .venv/bin/python scripts/reproduce/retriever_training.py --runs FOLDER --rows ROW... --budgets K... --seeds SEED...

Reads FOLDER/ROW-BUDGET-SEED/{metrics.jsonl,run.json}; writes FOLDER/{figure.png,figure.svg,table.md,results.json}.
"""

import argparse
import json
import pathlib
import statistics

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

# Okabe and Ito's palette; dashes tell the credit apart without colour.
STYLE = {
    "supervised": ("#000000", "-", "evidence labels"), "kl": ("#009E73", "-", "KL to the reader's attention"),
    "rl_shared": ("#0072B2", "-", "reward, shared credit"), "rl_span_loo": ("#0072B2", "--", "reward, leave-one-out credit"),
    "kl_rl_shared": ("#D55E00", "-", "KL, then reward, shared"), "kl_rl_span_loo": ("#D55E00", "--", "KL, then reward, leave-one-out"),
}
PANELS = [("answer_recall", "recall of the answer's tokens"), ("f1", "F1")]


def curve(run):
    """Held-out values by sequences that the reader had read."""
    points = {}
    for line in open(run / "metrics.jsonl", encoding="utf-8"):
        row = json.loads(line)
        if "validation/f1" in row:
            points[row["validation/reader_calls"]] = {name: row[f"validation/{name}"] for name in ("answer_recall", "f1", "em")}
    return dict(sorted(points.items()))


def mean_curve(curves, metric):
    """Seeds evaluate at the same steps, so their points fall together."""
    calls = [c for c in curves[0] if all(c in other for other in curves)]
    return calls, [statistics.mean(c[at][metric] for c in curves) for at in calls]


def draw(found, args, folder):
    plt.rcParams.update({"font.size": 11, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
                         "grid.color": "#E3E3E3", "axes.axisbelow": True, "svg.hashsalt": "dsrsq"})
    figure, axes = plt.subplots(len(PANELS), len(args.budgets), figsize=(12, 7), sharey="row", sharex="col", layout="constrained")
    axes = [list(row) if len(args.budgets) > 1 else [row] for row in axes]
    for column, budget in enumerate(args.budgets):
        for line, (metric, label) in enumerate(PANELS):
            axis = axes[line][column]
            for row in args.rows:
                color, dash, name = STYLE[row]
                calls, values = mean_curve([found[row, budget, seed] for seed in args.seeds], metric)
                axis.plot([c / 1000 for c in calls], values, color=color, linestyle=dash, label=name, linewidth=1.8)
            axis.set_ylim(-0.02, 1.02)
            if column == 0:
                axis.set_ylabel(label)
            if line == 0:
                axis.set_title(f"{budget} of 2,048 tokens", fontweight="bold", loc="left")
            else:
                axis.set_xlabel("sequences read by the reader (thousands)")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    for ending in ("png", "svg"):
        figure.savefig(folder / f"figure.{ending}", dpi=130, metadata={"Date": None} if ending == "svg" else None)


def core_seconds(run):
    states = sorted(run.glob("checkpoints/step-*/state.json"))
    return json.loads(states[-1].read_text())["core_seconds"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", required=True)
    parser.add_argument("--rows", nargs="+", required=True, choices=list(STYLE))
    parser.add_argument("--budgets", nargs="+", type=int, required=True)
    parser.add_argument("--seeds", nargs="+", type=int, required=True)
    args = parser.parse_args()
    folder = pathlib.Path(args.runs)
    found, records = {}, []
    table = ["| budget | what teaches the retriever | answer recall | F1 | EM | sequences read | core-seconds, held-out evaluations included |", "|---|---|---|---|---|---|---|"]
    for budget in args.budgets:
        for row in args.rows:
            runs = [folder / f"{row}-{budget}-{seed}" for seed in args.seeds]
            for seed, run in zip(args.seeds, runs):
                found[row, budget, seed] = curve(run)
            last = [list(found[row, budget, seed].items())[-1] for seed in args.seeds]
            values = {name: [point[name] for _, point in last] for name in ("answer_recall", "f1", "em")}
            values["reader_calls"] = [calls for calls, _ in last]
            values["train_core_seconds"] = [core_seconds(run) for run in runs]
            for name, each in values.items():
                unit = {"reader_calls": "sequences", "train_core_seconds": "s"}.get(name, "share")
                records.append({"case": f"facts_2048, {budget} tokens", "method": row, "metric": name, "unit": unit,
                                "shape": {"context_tokens": 2048, "budget": budget, "seeds": len(args.seeds)},
                                "value": statistics.mean(each)} | ({"range": [min(each), max(each)]} if len(each) > 1 else {}))
            cells = [f"{statistics.mean(values[name]):.3f}" + (f" ({min(values[name]):.3f} to {max(values[name]):.3f})" if len(args.seeds) > 1 else "")
                     for name in ("answer_recall", "f1", "em")]
            table.append(f"| {budget} | {STYLE[row][2]} | {' | '.join(cells)} | {statistics.mean(values['reader_calls']):,.0f} | "
                         f"{statistics.mean(values['train_core_seconds']):.0f} |")
    first = json.loads((folder / f"{args.rows[0]}-{args.budgets[0]}-{args.seeds[0]}" / "run.json").read_text())
    provenance = {**first, "command": "scripts/reproduce/retriever_training.sh " + " ".join(map(str, args.seeds)), "seeds": args.seeds}
    (folder / "results.json").write_text(json.dumps({"provenance": provenance, "records": records}, indent=1) + "\n")
    (folder / "table.md").write_text("\n".join(table) + "\n")
    draw(found, args, folder)
    print("\n".join(table))


if __name__ == "__main__":
    main()
