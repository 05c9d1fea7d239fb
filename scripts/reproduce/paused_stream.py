#!/usr/bin/env python3
"""A stream of an hour whose reader stops at random: the program must wait, lose no line, and hold no more memory for it.

    .venv/bin/python scripts/reproduce/paused_stream.py --model runs/stream/run --text runs/stream/stream.txt --output FOLDER

Follows the text again and again with `dsrsq-generate --stream`, a question every few thousand bytes, and reads the answers from a pipe of
one page, with pauses of random length in which that pipe fills up and the program stops reading. Watches its memory (RssAnon), its open
descriptors and its threads. Leaves FOLDER/{results.json,paused.png,metrics.jsonl,log.txt}. Fails where memory grows by 16 MiB or more,
descriptors or threads become more, or an answer is missing or another than the program's own record of it.
"""
import argparse
import fcntl
import json
import pathlib
import random
import subprocess
import sys
import threading
import time

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import bench_results  # noqa: E402
from plot_parts import PALETTE, STYLE  # noqa: E402

MARKER = "??? "
ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE = 4096  # bytes that the pipe of answers holds
SETTLED = 0.1  # of the time, before which allocators and the first questions still make the process grow
MEMORY_LIMIT = 16 << 20


class Writer(threading.Thread):
    """Writes text and questions as fast as they are taken, at most `rate` bytes a second, until told to stop."""

    def __init__(self, pipe, text, every, rate):
        super().__init__(daemon=True)
        self.pipe, self.text, self.every, self.rate = pipe, text, every, rate
        self.questions = self.bytes = 0
        self.stopping = threading.Event()
        self.waits_since = None  # while a write is not taken

    def put(self, line):
        self.questions += line.startswith(MARKER.encode())  # the text has some of its own
        self.waits_since = time.monotonic()
        self.pipe.write(line)
        self.pipe.flush()
        self.waits_since = None
        self.bytes += len(line)

    def run(self):
        begun, since_question = time.monotonic(), 0
        while not self.stopping.is_set():
            for line in self.text:
                if self.stopping.is_set():
                    break
                self.put(line)
                since_question += len(line)
                if since_question >= self.every:
                    since_question = 0
                    self.put(f"{MARKER}What is the latest version of package {self.questions}?\n".encode())
                if self.rate:  # behind a pause it does not catch up all at once
                    ahead = self.bytes / self.rate - (time.monotonic() - begun)
                    begun = max(begun, time.monotonic() - self.bytes / self.rate)
                    if ahead > 0:
                        time.sleep(ahead)
        self.pipe.close()


class Reader(threading.Thread):
    """Reads answers, and now and then does not for a while."""

    def __init__(self, pipe, pause, run, seed):
        super().__init__(daemon=True)
        self.pipe, self.pause, self.run_length = pipe, pause, run
        self.random = random.Random(seed)
        self.answers, self.pauses = [], []  # pauses: (begin, end)
        self.paused = False
        self.stopping = threading.Event()

    def run(self):
        next_pause = time.monotonic() + self.random.expovariate(1 / self.run_length)
        for line in self.pipe:
            self.answers.append(line.decode("utf-8", "replace").rstrip("\n"))
            if time.monotonic() >= next_pause and not self.stopping.is_set():
                begin, self.paused = time.monotonic(), True
                self.stopping.wait(self.random.expovariate(1 / self.pause))
                self.paused = False
                self.pauses.append((begin, time.monotonic()))
                next_pause = time.monotonic() + self.random.expovariate(1 / self.run_length)


def look(pid):
    """RssAnon in bytes, open descriptors, threads."""
    fields = dict(line.split(":", 1) for line in open(f"/proc/{pid}/status", encoding="utf-8"))
    descriptors = sum(1 for _ in pathlib.Path(f"/proc/{pid}/fd").iterdir())
    return int(fields["RssAnon"].split()[0]) * 1024, descriptors, int(fields["Threads"])


def follow(args, folder):
    """-> samples (seconds, RssAnon, descriptors, threads, writer waits, reader paused), writer, reader."""
    (folder / "metrics.jsonl").unlink(missing_ok=True)
    command = [str(ROOT / "build/bin/dsrsq-generate"), "--stream", "--model", args.model, "--marker", MARKER, "--max-tokens", "8", "--stop",
               "\n", "--threads", "1", "--status-every", "100000", "--metrics", str(folder / "metrics.jsonl")]
    with open(folder / "log.txt", "w", encoding="utf-8") as log:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
    fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, PAGE)
    writer = Writer(process.stdin, pathlib.Path(args.text).read_bytes().splitlines(keepends=True), args.question_every, args.bytes_per_second)
    reader = Reader(process.stdout, args.pause, args.run, args.seed)
    begun = time.monotonic()
    writer.start(), reader.start()
    samples = []
    while time.monotonic() - begun < args.seconds and process.poll() is None:
        time.sleep(min(2.0, args.seconds / 50))
        if process.poll() is None:
            waits = writer.waits_since
            samples.append((time.monotonic() - begun, *look(process.pid), waits is not None and time.monotonic() - waits > 1, reader.paused))
            print(f"\r{samples[-1][0]:.0f} of {args.seconds} s, {len(reader.answers)} answers, {samples[-1][1] / 1e6:.1f} MB", end="",
                  file=sys.stderr)
    print(file=sys.stderr)
    writer.stopping.set(), reader.stopping.set()
    writer.join(), reader.join()
    if process.wait() != 0:
        sys.exit(f"paused_stream.py: dsrsq-generate ended with {process.returncode}: see {folder}/log.txt")
    reader.pauses = [(begin - begun, end - begun) for begin, end in reader.pauses]
    return samples, writer, reader


def draw(samples, pauses, path):
    plt.rcParams.update(STYLE)
    figure, axes = plt.subplots(figsize=(8, 3.2), layout="constrained")
    minutes = [sample[0] / 60 for sample in samples]
    for number, (begin, end) in enumerate(pauses):
        axes.axvspan(begin / 60, end / 60, color=PALETTE[1], alpha=0.25, linewidth=0, label=None if number else "reader paused")
    axes.plot(minutes, [sample[1] / 1e6 for sample in samples], color=PALETTE[0], label="RssAnon")
    axes.set(xlabel="minutes", ylabel="MB", title="Memory of a stream whose reader stops at random", ylim=(0, None), xlim=(0, None))
    axes.legend(loc="lower right", frameon=True, framealpha=1, edgecolor="none")
    figure.savefig(path, dpi=150)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="run folder of a model that reads streams")
    parser.add_argument("--text", required=True)
    parser.add_argument("--output", required=True, help="folder")
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--bytes-per-second", type=int, default=0, help="0: as fast as they are taken")
    parser.add_argument("--question-every", type=int, default=2000, help="bytes between two questions")
    parser.add_argument("--pause", type=float, default=30, help="mean seconds of a pause (exponential)")
    parser.add_argument("--run", type=float, default=45, help="mean seconds between two pauses")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    folder = pathlib.Path(args.output)
    folder.mkdir(parents=True, exist_ok=True)
    samples, writer, reader = follow(args, folder)

    events = [json.loads(line) for line in open(folder / "metrics.jsonl", encoding="utf-8")]
    recorded = [event["answer"] for event in events if event["event"] == "answer"]
    tokens = max(event["tokens"] for event in events)
    state = {event["state_bytes"] for event in events if event["event"] == "status" and event["tokens"] >= 20_000}
    settled = [sample for sample in samples if sample[0] >= SETTLED * args.seconds]
    wrong = sum(read != said for read, said in zip(reader.answers, recorded)) + abs(len(reader.answers) - len(recorded))
    shape = {"seconds": round(args.seconds), "tokens": tokens, "bytes": writer.bytes}
    values = [
        ("questions", writer.questions, "1"), ("answers", len(reader.answers), "1"),
        ("answers_lost_or_changed", max(wrong, abs(writer.questions - len(reader.answers))), "1"),
        ("pauses", len(reader.pauses), "1"), ("longest_pause", max((end - begin for begin, end in reader.pauses), default=0), "s"),
        ("writer_waits", sum(sample[4] for sample in samples) / len(samples), "share of the time"),
        ("rss_anon_growth", max(sample[1] for sample in settled) - settled[0][1], "bytes"),
        ("descriptors_growth", max(sample[2] for sample in settled) - settled[0][2], "1"),
        ("threads_growth", max(sample[3] for sample in settled) - settled[0][3], "1"),
        ("state_growth", max(state) - min(state) if state else 0, "bytes"),
    ]
    records = [{"case": "paused_stream", "method": "store_none", "shape": shape, "metric": metric, "value": value, "unit": unit}
               for metric, value, unit in values]
    records += [{"case": "paused_stream", "method": "store_none", "shape": {"seconds": round(sample[0], 1)}, "metric": "rss_anon",
                 "value": sample[1], "unit": "bytes"} for sample in samples[:: max(1, len(samples) // 120)]]
    bench_results.write_results(folder / "results.json", records, "cpu, 1 thread", {}, [args.seed])
    draw(samples, reader.pauses, folder / "paused.png")
    for metric, value, unit in values:
        print(f"{metric}: {value:.6g} {unit}")
    limits = {"answers_lost_or_changed": 0, "rss_anon_growth": MEMORY_LIMIT, "descriptors_growth": 0, "threads_growth": 0, "state_growth": 0}
    failed = [(metric, value) for metric, value, _ in values if value > limits.get(metric, float("inf"))]
    if not reader.pauses or not any(sample[4] for sample in samples):
        failed.append(("writer_waits", 0))  # then nothing was tried
    for metric, value in failed:
        print(f"paused_stream.py: {metric} is {value}, not what is promised", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
