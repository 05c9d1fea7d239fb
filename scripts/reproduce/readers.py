"""What readers.sh compares with: the same files read in Python, by the documents of their formats and without any code of the project.

    .venv/bin/python scripts/reproduce/readers.py --make DATA_FOLDER OUT     writes the made files
    .venv/bin/python scripts/reproduce/readers.py --check OUT                prints OUT/table.md, exit code 1 where a row differs

Each data set is opened with h5py and its tokens are turned into bytes by the vocabulary alone. Checked: ids and questions in the source's
order, documents, answers, every answer span against an answer of the source, counts of unanswerable questions and of drifted offsets; for assembled
contexts also number of passages, place of the gold one, that no other holds an answer, and that no question or passage is in two splits.
"""

import argparse
import collections
import csv
import gzip
import json
import os
import pathlib
import random
import re
import string
import sys

import h5py
import readers_suites

# From reference/data.md, section 3; other counts are Python's alone.
DOCUMENTED = {"nq_simplified": 323, "lost_in_the_middle": 2126, "qed": 1076, "nq_open": 2875, "covid_qa": 927}
DOCUMENTED |= {f"lost_in_the_middle_{n}_{gold}": 2126 for n in (1, 10, 20, 30) for gold in ("first", "middle", "last")}


def read_lines(path):
    with open(path, "rb") as raw:
        opened = gzip.open(raw) if raw.read(2) == b"\x1f\x8b" else raw
        raw.seek(0)
        return [json.loads(line) for line in opened if line.strip()]


def read_list(path):
    return json.load(open(path))


# What is trimmed; str.strip alone takes no-break spaces as well.
BLANK = " \t\r\n"

# Each source gives these in the order of the file. `document`: the whole text, None where its order is drawn; `gold`: the passage that
# --documents places.
Record = collections.namedtuple("Record", "id question answers relocated document gold", defaults=[None])


def nq(path):
    for r in read_lines(path):
        tokens = r["document_text"].split(" ") if "document_text" in r else [t["token"].replace(" ", "_") for t in r["document_tokens"]]
        text = lambda s: " ".join(tokens[s["start_token"]:s["end_token"]])
        short = [text(s) for a in r["annotations"] for s in a["short_answers"]]
        short += [a["yes_no_answer"].lower() for a in r["annotations"] if a["yes_no_answer"] != "NONE"]
        long = [text(a["long_answer"]) for a in r["annotations"] if a["long_answer"]["start_token"] >= 0]
        yield Record(str(r["example_id"]), r["question_text"], short or long, 0, " ".join(tokens))


def nq_open(path):
    for number, r in enumerate(read_lines(path), 1):
        yield Record(str(number), r["question"], r["answer"], 0, "\n")


def lost_in_the_middle(path):
    for number, r in enumerate(read_lines(path), 1):
        gold = next(c for c in r["ctxs"] if c["isgold"])
        titled = lambda c: c["title"] + "\n" + c["text"]
        yield Record(str(number), r["question"], r["answers"], 0, "\n\n".join(map(titled, r["ctxs"])), titled(gold))


def qed(path):
    for r in read_lines(path):
        spans = [s for annotator in r["original_nq_answers"] for s in annotator]
        moved = sum(r["paragraph_text"][s["start"]:s["end"]] != s["string"] for s in spans)
        gold = r["title_text"] + "\n" + r["paragraph_text"]
        yield Record(str(r["example_id"]), r["question_text"], [s["string"] for s in spans], moved, r["paragraph_text"], gold)


def squad(path):
    for paragraph in (p for article in read_list(path)["data"] for p in article["paragraphs"]):
        for q in paragraph["qas"]:
            context = paragraph["context"]
            moved = sum(context[a["answer_start"]:][:len(a["text"])] != a["text"] and a["text"] in context for a in q["answers"])
            yield Record(str(q["id"]), q["question"], [a["text"] for a in q["answers"]], moved, context)


def timeqa(path):
    if path.endswith(".json"):
        for r in read_list(path):
            for i, (question, answers) in enumerate(r["questions"]):
                kept = [a for a in answers if a["answer"]]
                moved = sum(r["paras"][a["para"]][a["from"]:a["end"]] != a["answer"] for a in kept)
                yield Record(f"{r['index']}#{i}", question, [a["answer"] for a in kept], moved, " ".join(r["paras"]))
        return
    for r in read_lines(path):
        moved = sum(t != "" and r["context"][b:e] != t for t, b, e in zip(r["targets"], r["from"], r["end"]))
        yield Record(r["idx"], r["question"], [t for t in r["targets"] if t], moved, r["context"])


def hotpotqa(path):
    for r in read_list(path):
        yield Record(r["_id"], r["question"], [r["answer"]], 0, None)


def cnn_dailymail(path, companion=None):
    lines = lambda text: "\n".join(dict.fromkeys(line.strip(BLANK) for line in text.split("\n") if line.strip(BLANK)))
    if pathlib.Path(path).is_dir():
        articles = []
        for story in sorted(pathlib.Path(path).glob("*.story")):
            text, *highlights = re.split(r"^@highlight$", story.read_text(), flags=re.M)
            articles.append((story.stem, lines(text).replace("\n", "\n\n"), lines("\n".join(highlights))))
    else:
        csv.field_size_limit(1 << 30)
        articles = [(r["id"], r["article"], lines(r["highlights"])) for r in csv.DictReader(open(path, newline="", encoding="utf-8"))]
    days = {r["id"]: r["published"] for r in csv.DictReader(open(companion), delimiter="\t")} if companion else {}
    articles = [a for a in articles if a[0] in days or not companion]
    for id, text, highlights in sorted(articles, key=lambda a: (days[a[0]], a[0])) if companion else articles:
        document = f"[{days[id]}]\n{text}" if companion else text
        yield Record(id, "What are the highlights of this article?", [highlights], 0, document)
        if companion:
            yield Record(id + "#published", "When was this article published?", [days[id]], 0, document)


def pubmedqa(path):
    for id, r in read_list(path).items():
        yield Record(id, r["QUESTION"], [r["final_decision"]], 0, "\n\n".join(map("\n".join, zip(r["LABELS"], r["CONTEXTS"]))))


def scitldr(path):
    for r in read_lines(path):
        document = " ".join(s.strip(BLANK) for s in r["source"] if s.strip(BLANK))
        yield Record(r["paper_id"], "What does this paper say, in one sentence?", [t.strip(BLANK) for t in r["target"]], 0, document)


def s2orc(path):
    """The samples: parses of all generations, one a file, and rows of metadata."""
    if path.endswith(".jsonl"):
        for r in read_lines(path):
            if r["abstract"]:
                abstract = "\n".join(line.strip(BLANK) for line in r["abstract"].split(":::") if line.strip(BLANK))
                yield Record(r["paper_id"], "What is the title of this paper?", [r["title"]], 0, abstract)
        return
    r = read_list(path)
    parse = r.get("grobid_parse") or r.get("pdf_parse") or r
    body, section = [], ""
    for p in parse["body_text"]:
        if p["text"].strip(BLANK):
            heading, section = "" if (p["section"] or "") == section else p["section"] or "", p["section"] or ""
            body.append((heading.strip(BLANK) + "\n" if heading else "") + p["text"].strip(BLANK))
    abstract = "\n".join(p["text"].strip(BLANK) for p in parse["abstract"] if p["text"].strip(BLANK))
    if abstract:
        yield Record(r["paper_id"], "What is the abstract of this paper?", [abstract], 0, "\n\n".join(body))


def text(path):
    """A file is a document, or each article under " = Title = " that stands between blank lines."""
    lines = open(path, encoding="utf-8").read().split("\n")
    def blank(i):
        return not 0 <= i < len(lines) or not lines[i].strip()
    starts = [i for i, line in enumerate(lines) if re.fullmatch(r"\s*= [^=](.*[^=])? =\s*", line) and blank(i - 1) and blank(i + 1)]
    for begin, end in zip([0, *starts], [*starts, len(lines)]):
        document = "\n".join(lines[begin:end])
        if document.strip():
            yield Record(f"{os.path.basename(path)}:{begin + 1}", "", [], 0, document if end == len(lines) else document + "\n")


SOURCES = {"text": text, "nq_simplified": nq, "natural_questions": nq, "nq_open": nq_open, "lost_in_the_middle": lost_in_the_middle, "qed": qed,
           "squad": squad, "timeqa": timeqa, "hotpotqa": hotpotqa, "cnn_dailymail": cnn_dailymail, "pubmedqa": pubmedqa,
           "scitldr": scitldr, "s2orc": s2orc}


def suite_source(read):
    def records(path):
        for id, question, answers, document in read(path, read_lines):
            yield Record(id, question, [answers] if isinstance(answers, str) else answers, 0, document)
    return records


SOURCES |= {name: suite_source(read) for name, read in readers_suites.SOURCES.items()}


def byte_of_character():
    """GPT-2's printable stand-ins of bytes."""
    kept = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    table = {chr(b): b for b in kept}
    table.update({chr(256 + i): b for i, b in enumerate(b for b in range(256) if b not in kept)})
    return table


class Store:
    def __init__(self, path, tokenizer):
        self.file = h5py.File(path)
        model = json.load(open(tokenizer))
        table = byte_of_character()
        self.bytes = {i: bytes(table[c] for c in token) for token, i in model["model"]["vocab"].items() if all(c in table for c in token)}
        self.documents = self.file["records/document"][:]
        self.splits = self.file["records/split"][:]
        self.offsets = self.file["documents/offsets"][:]
        self.tokens = self.file["documents/tokens"][:]
        self.spans = self.file["records/answer_spans"][:]
        self.spans_of = self.file["records/answer_spans_of"][:]
        self.answers_of = self.file["records/answers_of"][:]
        self.columns = {n: (self.file[f"records/{n}_bytes"][:].tobytes(), self.file[f"records/{n}_offsets"][:]) for n in ("id", "question", "answers")}

    def text(self, column, row):
        data, offsets = self.columns[column]
        return data[offsets[row]:offsets[row + 1]].decode()

    def answers(self, record):
        return [self.text("answers", i) for i in range(self.answers_of[record], self.answers_of[record + 1])]

    def pieces(self, record):
        document = self.documents[record]
        return [self.bytes[i] for i in self.tokens[self.offsets[document]:self.offsets[document + 1]]]


def span_shows(pieces, begin, end, answers):
    """An answer lies in the bytes of the tokens, and needs the first and the last of them."""
    text, first, last = b"".join(pieces[begin:end]), len(pieces[begin]), len(pieces[end - 1])
    for answer in answers:
        at = text.find(answer.encode())
        while at >= 0:
            if at < first and at + len(answer.encode()) > len(text) - last:
                return True
            at = text.find(answer.encode(), at + 1)
    return False


def normalise(text):
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


class Check:
    """Compares one data set with its sources; `faults` says what differs."""

    def __init__(self, name, out):
        lines = (out / f"{name}.command.txt").read_text().split("\n")
        self.name, self.formats, self.options = name, lines[0].split(","), lines[1].split()
        self.inputs = [line for line in lines[2:] if line]
        self.printed = dict(re.findall(r"^(\S.*?)\s{2,}(.*)$", (out / f"{name}.prepare.txt").read_text(), re.M))
        self.printed["relocated answers"] = re.search(r"^relocated answers (\d+)$", (out / f"{name}.prepare.txt").read_text(), re.M).group(1)
        self.log = (out / f"{name}.log.txt").read_text()
        self.valid = "valid" in (out / f"{name}.validate.txt").read_text()
        self.store = Store(out / f"{name}.h5", out / "tokenizer.json")
        formats = self.formats * len(self.inputs) if len(self.formats) == 1 else self.formats
        companion = [self.option("--companion")] if self.option("--companion") else []
        self.records = [r for format, path in zip(formats, self.inputs) for r in SOURCES[format](path, *companion)]
        self.faults, self.spans, self.exact = [], 0, 0

    def require(self, holds, fault):
        if not holds and len(self.faults) < 5:
            self.faults.append(fault)

    def option(self, name):
        return self.options[self.options.index(name) + 1] if name in self.options else None

    def run(self):
        expected = DOCUMENTED.get(self.name, len(self.records))
        self.require(len(self.records) == expected, f"{expected} documented, Python reads {len(self.records)}")
        self.require(len(self.store.documents) == len(self.records), f"{len(self.store.documents)} records for {len(self.records)}")
        self.require(int(self.printed["unanswerable"]) == self.unanswerable(), f"unanswerable should be {self.unanswerable()}")
        self.require(int(self.printed["relocated answers"]) == self.relocated(), f"relocated should be {self.relocated()}")
        self.require(self.valid, "validate fails")
        passages, questions = collections.defaultdict(set), collections.defaultdict(set)
        for i, record in enumerate(self.records[:len(self.store.documents)]):
            self.require(self.store.text("id", i) == record.id, f"record {i}: id {self.store.text('id', i)} for {record.id}")
            self.require(self.store.text("question", i) == record.question, f"record {i}: another question")
            self.require(self.store.answers(i) == list(dict.fromkeys(record.answers)), f"record {i}: other answers")
            pieces = self.store.pieces(i)
            for begin, end in self.store.spans[self.store.spans_of[i]:self.store.spans_of[i + 1]]:
                self.spans += 1
                self.exact += span_shows(pieces, begin, end, record.answers)
            questions[" ".join(record.question.lower().split()).rstrip(" ?")].add(self.store.splits[i])
            document = b"".join(pieces).decode()
            if self.option("--documents"):
                for passage in self.assembled(i, record, document):
                    passages[passage].add(self.store.splits[i])
            else:
                self.require(record.document in (None, document), f"record {i}: another document")
        self.require(self.exact == self.spans, f"{self.spans - self.exact} spans beside their text")
        for what, table in (("questions", questions), ("passages", passages)):
            shared = sum(len(splits) > 1 for splits in table.values())
            self.require(shared == 0, f"{shared} {what} in two splits")

    def assembled(self, i, record, document):
        """Its passages. None of these sources holds a blank line, but some passages end with a line feed."""
        count, gold = int(self.option("--documents")), self.option("--gold")
        place = {"first": 0, "middle": (count - 1) // 2, "last": count - 1}[gold]
        passages = [passage.strip("\n") for passage in document.split("\n\n")]
        self.require(len(passages) == count == len(set(passages)), f"record {i}: {len(passages)} passages")
        self.require(passages[min(place, len(passages) - 1)] == record.gold.strip("\n"), f"record {i}: the gold passage is not at {place}")
        answers = [f" {normalise(a)} " for a in record.answers if normalise(a)]
        for j, passage in enumerate(passages):
            held = j != place and any(a in f" {normalise(passage)} " for a in answers)
            self.require(not held, f"record {i}: passage {j} holds an answer")
        return passages

    def unanswerable(self):
        return sum(bool(r.question) and not r.answers for r in self.records)

    def relocated(self):
        return sum(r.relocated for r in self.records)

    def row(self):
        rejects = re.findall(r"bad record, left out: (.*)", self.log)
        # Without the place, which names a folder of this machine.
        reasons = f"{len(rejects)}" + "".join(f"; {re.sub(r'^.*?:[0-9]+( [(].*?[)])?: ', '', r)}" for r in rejects[:1])
        expected = f"{DOCUMENTED[self.name]} (data.md)" if self.name in DOCUMENTED else str(len(self.records))
        return [self.name, str(len(self.store.documents)), expected, self.printed["unanswerable"], self.printed["relocated answers"], reasons,
                f"{self.exact} of {self.spans}", "; ".join(self.faults) or "agrees"]


def check(out):
    header = ["input", "records", "expected", "unanswerable", "relocated", "rejects", "answer spans at their text", "against Python"]
    table = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    names = sorted(p.name.removesuffix(".command.txt") for p in out.glob("*.command.txt"))
    agree = True
    for name in names:
        checked = Check(name, out)
        checked.run()
        agree = agree and not checked.faults
        table.append("| " + " | ".join(checked.row()) + " |")
        print(table[-1], file=sys.stderr, flush=True)
    (out / "table.md").write_text("\n".join(table) + "\n")
    print("\n".join(table))
    return agree and bool(names)


def make_natural_questions(data, out):
    """The simplified records in the original schema: html, tokens with byte offsets, and both kinds of offsets in the spans."""
    with open(out / "natural_questions.jsonl", "w") as file:
        for r in read_lines(data / "nq_simplified_derived/simplified-nq-from-qed-40p.jsonl.gz"):
            tokens, html = [], bytearray(b"<html>")
            for token in r.pop("document_text").split(" "):
                begin = len(html)
                html += token.encode()
                tokens.append({"token": token, "start_byte": begin, "end_byte": len(html), "html_token": token[:1] == "<"})
                html += b" "
            spans = [s for a in r["annotations"] for s in [a["long_answer"], *a["short_answers"]]]
            for s in spans:
                found = s["start_token"] >= 0
                s["start_byte"] = tokens[s["start_token"]]["start_byte"] if found else -1
                s["end_byte"] = tokens[s["end_token"] - 1]["end_byte"] if found else -1
            r.update(document_html=html.decode(), document_tokens=tokens, document_title="")
            file.write(json.dumps(r, ensure_ascii=False) + "\n")
    toy = re.search(r"```json\n(.*?)```", (data / "natural_questions/toy_example.md").read_text(), re.S).group(1)
    toy = toy.replace("\u00a0", " ")
    toy = re.sub(r"\bTrue\b", "true", re.sub(r"\bFalse\b", "false", toy)).replace('"Token"', '"token"')
    record = json.loads("{" + toy.strip().removesuffix(",") + "}")
    (out / "nq_toy.jsonl").write_text(json.dumps(record) + "\n")


def make_lost_in_the_middle(data, out, documents=20, place=9):
    """The oracle file in the form of the N-document files: gold at a place among passages of other questions without an answer."""
    records = read_lines(data / "lost_in_the_middle/nq-open-oracle.jsonl.gz")
    draw = random.Random(0)
    with open(out / f"lost_in_the_middle_{documents}.jsonl", "w") as file:
        for r in records:
            others = []
            while len(others) < documents - 1:
                context = dict(draw.choice(records)["ctxs"][0], isgold=False, hasanswer=False, id="0", score="1.0")
                if context["text"] != r["ctxs"][0]["text"] and not any(a in context["text"] for a in r["answers"]):
                    others.append(context)
            r["ctxs"] = others[:place] + r["ctxs"] + others[place:]
            file.write(json.dumps(r) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--make", nargs=2, metavar=("DATA", "OUT"))
    parser.add_argument("--check", metavar="OUT")
    args = parser.parse_args()
    if args.make:
        data, out = map(pathlib.Path, args.make)
        make_natural_questions(data, out)
        make_lost_in_the_middle(data, out)
    if args.check and not check(pathlib.Path(args.check)):
        sys.exit("readers: a row differs")


if __name__ == "__main__":
    main()
