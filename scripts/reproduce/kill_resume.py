"""Kills a training run at seeded random moments and checks what is left each time.

kill_resume.py --kills N --seed S --runs FOLDER -- COMMAND...   (COMMAND lacks --output-dir)

FOLDER/straight is the run that is left alone, FOLDER/killed the other one. After each kill every checkpoint that is there
must agree with its manifest, and no process but those killed since the last full start may have left something half-written. At the
end weights, optimiser state and best.json must be the same bytes, the logged values the same numbers, and nothing stale is left.
"""

import argparse
import collections
import hashlib
import json
import pathlib
import random
import signal
import subprocess
import sys
import time

EVALUATE_EVERY = 3  # of kill_resume.sh's config
TIMES = ("time", "train/seconds", "train/context_tokens_per_second")
STALE = (".tmp-", ".old-")


def fail(message):
    sys.exit(f"kill_resume: {message}")


def steps(run):
    return sorted(folder for folder in (run / "checkpoints").glob("step-*"))


def check_whole(folder):
    """Independent of the program: sizes and SHA-256 by Python's own library."""
    manifest = json.loads((folder / "manifest.json").read_text())
    if {path.name for path in folder.iterdir()} != set(manifest["files"]) | {"manifest.json"}:
        fail(f"{folder}: other files than its manifest lists")
    for name, entry in manifest["files"].items():
        content = (folder / name).read_bytes()
        if len(content) != entry["bytes"] or hashlib.sha256(content).hexdigest() != entry["sha256"]:
            fail(f"{folder / name}: not what its manifest says")


def stale(run):
    return [path for path in run.rglob("*") if path.name.startswith(STALE)]


def metric_lines(run):
    path = run / "metrics.jsonl"
    if not path.exists():
        return []
    lines = path.read_text().split("\n")
    return [json.loads(line) for line in lines[:-1]]  # the last one may be cut off


def start(command, run, log):
    return subprocess.Popen([*command, "--output-dir", str(run)], stdout=log, stderr=log, stdin=subprocess.DEVNULL)


def wait_until(process, is_there):
    while not is_there():
        if process.poll() is not None:
            fail(f"the run ended by itself with code {process.returncode}; see its log")
        time.sleep(0.002)


def wait_for_checkpoint(process, run, newest):
    """Until a later one than `newest` is there."""
    wait_until(process, lambda: any(folder.name > newest for folder in steps(run)))


def log_size(run):
    return (run / "log.txt").stat().st_size if (run / "log.txt").exists() else 0


def wait_for_log(process, run):
    """Seconds from the start of the process to its first line, behind which it resumes."""
    begin = time.monotonic()
    wait_until(process, lambda: log_size(run) > 0)
    return time.monotonic() - begin


def place_of(run, process, written_before):
    """Where the kill fell, as far as the files tell."""
    if log_size(run) == written_before:
        return "starting"
    if any(path.name.startswith(".tmp-step-") and path.name.endswith(f"-{process.pid}") for path in stale(run)):
        return "writing a checkpoint"
    lines = metric_lines(run)
    last = lines[-1] if lines else {}
    if "train/loss" in last and last["step"] % EVALUATE_EVERY == 0:
        return "reading held-out questions"
    return "a step"


def kill_once(command, run, log, moments, interval, startup):
    newest = steps(run)[-1].name if steps(run) else ""
    size = log_size(run)
    process = start(command, run, log)
    early = moments.random() < 0.15
    if early:
        time.sleep(moments.uniform(0, 1.5 * startup))
    else:
        wait_for_checkpoint(process, run, newest)
        time.sleep(moments.uniform(0, interval))
    process.send_signal(signal.SIGKILL)
    process.wait()
    if process.returncode != -signal.SIGKILL:
        fail(f"the run ended by itself with code {process.returncode} before the kill; see its log")
    return process, place_of(run, process, size), early


def check_end(straight, killed):
    last = steps(straight)[-1].name
    for name in ("model.safetensors", "optimizer.safetensors"):
        if (straight / "checkpoints" / last / name).read_bytes() != (killed / "checkpoints" / last / name).read_bytes():
            fail(f"{last}/{name} differs")
    if (straight / "checkpoints/best.json").read_bytes() != (killed / "checkpoints/best.json").read_bytes():
        fail("checkpoints/best.json differs")
    values = [
        [{key: value for key, value in line.items() if key not in TIMES} for line in metric_lines(run)]
        for run in (straight, killed)
    ]
    if values[0] != values[1]:
        fail("metrics.jsonl differs in more than times")
    if stale(killed):
        fail(f"stale: {[str(path) for path in stale(killed)]}")
    for folder in steps(killed):
        check_whole(folder)
    return last, len(values[0])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--runs", type=pathlib.Path, required=True)
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    straight, killed = options.runs / "straight", options.runs / "killed"
    moments = random.Random(options.seed)
    begin = time.monotonic()
    print(f"seed {options.seed}")

    with open(options.runs / "straight.log", "wb") as log:
        process = start(options.command, straight, log)
        startup = wait_for_log(process, straight)
        wait_for_checkpoint(process, straight, "")
        first = time.monotonic()
        if process.wait() != 0:
            fail(f"the run that was left alone ended with {process.returncode}; see {log.name}")
    total = int(steps(straight)[-1].name.removeprefix("step-"))
    interval = (time.monotonic() - first) / (total / 4)
    print(f"left alone: {total} steps in {time.monotonic() - begin:.0f} s, {interval:.2f} s from checkpoint to checkpoint")

    places, checked, may_be_stale = collections.Counter(), 0, set()
    with open(options.runs / "killed.log", "wb") as log:
        for kill in range(1, options.kills + 1):
            process, place, early = kill_once(options.command, killed, log, moments, interval, startup)
            places[place] += 1
            if not early:
                may_be_stale.clear()
            may_be_stale.add(str(process.pid))
            for path in stale(killed) if killed.exists() else []:
                if path.name.rsplit("-", 1)[1] not in may_be_stale and not any(
                    parent.name.startswith(STALE) for parent in path.relative_to(killed).parents
                ):
                    fail(f"kill {kill}: {path} was left by an earlier process")
            for folder in steps(killed):
                check_whole(folder)
                checked += 1
            newest = steps(killed)[-1].name if steps(killed) else "none"
            print(f"kill {kill}: {place}; newest checkpoint {newest}", flush=True)
        if start(options.command, killed, log).wait() != 0:
            fail(f"the last start did not finish; see {log.name}")
    last, lines = check_end(straight, killed)
    warnings = (options.runs / "killed.log").read_text(errors="replace").count(" is damaged and skipped")
    if warnings:
        fail(f"{warnings} checkpoints were skipped as damaged")
    print(", ".join(f"{count} while {place}" for place, count in sorted(places.items())))
    print(
        f"{options.kills} kills, seed {options.seed}: {checked} looks at checkpoints, all whole; weights, optimiser state and best.json "
        f"of {last} bit-equal, {lines} log lines equal, nothing stale; {time.monotonic() - begin:.0f} s"
    )


if __name__ == "__main__":
    main()
