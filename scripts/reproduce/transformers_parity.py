"""EM, F1 and subspan EM of SmolLM2 through dsrsq-eval and through transformers, same prompts, question by question. Called by
transformers_parity.sh.

    transformers_parity.py prepare --data FILE.jsonl.gz    a data set of each number of documents
    transformers_parity.py compare                         dsrsq-eval's row `standard`, transformers' greedy answers, the table

`compare` needs only what `prepare` left in the folder, the model's folder and the programs. The prompt is two examples and the
question; its text is checked against the model's own chat template, and transformers tokenises that text whole. Scores of
transformers' answers are computed here, after the rules of the SQuAD script. Where two answers differ, transformers' logits at the
token that parts them say how near a tie it was.
"""

import argparse
import collections
import json
import pathlib
import re
import string
import subprocess
import sys
import time

import provenance

SYSTEM = "Answer the question with a few words taken from the text."
EXAMPLES = [
    ("Mount Rainier\nMount Rainier is a volcano in the Cascade Range, 59 miles from Seattle. With a summit elevation of 14,411 ft, it is "
     "the highest mountain in the U.S. state of Washington.", "what is the highest mountain in washington state", "Mount Rainier"),
    ("The Origin of Species\nOn the Origin of Species, published on 24 November 1859, is a work by Charles Darwin that is considered "
     "to be the foundation of evolutionary biology.", "when was the origin of species published", "24 November 1859"),
]
TURN, END = "<|im_start|>", "<|im_end|>\n"
QUESTION = "Question: {question}"
METRICS = {"em": "EM", "f1": "F1", "subspan_em": "subspan EM"}


def turn(role, text):
    return f"{TURN}{role}\n{text}{END}"


def exchange(text, question):
    """Text and question are turns of their own: the stored tokens of a text that ends in white space are what the tokenizer makes of
    the whole prompt only where a special token follows."""
    return [("user", text), ("user", QUESTION.replace("{question}", question))]


SHOTS = [("system", SYSTEM)] + [one for text, question, answer in EXAMPLES for one in exchange(text, question) + [("assistant", answer)]]
PREFIX = "".join(turn(role, text) for role, text in SHOTS) + f"{TURN}user\n"
TAIL = END + turn("user", QUESTION) + f"{TURN}assistant\n"


def template_text(tokenizer, document, question):
    messages = [{"role": role, "content": text} for role, text in SHOTS + exchange(document, question)]
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["prepare", "compare"])
    parser.add_argument("--data", help="lost_in_the_middle's nq-open-oracle.jsonl.gz (prepare)")
    parser.add_argument("--model", default="runs/smollm2")
    parser.add_argument("--bin", type=pathlib.Path, default=pathlib.Path("build/bin"))
    parser.add_argument("--documents", type=int, nargs="+", default=[1, 10, 20])
    parser.add_argument("--questions", type=int, default=200, help="the first of the data set")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=8, help="questions a batch, of both")
    parser.add_argument("--tokens", type=int, default=32, help="of an answer")
    parser.add_argument("--threads", type=int, default=0, help="0: all")
    parser.add_argument("--most", type=int, default=2, help="exit code 1 where more questions of a data set differ in a score")
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path("runs/transformers_parity"))
    return parser.parse_args()


def run(command):
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"exit code {done.returncode}: {' '.join(map(str, command))}")


def prepare(args):
    args.folder.mkdir(parents=True, exist_ok=True)
    for documents in args.documents:
        store = args.folder / f"documents_{documents}.h5"
        if not store.exists():
            run([args.bin / "dsrsq-data", "prepare", args.data, "--format", "lost_in_the_middle", "--tokenizer", f"{args.model}/tokenizer.json",
                 "--documents", documents, "--gold", "middle", "--seed", 0, "--output", store])
        print(f"{store}: {store.stat().st_size / 1e6:.1f} MB")


def config_text(args, store):
    config = {"method": "standard", "prompt": {"prefix": PREFIX, "question": TAIL, "answer": "{answer}"},
              "model": {"init": args.model, "sinks": 0, "conv_width": 0, "positions": "original"},
              "data": {"tokenizer": f"{args.model}/tokenizer.json", "train": str(store), "test_split": "all"},
              "standard": {"window": 32768},
              "eval": {"batch_size": args.batch, "questions": args.questions, "maximum_tokens": args.tokens, "latency_questions": 0},
              "train": {"device": args.device, "threads": args.threads}}
    return json.dumps(config, indent=1) + "\n"  # JSON is YAML


def evaluate(args, documents):
    """-> dsrsq-eval's questions by id, in its order."""
    store, out = args.folder / f"documents_{documents}.h5", args.folder / f"eval_{documents}"
    config = args.folder / f"documents_{documents}.yaml"
    config.write_text(config_text(args, store))
    run([args.bin / "dsrsq-eval", "--checkpoint", args.model, "--config", config, "--output-dir", out])
    questions = [json.loads(line) for line in open(out / "questions.jsonl", encoding="utf-8")]
    return {question["id"]: question for question in questions}


def read_store(path, wanted):
    """-> {id: (tokens of the document, question, answers)} of the data set's file."""
    import h5py

    with h5py.File(path) as file:
        records = {name: file["records"][name][:] for name in file["records"]}
        tokens, offsets = file["documents/tokens"][:], file["documents/offsets"][:]

    def text(name, i):
        begin, end = records[f"{name}_offsets"][i:i + 2]
        return records[f"{name}_bytes"][begin:end].tobytes().decode("utf-8")

    found = {}
    for i, document in enumerate(records["document"]):
        if text("id", i) not in wanted:
            continue
        answers = [text("answers", a) for a in range(records["answers_of"][i], records["answers_of"][i + 1])]
        found[text("id", i)] = (tokens[offsets[document]:offsets[document + 1]].tolist(), text("question", i), answers)
    return found


def normalise(text):
    text = "".join(c for c in text.lower() if c not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def f1(prediction, answer):
    predicted, wanted = normalise(prediction).split(), normalise(answer).split()
    if not predicted or not wanted:
        return float(predicted == wanted)
    common = sum((collections.Counter(predicted) & collections.Counter(wanted)).values())
    return 2 * common / (len(predicted) + len(wanted)) if common else 0.0


def scores(prediction, answers):
    return {"em": max(float(normalise(prediction) == normalise(a)) for a in answers), "f1": max(f1(prediction, a) for a in answers),
            "subspan_em": max(float(normalise(a) in normalise(prediction)) for a in answers)}


class Transformers:
    def __init__(self, args):
        import torch
        import transformers

        transformers.utils.logging.set_verbosity_error()
        if args.threads:
            torch.set_num_threads(args.threads)
        self.torch, self.args = torch, args
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(args.model)
        self.model = transformers.AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).to(args.device).eval()

    def ids(self, text):
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def text(self, ids):
        return self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def answers(self, prompts):
        """Greedy answers as token ids, without the end token. Padded on the left."""
        torch, end = self.torch, self.model.generation_config.eos_token_id
        found = []
        for begin in range(0, len(prompts), self.args.batch):
            batch = prompts[begin:begin + self.args.batch]
            longest = max(map(len, batch))
            ids = torch.tensor([[end] * (longest - len(p)) + p for p in batch], device=self.args.device)
            mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in batch], device=self.args.device)
            with torch.inference_mode():
                out = self.model.generate(ids, attention_mask=mask, do_sample=False, max_new_tokens=self.args.tokens, pad_token_id=end)
            for row in out[:, longest:].tolist():
                found.append(row[:row.index(end)] if end in row else row)
            print(f"\rtransformers: {len(found)} of {len(prompts)}", end="", file=sys.stderr)
        print(file=sys.stderr)
        return found

    def parting(self, prompt, answer, other):
        """Where the text `other` leaves this answer: the logit of the token taken, its lead over the best that goes on as `other`."""
        torch, end = self.torch, self.model.generation_config.eos_token_id
        taken = answer + [end]
        kept = 0
        while kept < len(answer) and other.startswith(self.text(answer[:kept + 1])):
            kept += 1
        with torch.inference_mode():
            logits = self.model(torch.tensor([prompt + answer[:kept]], device=self.args.device), logits_to_keep=1).logits[0, -1]
        best = logits.topk(20)
        before = self.text(answer[:kept])
        for token, logit in zip(best.indices.tolist(), best.values.tolist()):
            ends = token == end and other == before
            goes_on = token != end and len(self.text(answer[:kept] + [token])) > len(before) and other.startswith(self.text(answer[:kept] + [token]))
            if token != taken[kept] and (ends or goes_on):
                return logits[taken[kept]].item() - logit
        return None


def compare_documents(args, model, documents):
    begin = time.monotonic()
    ours = evaluate(args, documents)
    seconds = {"dsrsq": time.monotonic() - begin}
    stored = read_store(args.folder / f"documents_{documents}.h5", set(ours))
    prompts, other_text, other_ids = {}, 0, 0
    for name, (tokens, question, _) in stored.items():
        # As dsrsq-eval puts it together: prefix, the stored tokens, the question's turn.
        document = model.tokenizer.decode(tokens, clean_up_tokenization_spaces=False)
        text = template_text(model.tokenizer, document, question)
        tail = TAIL.replace("{question}", question)
        other_text += text != PREFIX + document + tail
        prompts[name] = model.ids(text)
        other_ids += prompts[name] != model.ids(PREFIX) + tokens + model.ids(tail)
    begin = time.monotonic()
    names = list(ours)
    answers = dict(zip(names, model.answers([prompts[name] for name in names])))
    seconds["transformers"] = time.monotonic() - begin
    rows = []
    for name, own in ours.items():
        _, question, references = stored[name]
        theirs = model.text(answers[name])
        row = {"id": name, "question": question, "answers": references, "dsrsq": own["prediction"], "transformers": theirs,
               "dsrsq_scores": {metric: own[metric] for metric in METRICS}, "transformers_scores": scores(theirs, references)}
        if own["prediction"] != theirs:
            row["logit_lead"] = model.parting(prompts[name], answers[name], own["prediction"])
        rows.append(row)
    return {"documents": documents, "rows": rows, "other_text": other_text, "other_ids": other_ids, "seconds": seconds,
            "tokens": sum(map(len, prompts.values())) / len(prompts)}


def differs(row):
    return any(abs(row["dsrsq_scores"][m] - row["transformers_scores"][m]) > 1e-6 for m in METRICS)


def report(args, found):
    table = ["| documents | questions | prompt tokens | " + " | ".join(f"{label}: DSRSQ, transformers" for label in METRICS.values())
             + " | other answers | other scores | prompts tokenised otherwise |", "|---|" + "---|" * (len(METRICS) + 5)]
    records, notes, failed = [], [], False
    for one in found:
        rows = one["rows"]
        other = [row for row in rows if row["dsrsq"] != row["transformers"]]
        other_scores = sum(map(differs, rows))
        failed = failed or other_scores > args.most or one["other_text"] > 0
        cells = []
        for metric in METRICS:
            means = {system: sum(row[f"{system}_scores"][metric] for row in rows) / len(rows) for system in ("dsrsq", "transformers")}
            cells.append(f"{means['dsrsq']:.4f}, {means['transformers']:.4f}")
            for system, mean in means.items():
                records.append({"case": f"{one['documents']} documents", "method": system, "metric": metric, "unit": "share", "value": mean,
                                "shape": {"questions": len(rows), "documents": one["documents"], "prompt_tokens": one["tokens"]}})
        for metric, value, unit in [("other_answers", len(other), "questions"), ("other_scores", other_scores, "questions"),
                                    ("prompts_tokenised_otherwise", one["other_ids"], "questions")]:
            records.append({"case": f"{one['documents']} documents", "method": "dsrsq against transformers", "metric": metric, "unit": unit,
                            "value": value, "shape": {"questions": len(rows), "documents": one["documents"]}})
        table.append(f"| {one['documents']} | {len(rows)} | {one['tokens']:.0f} | {' | '.join(cells)} | {len(other)} | {other_scores} | {one['other_ids']} |")
        if one["other_text"]:
            notes.append(f"- {one['documents']} documents: {one['other_text']} prompts are not what the chat template makes")
        for row in other:
            lead = row["logit_lead"]
            lead = "no token among its 20 best goes on so" if lead is None else f"transformers' token leads by {lead:.2e}"
            notes.append(f"- {one['documents']} documents, {row['question']}: {row['dsrsq']!r} and {row['transformers']!r}; {lead}")
    text = "\n".join(table + ([""] + notes if notes else [])) + "\n"
    (args.folder / "table.md").write_text(text, encoding="utf-8")
    command = "scripts/reproduce/transformers_parity.sh " + " ".join(sys.argv[1:])
    provenance.write_results(args.folder / "results.json", command, args.device, records)
    print(text)
    return failed


def compare(args):
    model = Transformers(args)
    found = []
    for documents in args.documents:
        found.append(compare_documents(args, model, documents))
        one = found[-1]
        print(f"{documents} documents: dsrsq-eval {one['seconds']['dsrsq']:.0f} s with its cost measurements, transformers "
              f"{one['seconds']['transformers']:.0f} s", flush=True)
        (args.folder / f"answers_{documents}.jsonl").write_text(
            "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in one["rows"]), encoding="utf-8")
    if report(args, found):
        sys.exit(f"more than {args.most} questions of a data set score otherwise, or a prompt differs")


if __name__ == "__main__":
    arguments_ = arguments()
    if arguments_.step == "prepare":
        if not arguments_.data:
            sys.exit("prepare needs --data FILE")
        prepare(arguments_)
    else:
        compare(arguments_)
