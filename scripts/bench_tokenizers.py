#!/usr/bin/env python3
"""Times Python's json and Hugging Face's `tokenizers` on a JSONL file, for `dsrsq-bench --suite data` to compare with.

    scripts/bench_tokenizers.py --input train.jsonl --format timeqa --key context --tokenizer tokenizer.json --output python.json
    build/bin/dsrsq-bench --suite data --input train.jsonl --format timeqa --tokenizer tokenizer.json --python python.json --output data.json

One thread. `parse` is json.loads of every line and no more: no span is checked, which the readers here do. `tokenize` is
encode_batch with offsets over the distinct texts of --key that follow one another, special tokens as text.
"""

import argparse
import json
import os
import statistics
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"  # before the import

import tokenizers  # noqa: E402

from bench_results import quantile, write_results  # noqa: E402


def time_it(run, seconds: float) -> list[float]:
    """Speeds of runs a second, ascending; at least five, after one untimed."""
    run()
    speeds, end = [], time.perf_counter() + seconds
    while len(speeds) < 5 or time.perf_counter() < end:
        begin = time.perf_counter()
        run()
        speeds.append(1 / (time.perf_counter() - begin))
    return sorted(speeds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--input", required=True, help="JSONL, not compressed")
    parser.add_argument("--format", required=True, help="how dsrsq calls it; only names the records")
    parser.add_argument("--key", required=True, help="of the text that is tokenized")
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--seconds", type=float, default=1, help="of measuring, each of the two")
    arguments = parser.parse_args()
    with open(arguments.input, encoding="utf-8") as file:
        lines = [line for line in file if line.strip()]
    texts: list[str] = []
    for line in lines:
        text = json.loads(line)[arguments.key]
        if not texts or texts[-1] != text:
            texts.append(text)
    tokenizer = tokenizers.Tokenizer.from_file(arguments.tokenizer)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    counted = sum(len(one.ids) for one in tokenizer.encode_batch(texts, add_special_tokens=False))

    def parse() -> None:
        with open(arguments.input, encoding="utf-8") as file:
            for line in file:
                json.loads(line)

    sizes = {"parse": os.path.getsize(arguments.input), "tokenize": sum(len(text.encode()) for text in texts)}
    runs = {"parse": ("python_json", parse),
            "tokenize": ("tokenizers", lambda: tokenizer.encode_batch(texts, add_special_tokens=False))}
    shape = {"records": len(lines), "documents": len(texts), "tokens": counted}
    records = []
    for metric, (method, run) in runs.items():
        speeds = [speed * sizes[metric] for speed in time_it(run, arguments.seconds)]
        value = statistics.median(speeds)
        print(f"{metric}: {method} {value / 1e6:.1f} MB/s", flush=True)
        records.append({"case": f"{arguments.format}, {os.path.basename(arguments.input)}", "method": method, "shape": shape,
                        "metric": metric, "value": value, "unit": "bytes/s", "p10": quantile(speeds, .1), "p90": quantile(speeds, .9)})
    write_results(arguments.output, records, "cpu, 1 thread", {"tokenizers": tokenizers.__version__}, [])


if __name__ == "__main__":
    main()
