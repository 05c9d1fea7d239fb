"""Recall of answer spans pooled over runs, and how the losses fell: the last lines of nq_small.sh.

    .venv/bin/python scripts/reproduce/pool_recall.py RUN_FOLDER...
"""

import json
import pathlib
import random
import sys


def interval(values, resamples=2000):
    """Mean and its 95 % percentile bootstrap interval."""
    draw = random.Random(0)
    means = sorted(sum(draw.choices(values, k=len(values))) / len(values) for _ in range(resamples))
    return sum(values) / len(values), means[int(0.025 * resamples)], means[int(0.975 * resamples)]


def losses(run):
    held_out, training = {}, []
    for line in open(run / "metrics.jsonl"):
        row = json.loads(line)
        if "validation/loss" in row:
            held_out[row["step"]] = row["validation/loss"]
        if "train/loss" in row:
            training.append((row["step"], row["train/loss"]))
    last = max(held_out)
    # Lines hold the mean since the line before, ten steps each.
    first = [loss for step, loss in training if step <= 50]
    final = [loss for step, loss in training if step > last - 50]
    ratio = (sum(final) / len(final)) / (sum(first) / len(first))
    return held_out[0], held_out[last], last, ratio


def main(folders):
    recalls = {}
    for folder in folders:
        run = pathlib.Path(folder)
        start, end, step, ratio = losses(run)
        print(f"{run.name}: held-out loss {start:.3f} at step 0, {end:.3f} at step {step}; "
              f"training loss of the last 50 steps / the first 50: {ratio:.3f}")
        for line in open(run / "eval" / "questions.jsonl"):
            row = json.loads(line)
            if "answer_recall" in row:
                recalls.setdefault(row["row"], []).append(row["answer_recall"])
    print(f"answer-span recall, pooled over {len(folders)} splits:")
    for row, values in recalls.items():
        mean, low, high = interval(values)
        print(f"  {row:16s} {mean:.3f} [{low:.3f}, {high:.3f}]  ({len(values)} questions)")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(sys.argv[1:])
