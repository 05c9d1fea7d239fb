#!/usr/bin/env python3
"""Made-up pages and predictions of Natural Questions with the figures that the official evaluation gives them, for
tests/eval/nq_scoring_test.cpp. FOLDER: a checkout of github.com/google-research-datasets/natural-questions.

    scripts/make_nq_pairs.py FOLDER > tests/eval/nq_pairs.json
"""
import json
import random
import sys
import types


class Flags(types.SimpleNamespace):
    """What nq_eval.py asks absl for; its own defaults."""

    def define(self, name, default, *_, **__):
        setattr(self, name, default)


def official(folder):
    flags = Flags()
    absl = types.ModuleType("absl")
    absl.flags = types.SimpleNamespace(FLAGS=flags, DEFINE_integer=flags.define, DEFINE_string=flags.define, DEFINE_bool=flags.define)
    absl.app, absl.logging = types.SimpleNamespace(), types.SimpleNamespace(info=lambda *_: None)
    six = types.ModuleType("six")
    six.iteritems = lambda items: items.items()
    sys.modules.update({"absl": absl, "absl.flags": absl.flags, "six": six})
    sys.path.insert(0, folder)
    import eval_utils
    import nq_eval
    return nq_eval, eval_utils


def span(rng, null=0.0):
    """Few places, so that annotators and systems agree now and then; bytes are left out now and then."""
    if rng.random() < null:
        return {"start_byte": -1, "end_byte": -1, "start_token": -1, "end_token": -1}
    begin = rng.randrange(5)
    of_bytes = rng.random() < 0.7
    return {"start_byte": 10 * begin if of_bytes else -1, "end_byte": 10 * begin + 7 if of_bytes else -1, "start_token": begin,
            "end_token": begin + 2}


def label(rng, null):
    yes_no = rng.choice(["YES", "NO"]) if rng.random() < 0.15 else "NONE"
    short = [] if yes_no != "NONE" or rng.random() < null else [span(rng) for _ in range(rng.choice([1, 1, 2]))]
    return {"long_answer": span(rng, null), "short_answers": short, "yes_no_answer": yes_no}


def main():
    nq_eval, util = official(sys.argv[1])
    rng = random.Random(9)
    pages, predictions = [], []
    for i in range(80):
        name = rng.choice([-1, 1]) * (2**62 + i)
        annotations = [label(rng, rng.choice([0.2, 0.9])) for _ in range(5)]
        known = rng.random() < 0.45  # mostly right, and mostly surer of it
        said = rng.choice(annotations) if known else label(rng, 0)
        scores = {key: rng.randrange(-8, 12) / 4 + 3 * known for key in ("long_answer_score", "short_answers_score")}
        pages.append({"example_id": name, "document_text": "a b c d e f", "annotations": annotations})
        predictions.append({"example_id": name, **said, **scores})

    def labels(item):
        spans = [util.Span(*(s[k] for k in ("start_byte", "end_byte", "start_token", "end_token")))
                 for s in (item["long_answer"], *item["short_answers"])]
        return util.NQLabel(item.get("example_id"), spans[0], spans[1:], item["yes_no_answer"].lower(), item.get("long_answer_score", 0),
                            item.get("short_answers_score", 0))
    gold = {page["example_id"]: [labels(annotation) for annotation in page["annotations"]] for page in pages}
    stats = nq_eval.score_answers(gold, {item["example_id"]: labels(item) for item in predictions})
    figures = nq_eval.get_metrics_with_answer_stats(*stats)
    figures.update(nq_eval.compute_final_f1(*stats))
    json.dump({"pages": pages, "predictions": predictions, "figures": figures}, sys.stdout, separators=(",", ":"))
    print()


if __name__ == "__main__":
    main()
