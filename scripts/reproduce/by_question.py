"""Tables from the questions.jsonl of dsrsq-eval, where the results' means are not enough.

    by_question.py compare --eval FOLDER... --rows A B ... --seeds S...   each row against the first, question by question
    by_question.py kinds --eval FOLDER --rows A --seeds S... --target SHARE   questions of one fact against questions of two

Rows of dsrsq-eval are named ROW-SEED. Intervals are 95 % percentile bootstraps over questions, drawn with a fixed seed.
"""

import argparse
import json
import pathlib
import random

RESAMPLES = 2000


def mean(values):
    return sum(values) / len(values)


def interval(values):
    """Mean and interval of values, or of differences between paired ones."""
    draw = random.Random(0)
    means = sorted(mean(draw.choices(values, k=len(values))) for _ in range(RESAMPLES))
    return mean(values), means[int(0.025 * RESAMPLES)], means[int(0.975 * RESAMPLES)]


def difference_of_groups(a, b):
    draw = random.Random(0)
    means = sorted(mean(draw.choices(a, k=len(a))) - mean(draw.choices(b, k=len(b))) for _ in range(RESAMPLES))
    return mean(a) - mean(b), means[int(0.025 * RESAMPLES)], means[int(0.975 * RESAMPLES)]


def text(found, digits=3):
    return f"{found[0]:.{digits}f} [{found[1]:.{digits}f}, {found[2]:.{digits}f}]"


def read(folders):
    rows = {}
    for folder in folders:
        for line in open(pathlib.Path(folder) / "questions.jsonl", encoding="utf-8"):
            question = json.loads(line)
            rows.setdefault(question["row"], {})[question["id"]] = question
    return rows


def compare(args, found):
    table = ["| row | seed | EM | recall of the answer's tokens | tokens read | EM less " + args.rows[0] + ", paired | tokens saved |",
             "|---|---|---|---|---|---|---|"]
    for row in args.rows:
        for seed in args.seeds:
            own, first = found[f"{row}-{seed}"], found[f"{args.rows[0]}-{seed}"]
            tokens, before = mean([q["tokens_read"] for q in own.values()]), mean([q["tokens_read"] for q in first.values()])
            paired = interval([own[i]["em"] - first[i]["em"] for i in own])
            same = row == args.rows[0]
            table.append(f"| {row} | {seed} | {text(interval([q['em'] for q in own.values()]))} | "
                         f"{mean([q['answer_recall'] for q in own.values()]):.3f} | {tokens:.1f} | "
                         f"{'' if same else text(paired)} | {'' if same else f'{1 - tokens / before:.0%}'} |")
    return table


def kinds(args, found):
    table = ["| seed | share read (target) | tokens, one fact | tokens, two facts | two less one | EM, one fact | EM, two facts |",
             "|---|---|---|---|---|---|---|"]
    for seed in args.seeds:
        questions = list(found[f"{args.rows[0]}-{seed}"].values())
        two = [q for q in questions if q["id"].endswith("-two")]
        one = [q for q in questions if not q["id"].endswith("-two")]
        share = mean([q["tokens_read"] / q["context_tokens"] for q in questions])
        more = difference_of_groups([q["tokens_read"] for q in two], [q["tokens_read"] for q in one])
        table.append(f"| {seed} | {share:.4f} ({args.target:g}) | {mean([q['tokens_read'] for q in one]):.1f} | "
                     f"{mean([q['tokens_read'] for q in two]):.1f} | {text(more, 2)} | {mean([q['em'] for q in one]):.3f} | "
                     f"{mean([q['em'] for q in two]):.3f} |")
    return table


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=["compare", "kinds"])
    parser.add_argument("--eval", nargs="+", required=True)
    parser.add_argument("--rows", nargs="+", required=True)
    parser.add_argument("--seeds", nargs="+", type=int, required=True)
    parser.add_argument("--target", type=float, default=0)
    parser.add_argument("--output", required=True)
    args = parser.parse_args()
    table = {"compare": compare, "kinds": kinds}[args.table](args, read(args.eval))
    pathlib.Path(args.output).write_text("\n".join(table) + "\n")
    print("\n".join(table))


if __name__ == "__main__":
    main()
