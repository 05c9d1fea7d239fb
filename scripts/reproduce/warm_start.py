"""The table of warm_start.sh.

    .venv/bin/python scripts/reproduce/warm_start.py RUN_FOLDER... [--output table.md]
"""

import argparse
import json
import pathlib
import statistics

from pool_recall import interval


def recalls(run):
    found = {}
    for line in open(run / "eval" / "questions.jsonl"):
        row = json.loads(line)
        if "answer_recall" in row:
            found.setdefault(row["row"], []).append(row["answer_recall"])
    return found


def layers(run):
    """Of the last line that has them: (compression error, floor) by layer."""
    last = {}
    for line in open(run / "metrics.jsonl"):
        row = json.loads(line)
        if "rckv/compression/layer_00" in row:
            last = row
    names = sorted(key.rsplit("_", 1)[1] for key in last if key.startswith("rckv/compression/"))
    return {int(name): (last[f"rckv/compression/layer_{name}"], last.get(f"rckv/floor/layer_{name}")) for name in names}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=pathlib.Path)
    parser.add_argument("--output", type=pathlib.Path)
    arguments = parser.parse_args()

    lines = ["Answer tokens among those read, mean over questions [95 % bootstrap interval]:", "",
             "| method | " + " | ".join(run.name for run in arguments.runs) + " |", "|---|" + "---|" * len(arguments.runs)]
    by_run = [recalls(run) for run in arguments.runs]
    for method in by_run[0]:
        cells = ["{:.3f} [{:.3f}, {:.3f}]".format(*interval(found[method])) if method in found else "" for found in by_run]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")

    by_layer = [layers(run) for run in arguments.runs]
    lines += ["", "Compression error of a layer's keys and values (L_compression, mean over runs) and the floor of the principal components "
              "that it started from:", "", "| layer | error | floor |", "|---|---|---|"]
    for layer in by_layer[0]:
        error = statistics.mean(found[layer][0] for found in by_layer)
        floor = statistics.mean(found[layer][1] for found in by_layer)
        lines.append(f"| {layer} | {error:.4f} | {floor:.4f} |")
    text = "\n".join(lines) + "\n"
    print(text, end="")
    if arguments.output:
        arguments.output.write_text(text)


if __name__ == "__main__":
    main()
