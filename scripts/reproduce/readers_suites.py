"""What readers.py compares with, for code, dated entries and the suites: by the documents of their formats and the rules of
include/dsrsq/data/readers.h, without any code of the project. Docstrings are those of Python's own parser."""

import ast
import collections
import html.parser
import re


def stable_hash(text):
    """FNV-1a of 64 bits and SplitMix64's finaliser."""
    value = 0xCBF29CE484222325
    for byte in text.encode():
        value = (value ^ byte) * 0x100000001B3 % 2**64
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    value = (value ^ value >> 27) * 0x94D049BB133111EB % 2**64
    return value ^ value >> 31


def next_line(repository, path, code):
    lines = code.split("\n")
    candidates = [i for i in range(10, len(lines)) if re.search("[a-zA-Z]", lines[i])]
    if candidates:
        i = candidates[stable_hash(f"{repository}/{path}") % len(candidates)]
        yield f"{repository}/{path}#next_line", f"What is the next line of {path}?", lines[i].rstrip(" \t\r\f\v"), "\n".join(lines[:i]) + "\n"


def docstring_statement(node):
    first = node.body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        return first
    return None


def docstrings(repository, path, code):
    if not path.endswith(".py"):
        return
    try:
        tree = ast.parse(code)
    except SyntaxError:
        return
    functions = [n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]
    functions.sort(key=lambda n: n.lineno)
    names = collections.Counter(n.name for n in functions)
    lines, removed = code.split("\n"), set()
    for statement in filter(None, map(docstring_statement, functions)):
        removed |= set(range(statement.lineno - 1, statement.end_lineno))
    document = "\n".join(line for i, line in enumerate(lines) if i not in removed)
    for n in functions:
        statement = docstring_statement(n)
        source = statement and ast.get_source_segment(code, statement)
        inner = source and re.fullmatch(r"""[rRuU]?('''|\"""|'|")(.*)\1""", source, re.S).group(2)
        first = next((line.strip() for line in (inner or "").split("\n") if line.strip()), "")
        if first and names[n.name] == 1 and first not in document:
            yield f"{repository}/{path}#docstring:{n.name}", f"What does the docstring of {n.name} say in its first line?", first, document


MODIFIERS = "pub|export|default|public|private|protected|internal|static|unsafe|async|abstract|final|sealed|open|data|const"
TYPE = re.compile(rf"(?:(?:{MODIFIERS})\b(?:\([^)]*\))?\s*)*(?:class|struct|enum|union|interface|trait)\b\s*((?:[\w]+\s*)+)")
FUNCTION = re.compile(rf"(?:(?:{MODIFIERS})\b(?:\([^)]*\))?\s*)*(?:def|fn|func|function)\b\s*(\w+)")
EXTENSIONS = set("py c cc cpp cxx h hh hpp rs go js ts jsx tsx java kt swift cs scala php rb".split())


def definitions_of(path, code):
    if path.rpartition(".")[2] not in EXTENSIONS or "." not in path:
        return
    for line in code.split("\n"):
        if line.rstrip().endswith(";"):
            continue
        if found := FUNCTION.match(line):
            yield found.group(1)
        elif found := TYPE.match(line):
            words = found.group(1).split()
            after = [i for i, w in enumerate(words) if i > 0 and w in ("final", "extends", "implements", "where", "for", "with")]
            yield words[(after or [len(words)])[0] - 1]


def definitions(repository, group):
    """`group`: (path, code), consecutive."""
    if len(group) < 2:
        return
    found = [list(definitions_of(*file)) for file in group]
    names = collections.Counter(n for of_file in found for n in of_file)
    document = "\n\n".join(f"{path}\n{code}" for path, code in group)
    for i, (path, code) in enumerate(group):
        used = lambda n: any(re.search(rf"(?<!\w){re.escape(n)}(?!\w)", other) for j, (_, other) in enumerate(group) if j != i)
        candidates = [n for n in found[i] if len(n) >= 3 and names[n] == 1 and used(n)]
        if candidates:
            name = min(candidates, key=lambda n: stable_hash(f"{repository}/{path}#{n}"))
            yield f"{repository}/{path}#definition:{name}", f"In which file is {name} defined?", path, document


def github_code(path, lines):
    group, size = [], 0
    for r in lines(path):
        repository, name, code = r["repo_name"], r["path"], r["code"]
        if group and (len(group) == 8 or size + len(code.encode()) > 96 * 1024):
            yield from definitions(repository, group)
            group, size = [], 0
        yield from next_line(repository, name, code)
        yield from docstrings(repository, name, code)
        group.append((name, code))
        size += len(code.encode())
    yield from definitions(repository, group)


def dated_entries(path, lines):
    rows = list(lines(path))
    for begin in range(0, len(rows), 32):
        window = rows[begin:begin + 32]
        package = "package" in rows[0]
        heading = lambda r: f"{r['date']} {r['package']} {r['version']}" if package else f"{r['date']} {r['subject']}"
        document = "\n\n".join(f"{heading(r)}\n{r['text'] if package else r['body']}" for r in window)
        topics = collections.defaultdict(list)
        for r in window:
            topics[r["package"] if package else r["date"][:10]].append(r)
        for topic in sorted(topics, key=str.encode):
            last = topics[topic][-1]
            if len(topics[topic]) == 1:
                continue
            if package:
                yield f"{topic}_{last['version']}", f"What is the latest version of {topic}?", last["version"], document
            else:
                yield last["commit"], f"What is the subject of the last commit of {topic}?", last["subject"], document


class Text(html.parser.HTMLParser):
    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.parts, self.silent = [], 0

    def handle_starttag(self, tag, attributes):
        self.silent += tag in ("head", "script", "style")
        self.parts.append("\x01" if tag == "br" else "" if tag in ("i", "b", "em", "strong", "span", "a", "u", "sup", "sub") else "\x02")

    def handle_endtag(self, tag):
        self.silent -= tag in ("head", "script", "style")
        self.parts.append("" if tag in ("i", "b", "em", "strong", "span", "a", "u", "sup", "sub", "br") else "\x02")

    def handle_data(self, data):
        self.parts.append("" if self.silent else data)


def html_text(source):
    parser = Text()
    parser.feed(source)
    text = re.sub(r"\s+", " ", "".join(parser.parts))
    breaks = lambda found: "\n\n" if "\x02" in found.group() else "\n" if "\x01" in found.group() else " "
    return re.sub("[ \x01\x02]+", breaks, text).strip()


def quality(path, lines):
    for r in lines(path):
        document = html_text("".join(r["article"]))
        for k in range(1, 100):
            if f"question{k}" in r:
                options = [r[f"question{k}option{j}"].strip() for j in range(1, 5)]
                question = r[f"question{k}"].strip() + "".join(f"\n({letter}) {option}" for letter, option in zip("ABCD", options))
                yield f"{r['unique_id']}_{k}", question, options[r[f"question{k}_gold_label"] - 1], document


def ruler(path, lines):
    for r in lines(path):
        document, _, question = r["input"].rpartition("\n")
        yield str(r["index"]), question, r["outputs"], document


def kv_retrieval(path, lines):
    for number, r in enumerate(lines(path), 1):
        pairs = ",\n ".join(f'"{k}": "{v}"' for k, v in r["ordered_kv_records"])
        yield str(number), f"What is the value of the key \"{r['key']}\"?", r["value"], "{" + pairs + "}"


def tydiqa(path, lines):
    for r in lines(path):
        data = r["document_plaintext"].encode()
        text = lambda s: data[s["plaintext_start_byte"]:s["plaintext_end_byte"]].decode()
        answers = []
        for a in r["annotations"]:
            answers += [text(a["minimal_answer"])] if a["minimal_answer"]["plaintext_start_byte"] >= 0 else []
            answers += [a["yes_no_answer"].lower()] if a["yes_no_answer"] != "NONE" else []
        indices = [a["passage_answer"]["candidate_index"] for a in r["annotations"]]
        answers = answers or [text(r["passage_answer_candidates"][i]) for i in indices if i >= 0]
        yield str(r["example_id"]), r["question_text"], answers, r["document_plaintext"]


FIXED = {"gov_report": "Write a one-page summary of the report.", "multi_news": "Write a one-page summary of all the news.",
         "vcsum": "总结会议的内容。", "passage_count": "How many different paragraphs are there?", "lcc": "What is the next line of code?"}


def longbench(path, lines):
    for r in lines(path):
        yield r["_id"], r["input"] or FIXED[r["dataset"].removesuffix("_e")], r["answers"], r["context"]


SOURCES = {f.__name__: f for f in (github_code, dated_entries, quality, ruler, kv_retrieval, tydiqa, longbench)}
