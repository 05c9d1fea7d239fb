"""Tokens a second of dsrsq-generate and of transformers, prefill and decode, in turns. Called by generation_speed.sh.

Both read the same prompt in fp32 with as many threads, from the same folder; each round of each is a process of its own that
runs once untimed and once timed. transformers is driven by a loop of its own over model(ids, past_key_values=...), which is faster
than its generate(). Numbers are medians over the rounds, the ratio is the median of the rounds' ratios.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import time

import provenance

SETTINGS = ["model.conv_width=0", "model.sinks=1", "model.positions=original"]
QUESTION = "Who is it?"
TAIL = "\nQuestion: {question}\nAnswer:"  # prompt.question's default


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="runs/smollm2")
    parser.add_argument("--program", default="build/bin/dsrsq-generate")
    parser.add_argument("--text", default="README.md", help="its words make the prompts")
    parser.add_argument("--lengths", type=int, nargs="+", default=[128, 1024], help="tokens of a prompt")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--tokens", type=int, default=64, help="tokens of an answer")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--least", type=float, default=0.8, help="exit code 1 where a ratio is below")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/generation_speed"))
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)  # one process of transformers: prompt's file, sequences
    return parser.parse_args()


def time_transformers(args):
    import torch
    import transformers

    torch.set_num_threads(args.threads)
    transformers.utils.logging.set_verbosity_error()
    model = transformers.AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
    ids = torch.tensor(json.loads(pathlib.Path(args.worker[0]).read_text())).expand(int(args.worker[1]), -1)
    for _ in range(2):
        with torch.inference_mode():
            begin = time.perf_counter()
            out = model(ids, use_cache=True, logits_to_keep=1)
            token = out.logits[:, -1].argmax(-1, keepdim=True)
            first = token.tolist()
            prefilled = time.perf_counter()
            for _ in range(args.tokens - 1):
                out = model(token, past_key_values=out.past_key_values, use_cache=True)
                token = out.logits[:, -1].argmax(-1, keepdim=True)
                token.tolist()  # as a caller needs it, and as ours has it
            done = time.perf_counter()
    print(json.dumps({"sequences": ids.size(0), "prompt_tokens": ids.numel(), "select_seconds": 0, "prefill_seconds": prefilled - begin,
                      "decoded_tokens": ids.size(0) * (args.tokens - 1), "decode_seconds": done - prefilled, "first": first[0]}))


def make_prompt(args, length):
    """A text whose context, with the begin token and the question, has exactly `length` tokens -> its file, the prompt's ids' file."""
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_file(f"{args.model}/tokenizer.json")
    encode = lambda text: tokenizer.encode(text, add_special_tokens=False).ids
    begin = json.loads(pathlib.Path(args.model, "config.json").read_text())["bos_token_id"]
    tail = encode(TAIL.replace("{question}", QUESTION))
    wanted = length - 1 - len(tail)
    words = encode(pathlib.Path(args.text).read_text(encoding="utf-8"))
    while len(words) < 2 * wanted:
        words += words
    for start in range(wanted):
        text = tokenizer.decode(words[start:start + wanted])
        if len(encode(text)) == wanted:
            break
    else:
        sys.exit(f"{args.text}: no passage of {wanted} tokens keeps them when it is decoded and encoded again; give another --text")
    context, ids = args.output / f"context_{length}.txt", args.output / f"ids_{length}.json"
    context.write_text(text, encoding="utf-8")
    ids.write_text(json.dumps([begin, *encode(text), *tail]))
    return context, ids


def last_line(command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"exit code {done.returncode}: {' '.join(map(str, command))}\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def rounds(args, length, batch):
    context, ids = make_prompt(args, length)
    ours = [args.program, "--model", args.model, "--context", str(context), "--max-tokens", str(args.tokens), "--threads", str(args.threads),
            "--time", "1"]
    ours += [part for setting in SETTINGS for part in ("--set", setting)] + ["--question", QUESTION] * batch
    theirs = [sys.executable, __file__, "--model", args.model, "--tokens", str(args.tokens), "--threads", str(args.threads),
              "--worker", str(ids), str(batch)]
    found = {"dsrsq": [], "transformers": []}
    for number in range(args.rounds):
        order = [("dsrsq", ours), ("transformers", theirs)]
        for name, command in order if number % 2 == 0 else order[::-1]:
            timing = last_line(command)
            if timing["prompt_tokens"] != length * batch:
                sys.exit(f"{name}: expected a prompt of {length * batch} tokens, got {timing['prompt_tokens']}")
            found[name].append({"prefill": timing["prompt_tokens"] / (timing["select_seconds"] + timing["prefill_seconds"]),
                                "decode": timing["decoded_tokens"] / timing["decode_seconds"]})
    return found


def percentile(values, share):
    values = sorted(values)
    place = share * (len(values) - 1)
    low = int(place)
    return values[low] + (place - low) * (values[min(low + 1, len(values) - 1)] - values[low])


def main():
    args = arguments()
    if args.worker:
        return time_transformers(args)
    args.output.mkdir(parents=True, exist_ok=True)
    records, slow = [], []
    table = ["| prompt tokens | batch | phase | DSRSQ, tokens/s (p10 to p90) | transformers (p10 to p90) | ratio |", "|---|---|---|---|---|---|"]
    print("\n".join(table), flush=True)
    for length in args.lengths:
        for batch in args.batches:
            found = rounds(args, length, batch)
            for phase in ("prefill", "decode"):
                cells = []
                ratio = statistics.median(a[phase] / b[phase] for a, b in zip(found["dsrsq"], found["transformers"]))
                for name, each in found.items():
                    values = [one[phase] for one in each]
                    low, high = percentile(values, 0.1), percentile(values, 0.9)
                    cells.append(f"{statistics.median(values):.1f} ({low:.1f} to {high:.1f})")
                    records.append({"case": f"prompt {length}, batch {batch}", "method": name, "metric": phase, "unit": "tokens/s",
                                    "shape": {"prompt_tokens": length, "batch": batch, "answer_tokens": args.tokens, "threads": args.threads,
                                              "rounds": args.rounds},
                                    "value": statistics.median(values), "p10": low, "p90": high})
                    if name == "dsrsq":
                        records[-1] |= {"baseline": "transformers", "ratio": ratio}
                table.append(f"| {length} | {batch} | {phase} | {cells[0]} | {cells[1]} | {ratio:.2f} |")
                print(table[-1], flush=True)
                if ratio < args.least:
                    slow.append(table[-1])
    (args.output / "table.md").write_text("\n".join(table) + "\n")
    command = "scripts/reproduce/generation_speed.sh " + " ".join(sys.argv[1:])
    provenance.write_results(args.output / "results.json", command.strip(), "cpu", records)
    if slow:
        sys.exit(f"below {args.least} of transformers:\n" + "\n".join(slow))


if __name__ == "__main__":
    main()
