#!/usr/bin/env python3
"""The text of scripts/reproduce/stream.sh, and what came out of it.

    stream.py text ENTRIES... --output TEXT [--every BYTES]   dated entries in the order of time, with a question now and then
    stream.py results --metrics FILE... --runs NAME... --killed FILE --output results.json
"""
import argparse
import gzip
import json
import pathlib
import statistics
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import bench_results  # noqa: E402

MARKER = "??? "
FROM = 20_000  # tokens from which on the state has its size


def entries(paths):
    """(date, heading, text, what a question would be about), from the oldest."""
    found = []
    for path in paths:
        for line in gzip.open(path, "rt", encoding="utf-8"):
            entry = json.loads(line)
            if "package" in entry:
                about = f"What is the latest version of {entry['package']}?"
                heading, text = f"{entry['package']} {entry['version']}", entry["text"]
            else:
                about = f"What is the subject of the last commit of {entry['date'][:10]}?"
                heading, text = entry["subject"], entry.get("body", "")
            found.append((entry["date"], f"{entry['date']} {heading}", text, about))
    return sorted(found, key=lambda entry: entry[0][:19])


def write_text(args):
    written = asked = 0
    with open(args.output, "w", encoding="utf-8") as out:
        for _, heading, text, about in entries(args.entries):
            piece = f"{heading}\n{text}\n\n"
            assert not any(line.startswith(MARKER) for line in piece.split("\n"))
            out.write(piece)
            written += len(piece)
            if written >= (asked + 1) * args.every:
                asked += 1
                out.write(f"{MARKER}{about}\n")


def lines_of(path, event):
    return [line for line in map(json.loads, open(path, encoding="utf-8")) if line["event"] == event]


def run_records(name, path):
    """One record a status line for the figure, and what is promised of them."""
    status = [line for line in lines_of(path, "status") if line["read_tokens"] > 0]
    steady = [line for line in status if line["tokens"] - line["read_tokens"] >= FROM]
    # Of the processor: other programs may run. The last stretch may be short: its mean says little.
    timed = [line["read_core_seconds"] / line["read_tokens"] for line in steady if line["read_tokens"] > 0.5 * steady[0]["read_tokens"]]
    quarter = max(1, len(timed) // 4)
    early, late = statistics.median(timed[:quarter]), statistics.median(timed[-quarter:])
    records = []

    def add(metric, value, unit, **shape):
        records.append({"case": "stream", "method": name, "shape": shape, "metric": metric, "value": value, "unit": unit})

    for line in status:
        at = {"tokens": line["tokens"]}
        add("token_time", line["read_seconds"] / line["read_tokens"], "s", **at)
        add("token_core_time", line["read_core_seconds"] / line["read_tokens"], "core s", **at)
        add("state", line["state_bytes"], "bytes", **at)
        add("rss_anon", line["rss_anon_bytes"], "bytes", **at)
        add("age_median", line["age_median"], "tokens", **at)
        add("age_oldest", line["age_oldest"], "tokens", **at)
        add("latent_key_norm", line["latent_key_norm"], "1", **at)
        add("latent_value_norm", line["latent_value_norm"], "1", **at)
        add("priority_median", line["priority_median"], "nats", **at)
        add("latent_attention", line["latent_attention"], "share", **at)
    for line in lines_of(path, "answer"):
        if "scan_seconds" in line:
            add("scan", line["scan_seconds"], "s", tokens=line["scanned_tokens"], bytes=line["scanned_bytes"])
    whole = {"tokens": status[-1]["tokens"]}
    add("state_growth", max(line["state_bytes"] for line in steady) - min(line["state_bytes"] for line in steady), "bytes", **whole)
    add("rss_anon_growth", max(line["rss_anon_bytes"] for line in steady) - steady[0]["rss_anon_bytes"], "bytes", **whole)
    add("token_core_time_last_quarter_over_first", late / early, "x", **whole)
    add("tokens_per_core_second", 1 / statistics.median(timed), "tokens/core s", **whole)
    add("pairs_held", status[-1]["latents"] / status[-1]["latents_of"], "share", **whole)
    add("not_finite", sum(not line["finite"] for line in status), "1", **whole)
    return records


def answers(path):
    return [(line["tokens"], line["question"], (line["answer"], line["probability"])) for line in lines_of(path, "answer")]


def write_results(args):
    records = []
    for name, path in zip(args.runs, args.metrics):
        records += run_records(name, path)
    straight, killed = answers(args.metrics[-1]), {}
    for tokens, question, answer in answers(args.killed):  # what was answered twice counts as it was answered last
        killed[(tokens, question)] = answer
    last = max(tokens for tokens, _ in killed)
    same = [killed.get((tokens, question)) == answer for tokens, question, answer in straight if tokens <= last]
    records.append({"case": "stream", "method": args.runs[-1], "shape": {"answers": len(same)}, "metric": "equal_after_kill",
                    "value": sum(same) / len(same), "unit": "share"})
    bench_results.write_results(args.output, records, "cpu, 1 thread", {}, [0])
    for record in records:
        if record["metric"] in ("state_growth", "rss_anon_growth", "token_core_time_last_quarter_over_first", "tokens_per_core_second", "pairs_held",
                                "not_finite", "equal_after_kill"):
            print(f"{record['method']:>6} {record['metric']}: {record['value']:.6g} {record['unit']} {record['shape']}")
    limits = {"state_growth": 0, "rss_anon_growth": 16 << 20, "not_finite": 0}
    failed = [record for record in records if record["value"] > limits.get(record["metric"], float("inf"))]
    failed += [record for record in records if record["metric"] == "equal_after_kill" and record["value"] < 1]
    failed += [record for record in records if record["metric"] == "token_core_time_last_quarter_over_first" and record["value"] > 1.1]
    for record in failed:
        print(f"stream.py: {record['method']}: {record['metric']} is {record['value']}, over what is promised", file=sys.stderr)
    return 1 if failed else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="what", required=True)
    text = commands.add_parser("text")
    text.add_argument("entries", nargs="+")
    text.add_argument("--output", required=True)
    text.add_argument("--every", type=int, default=200_000, help="characters between two questions")
    results = commands.add_parser("results")
    results.add_argument("--metrics", nargs="+", required=True)
    results.add_argument("--runs", nargs="+", required=True)
    results.add_argument("--killed", required=True)
    results.add_argument("--output", required=True)
    args = parser.parse_args()
    if args.what == "text":
        write_text(args)
        return 0
    return write_results(args)


if __name__ == "__main__":
    sys.exit(main())
