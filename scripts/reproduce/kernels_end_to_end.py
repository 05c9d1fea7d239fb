#!/usr/bin/env python3
"""The same training and the same answers with the native operators and with plain tensor operations (ATen), on one device.

    .venv/bin/python scripts/reproduce/kernels_end_to_end.py --config NAME=CONFIG.yaml ... --device cuda --output results.json

Of each config, with {dsr,sqa,rckv}.kernel native (auto: where it serves) and aten: a few dense steps, then --steps steps of all parts from
the same seed; then the answers of the natively trained model with either. Records, ATen as the baseline: median time of a step and its
peak memory, the loss beside the other's (of the first step of all parts, where both stand at the same weights, and of all), answers that
are equal, median latency of an answer, also decoded operator by operator. Data are what the configs name. DSRSQ_BIN: folder of programs.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import bench_results  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = os.environ.get("DSRSQ_BIN", "build/bin")
DENSE_STEPS = 5
KERNELS = {"native": "auto", "aten": "aten"}


def settings(kernel):
    return [argument for part in ("dsr", "sqa", "rckv") for argument in ("--set", f"{part}.kernel={KERNELS[kernel]}")]


def run(command, log):
    with open(log, "w", encoding="utf-8") as file:
        status = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, cwd=ROOT).returncode
    if status != 0:
        sys.exit(f"kernels_end_to_end.py: {' '.join(command)} ended with {status}: see {log}")


def train(name, config, kernel, args, work):
    """-> lines of the log of the stage of all parts."""
    folder = work / f"{name}_{kernel}"
    short = work / f"{name}.yaml"
    short.write_text(f"extends: {(ROOT / config).resolve()}\nstages:\n"
                     f"  - {{name: dense, steps: {DENSE_STEPS}, sqa: false, rckv: false, selection: global}}\n"
                     f"  - {{name: joint, steps: {args.steps}, selection: global}}\n", encoding="utf-8")
    if not (folder / "done").exists():
        run([f"{BIN}/dsrsq-train", "--config", str(short), "--device", args.device, "--output-dir", str(folder), "--set", "train.log_every=1",
             "--set", "train.evaluate_every=0", *settings(kernel)], work / f"{name}_{kernel}.log")
        (folder / "done").touch()
    lines = [json.loads(line) for line in open(folder / "metrics.jsonl", encoding="utf-8")]
    return [line for line in lines if line.get("train/stage") == 1]


def answers(name, kernel, decoding, args, work):
    """-> results.json of the natively trained model's answers."""
    folder = work / f"{name}_answers_{kernel}_{decoding}"
    if not (folder / "results.json").exists():
        run([f"{BIN}/dsrsq-eval", "--checkpoint", f"model={work / f'{name}_native'}", "--device", args.device, "--output-dir", str(folder),
             "--set", f"eval.questions={args.questions}", "--set", f"eval.latency_questions={args.questions}",
             "--set", f"eval.decoding={decoding}", *settings(kernel)], work / f"{name}_answers_{kernel}_{decoding}.log")
    return folder


def values(folder, metric):
    records = json.loads((folder / "results.json").read_text(encoding="utf-8"))["records"]
    return [record["value"] for record in records if record["metric"] == metric]


def predictions(folder):
    return [json.loads(line)["prediction"] for path in sorted(folder.rglob("*.jsonl")) for line in open(path, encoding="utf-8")
            if "prediction" in line]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", action="append", required=True, help="NAME=CONFIG.yaml; repeatable")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--device-name", default=None, help="for the results; default: --device")
    parser.add_argument("--steps", type=int, default=40, help="of all parts")
    parser.add_argument("--questions", type=int, default=32)
    parser.add_argument("--work", default="runs/kernels_end_to_end")
    parser.add_argument("--output", required=True)
    args = parser.parse_args()
    work = (ROOT / args.work).resolve()
    work.mkdir(parents=True, exist_ok=True)
    records = []
    for named in args.config:
        name, config = named.split("=", 1)
        shape = {"steps": args.steps, "questions": args.questions}

        def add(method, metric, value, unit, **more):
            records.append({"case": name, "method": method, "shape": shape, "metric": metric, "value": value, "unit": unit, **more})
            print(f"{name}, {method}: {metric} {value:.6g} {unit}")

        lines = {kernel: train(name, config, kernel, args, work) for kernel in KERNELS}
        for kernel, stage in lines.items():
            add(kernel, "step_time", statistics.median(line["train/seconds"] for line in stage[5:]), "s")
            memory = [line["train/step_memory"] for line in stage[5:] if "train/step_memory" in line]
            if memory:
                add(kernel, "step_memory", max(memory), "bytes")
        losses = [[line["train/loss"] for line in lines[kernel]] for kernel in KERNELS]
        apart = [abs(a - b) / abs(b) for a, b in zip(*losses)]
        add("native", "first_loss_difference", apart[0], "share", baseline="aten")
        add("native", "mean_loss_difference", abs(statistics.mean(losses[0]) / statistics.mean(losses[1]) - 1), "share", baseline="aten")
        said = {}
        for kernel in KERNELS:
            for decoding in ("auto", "eager"):
                folder = answers(name, kernel, decoding, args, work)
                said[kernel, decoding] = predictions(folder)
                for metric, unit in (("latency_p50", "s"), ("peak_memory", "bytes")):
                    for value in values(folder, metric)[:1]:
                        add(f"{kernel}_{decoding}", metric, value, unit)
        for key, texts in said.items():
            reference = said["aten", "eager"]
            if key != ("aten", "eager") and reference:
                same = sum(a == b for a, b in zip(texts, reference)) / len(reference)
                add("_".join(key), "equal_answers", same, "share", baseline="aten_eager")
    bench_results.write_results(args.output, records, args.device_name or args.device, {}, [0])


if __name__ == "__main__":
    main()
