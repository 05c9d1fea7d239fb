"""index.html: one file with tables, figures and where the numbers come from; it loads nothing from elsewhere.

Its links lead to files beside it: figures as PNG and SVG, tables as CSV, trace pages."""

import base64
import csv
import html
import math
import os
import re
from dataclasses import dataclass, field
from urllib.parse import quote, unquote

from report_data import InputError, Record, Results, Run, context_columns, format_value, read_text, trace_pages

QUALITY = [("score", "score"), ("em", "EM"), ("f1", "F1"), ("subspan_em", "subspan EM"), ("rouge_l", "ROUGE-L"), ("bleu", "BLEU"),
           ("evidence_recall", "evidence recall"), ("answer_recall", "answer recall"), ("answer_held", "answer entries held"),
           ("answer_loss", "answer loss, nats a token"), ("em_exact", "EM, answer exact"),
           ("em_latent", "EM, answer in latents only"), ("share_latent", "share in latents only")]
COST = [("tokens_read", "tokens read"), ("tokens_spent", "tokens spent"), ("token_efficiency", "token efficiency"), ("bytes_held", "bytes held"),
        ("prefill_bytes", "most bytes held in prefill"), ("budget_bytes", "budget"), ("peak_memory", "peak memory"),
        ("throughput", "throughput (tokens/s)"), ("latency_p50", "latency p50"), ("latency_p95", "latency p95"), ("flops", "FLOP"),
        ("sparse_share", "sparse queries"), ("density", "density"), ("latent_mass", "latent mass"), ("train_core_seconds", "training, core-seconds")]
ADAPTATION = [("retention", "retention"), ("consistency", "consistency"), ("consistency_right", "consistency, both right"),
              ("adaptation_speed", "adaptation speed"), ("half_life", "half-life of adoption (tokens)"),
              ("memory_half_life", "half-life of memory (tokens)"), ("stale_rate", "stale answers"), ("never_shown", "right, never stated")]
COMPARED = [("score", "score"), ("em", "EM"), ("f1", "F1"), ("subspan_em", "subspan EM"), ("rouge_l", "ROUGE-L"), ("bleu", "BLEU"),
            ("answer_loss", "answer loss, nats a token")]

CSS = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 1180px; margin: 0 auto; padding: 1.2em;
  overflow-wrap: break-word; }
h1 { font-size: 1.7em; margin: .2em 0; }
h2 { font-size: 1.35em; margin: 2.2em 0 .6em; border-bottom: 2px solid #ccc; padding-bottom: .2em; }
h3 { font-size: 1.1em; margin: 1.8em 0 .5em; }
a { color: #0b5a8f; }
code { font-size: .88em; overflow-wrap: anywhere; }
nav { background: #f5f7f9; border: 1px solid #e0e4e8; border-radius: 6px; padding: .6em 1em; margin: 1.2em 0; }
nav ul { margin: 0; padding: 0; list-style: none; }
nav li { font-weight: 600; margin: .3em 0; }
nav p { font-weight: 400; font-size: .88em; margin: 0; line-height: 1.7; }
.note, figcaption { color: #444; font-size: .92em; }
.files { white-space: nowrap; }
.scroll { overflow-x: auto; border: 1px solid #e0e4e8; border-radius: 4px; }
table { border-collapse: separate; border-spacing: 0; font-size: .88em; font-variant-numeric: tabular-nums; }
th, td { padding: .35em .7em; border-bottom: 1px solid #e3e3e3; text-align: right; vertical-align: top; }
td { white-space: nowrap; }
td.na { color: #777; font-style: italic; }
td small { display: block; font-size: .88em; color: #555; }
th { border-bottom: 2px solid #888; vertical-align: bottom; min-width: 5em; }
.rows th:first-child, .rows td:first-child { text-align: left; position: sticky; left: 0; background: #fff; }
.rows tr:nth-child(even) td { background: #f7f9fb; }
.facts { width: 100%; table-layout: fixed; margin: .6em 0 1.4em; }
.facts td { text-align: left; white-space: normal; overflow-wrap: anywhere; }
.facts td:first-child { color: #555; width: 6.5em; }
figure { margin: 1em 0; }
figure img { display: block; max-width: 100%; height: auto; }
@media screen and (min-width: 601px) { wbr { display: none; } }
@media screen and (max-width: 600px) {
  body { padding: 1em .9em; }
  h1 { font-size: 1.45em; }
  th, td { padding: .35em .5em; }
  .rows td:first-child { min-width: 8em; white-space: normal; }
  figure img { width: 100%; }
}
@media print {
  @page { size: A4; margin: 14mm; }
  body { font-size: 10pt; max-width: none; padding: 0; }
  a { color: inherit; }
  nav { background: none; }
  .screen { display: none; }
  .scroll { overflow: visible; border: 0; }
  table { font-size: 6.4pt; }
  th, td { padding: .2em .25em; }
  td { white-space: normal; }
  td small { font-size: 1em; }
  .rows { width: 100%; }
  .rows th { min-width: 0; }
  .rows th:first-child, .rows td:first-child { position: static; white-space: normal; }
  .facts { font-size: 8pt; }
  thead { display: table-header-group; }
  tr, figure, .facts { break-inside: avoid; }
  h1, h2, h3, p.note { break-after: avoid; }
  figure img { max-height: 235mm; width: auto; margin: 0 auto; }
}
"""


@dataclass
class Figure:
    file: str  # beside the page, without its ending
    title: str
    caption: str
    wide: bytes  # SVG
    narrow: bytes
    data: str = ""  # the CSV of its numbers, where no table has them


@dataclass
class Section:
    results: Results
    prefix: str  # of its files
    figures: list[Figure] = field(default_factory=list)

    @property
    def title(self) -> str:
        return self.results.name or "Results"


@dataclass
class Page:
    title: str
    command: str
    sections: list[Section] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    training: list[Figure] = field(default_factory=list)


def slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "section"


# ---- tables ----

Cell = tuple[str, str]  # value, interval


def cell_html(cell: Cell) -> str:
    value, interval = (html.escape(text).replace("\n", "<br>") for text in cell)
    value = value.replace(" ", "&nbsp;")
    return f"<td{' class=na' if value == 'n/a' else ''}>{value}{f' <small>{interval}</small>' if interval else ''}</td>"


def name_html(name: str) -> str:
    """A row's name breaks behind punctuation, where a line is too short for it."""
    return "<td>" + re.sub(r"([_:@/-])", r"\1<wbr>", html.escape(name)) + "</td>"


def html_table(header: list[str], rows: list[list[Cell]], label: str) -> str:
    head = "".join(f"<th>{html.escape(title)}</th>" for title in header)
    body = "".join(f"<tr>{name_html(row[0][0])}{''.join(map(cell_html, row[1:]))}</tr>\n" for row in rows)
    return (f"<div class=scroll tabindex=0 role=region aria-label='{html.escape(label, quote=True)}'><table class=rows>\n"
            f"<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>\n")


def value_cell(record: Record | None) -> Cell:
    text, bracket, interval = format_value(record, True).partition(" [")
    return text, f"[{interval}" if bracket else ""


def difference_cell(record: Record | None) -> Cell:
    difference = record.difference if record else None
    if difference is None:
        return "n/a", ""
    p = "" if math.isnan(record.p) else "\np < 0.001" if record.p < 0.001 else f"\np {record.p:.3f}"
    return f"{difference.value:+.3f}", f"[{difference.low:.3f}, {difference.high:.3f}]{p}"


def write_csv(path: str, rows: list[list[object]]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def plain(value: float | None) -> object:
    return "" if value is None or not math.isfinite(value) else value


def table(folder: str, file: str, title: str, note: str, results: Results, rows: list[str], columns: list[tuple[str, str]],
          compare: bool) -> str:
    """The table, and its CSV: values in the unit of the record, without rounding, n/a an empty cell."""
    def record_of(row: str, metric: str) -> Record | None:
        record = results.get(row, metric)
        return (record.difference if compare else record) if record else None
    header, lines = ["method"], [[row] for row in rows]
    for metric, _ in columns:
        found = [record_of(row, metric) for row in rows]
        unit = next(record.unit for record in found if record)
        limits = any(record and math.isfinite(record.low) for record in found)
        name = f"{metric} less baseline" if compare else metric
        header += [f"{name} ({unit})"] + ([f"{name} low", f"{name} high"] if limits else []) + ([f"{name} p"] if compare else [])
        for row, line, record in zip(rows, lines, found):
            line.append(plain(record.value if record else None))
            if limits:
                line += [plain(record.low if record else None), plain(record.high if record else None)]
            if compare:
                line.append(plain(results.get(row, metric).p if record else None))
    write_csv(os.path.join(folder, file + ".csv"), [header, *lines])
    write = difference_cell if compare else value_cell
    cells = [[(row, "")] + [write(results.get(row, metric)) for metric, _ in columns] for row in rows]
    return (f"<h3 id='{file}'>{html.escape(title)}</h3>\n{f'<p class=note>{html.escape(note)}</p>' if note else ''}\n"
            f"{html_table(['method'] + [title for _, title in columns], cells, title)}<p class='note screen'>{link(file + '.csv', 'CSV')}</p>\n")


def needle_table(folder: str, section: Section) -> None:
    """The CSV beside the needle map."""
    if not section.results.needles:
        return
    file = section.prefix + "needle_map.csv"
    for figure in section.figures:
        if figure.file + ".csv" == file:
            figure.data = file
    header = ["task", "method", "context_tokens", "depth", "questions", "right (share)", "low", "high"]
    rows = [[n.case, n.row, n.context_tokens, n.depth, n.questions, plain(n.value), plain(n.low), plain(n.high)]
            for n in section.results.needles]
    write_csv(os.path.join(folder, file), [header, *rows])


def suite_rules(results: Results) -> str:
    """How each task of a suite was asked and scored, as its file says."""
    parts = []
    for path, provenance in results.provenance:
        if not (suite := provenance.get("suite")):
            continue
        limit = (f"at most {suite['maximum_prompt']:,} tokens; what goes of a longer context: {suite['truncation']}"
                 if suite["maximum_prompt"] else "never cut")
        parts.append(f"<h4>{html.escape(suite['title'])}</h4>\n<p class=note>{html.escape(suite['source'])}</p>\n"
                     f"<p class=note>Prompts: {html.escape(limit)}.</p>\n")
        for task in suite["tasks"]:
            lines = [("score", f"{task['metric']} of the answer, {task['answer']}; at most {task['maximum_answer']} tokens"),
                     ("chat", "a user's turn, where the model has turns" if task["chat"] else "never a user's turn"),
                     ("prompt", task["prompt"])]
            lines += [("classes", ", ".join(task["classes"]))] if "classes" in task else []
            body = "".join(f"<tr><td>{key}</td><td>{html.escape(text).replace(chr(10), '<br>')}</td></tr>\n" for key, text in lines)
            parts.append(f"<table class=facts><tr><td>task</td><td><b>{html.escape(task['task'])}</b></td></tr>\n{body}</table>\n")
    return "".join(parts)


def tables(folder: str, section: Section) -> list[tuple[str, str, str]]:
    """(id, title, HTML) of each table that there is something to write in."""
    results, made = section.results, []

    def differs(row: str, metric: str) -> bool:
        record = results.get(row, metric)
        return bool(record and record.difference)
    compared_columns = COMPARED + [(metric, f"loss, {heading}") for metric, heading in context_columns(results, "loss")]
    compared = [row for row in results.rows if any(differs(row, metric) for metric, _ in compared_columns)]
    baseline = next((results.get(row, metric).baseline for row in compared for metric, _ in compared_columns if differs(row, metric)), "")
    for name, title, note, rows, columns, compare in (
            ("table-quality", "Answers", "In brackets: 95 % bootstrap intervals.", results.rows, QUALITY, False),
            ("table-context", "Perplexity by context length", "Of the same last tokens of each text; in brackets: 95 % bootstrap intervals over "
             "texts.", results.rows, context_columns(results, "perplexity"), False),
            ("table-context-read", "Context tokens that are read", "Of those that may be: the retriever's choice and its query.", results.rows,
             context_columns(results, "tokens_read"), False),
            ("table-comparison", f"Differences to {baseline}", "Question by question, or text by text: mean of the differences, 95 % paired "
             "bootstrap interval, p of a two-sided sign-flip test, not corrected for several comparisons.", compared, compared_columns, True),
            ("table-adaptation", "Adaptation", "Over a stream of facts that are updated. n/a: a half-life that more than half of all facts outlive while ten are left, "
             "or a retention where the text makes no difference of .2.", results.rows, ADAPTATION, False),
            ("table-cost", "Costs", "", results.rows, COST, False)):
        shown = differs if compare else results.get
        columns = [(metric, heading) for metric, heading in columns if any(shown(row, metric) for row in rows)]
        if columns:
            file = section.prefix + name
            made.append((file, title, table(folder, file, title, note, results, rows, columns, compare)))
    return made


def notes(results: Results) -> str:
    """What dsrsq-eval wrote under its table: the list of parts that were active."""
    files = dict.fromkeys(os.path.join(os.path.dirname(path), "table.md") for path, _ in results.provenance)
    items = [line[2:] for path in files if os.path.isfile(path) for line in read_text(path).splitlines() if line.startswith("- ")]
    return f"<ul class=note>{''.join(f'<li>{html.escape(item)}</li>' for item in items)}</ul>\n" if items else ""


# ---- the other parts ----

def link(target: str, text: str) -> str:
    return f"<a href='{html.escape(quote(target), quote=True)}'>{html.escape(text)}</a>"


def single_file(page: str, folder: str) -> str:
    """The page for whoever has nothing but the page: tables' CSV inside it, no links to images, which stand in it anyway."""
    def inside(match: re.Match) -> str:
        with open(os.path.join(folder, unquote(match[1])), "rb") as file:
            data = base64.b64encode(file.read()).decode("ascii")
        return f"<a download='{match[1]}' href='data:text/csv;base64,{data}'>"
    page = re.sub(r"<a href='[^'#:]+\.(?:png|svg)'>\w+</a> ?", "", page)
    return re.sub(r"<a href='([^'#:]+\.csv)'>", inside, page)


def data_uri(svg: bytes) -> str:
    """In hundredths of a pixel and without line breaks, which halves a report of many figures."""
    text = re.sub(r"(\.\d\d)\d+", r"\1", svg.decode("utf-8"))
    text = re.sub(r"<!--.*?-->", "", text, flags=re.S)
    text = re.sub(r"\s+", " ", re.sub(r">\s+<", "><", text))
    return "data:image/svg+xml;base64," + base64.b64encode(text.encode("utf-8")).decode("ascii")


def figure_html(figure: Figure) -> str:
    """Drawn for a page and for a phone; the browser takes one."""
    data = f" {link(figure.data, 'CSV')}" if figure.data else ""
    return (f"<h3 id='{figure.file}'>{html.escape(figure.title)}</h3>\n<figure><picture><source media='screen and (max-width:600px)' "
            f"srcset='{data_uri(figure.narrow)}'>\n<img alt='{html.escape(figure.title, quote=True)}' src='{data_uri(figure.wide)}'></picture>\n"
            f"<figcaption>{html.escape(figure.caption)} <span class='screen files'>{link(figure.file + '.png', 'PNG')} {link(figure.file + '.svg', 'SVG')}{data}</span>"
            "</figcaption></figure>\n")


def fact_text(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def provenance_table(what: str, path: str, provenance: dict) -> str:
    keys = ["command", "commit", "date", "device", "versions", "seeds"]
    shown = [(what, path)] + [(key, fact_text(provenance[key]) if key in provenance else "n/a") for key in keys]
    body = "".join(f"<tr><td>{key}</td><td><code>{html.escape(value)}</code></td></tr>\n" for key, value in shown)
    return f"<table class=facts id='{source_id(path)}'>{body}</table>\n"


def source_id(path: str) -> str:
    return "from-" + slug(path)


def sources(paths: list[str]) -> str:
    return ", ".join(f"<a href='#{source_id(path)}'>{html.escape(os.path.basename(path))}</a>" for path in paths)


def summary(results: Results) -> str:
    """What was asked, on what, and where that is written."""
    shapes, parts = [record.shape for record in results.values.values()], []
    for key, word in (("questions", "questions"), ("context_tokens", "context tokens on average")):
        numbers = [shape[key] for shape in shapes if key in shape]
        if numbers:
            limits = dict.fromkeys(f"{round(limit):,}" for limit in (min(numbers), max(numbers)))
            parts.append(f"{' to '.join(limits)} {word}")
    parts += dict.fromkeys(str(provenance["device"]) for _, provenance in results.provenance if "device" in provenance)
    return (f"<p>{html.escape('; '.join(parts))}{'. ' if parts else ''}Measured by the command under "
            f"{sources([path for path, _ in results.provenance])}.</p>\n")


def trace_links(folder: str, results: Results) -> str:
    """Links, relative to the report's folder, to the pages of dsrsq-eval --trace."""
    items = []
    for path, pages in trace_pages(results):
        def to(page: str, text: str) -> str:
            return link(os.path.relpath(os.path.join(path, page), folder).replace(os.sep, "/"), text)
        questions = ", ".join(to(page, page.removesuffix(".html")) for page in pages)
        items.append(f"<li>{to('index.html', f'all questions of {path}')}{': ' if questions else ''}{questions}</li>\n")
    return (f"<p>Single questions: the document's text with picked tokens, evidence and answer marked.</p>\n<ul>{''.join(items)}</ul>\n"
            if items else "")


def write_report(folder: str, page: Page) -> str:
    contents, body = [], []

    def part(identity: str, title: str, entries: list[tuple[str, str, str]], lead: str) -> None:
        inner = " · ".join(f"<a href='#{name}'>{html.escape(text)}</a>" for name, text, _ in entries)
        contents.append(f"<li><a href='#{identity}'>{html.escape(title)}</a>{f'<p>{inner}</p>' if inner else ''}</li>\n")
        body.append(f"<h2 id='{identity}'>{html.escape(title)}</h2>\n{lead}{''.join(text for _, _, text in entries)}")

    if len({section.prefix for section in page.sections}) != len(page.sections):
        raise InputError("--results: two sections would have files of the same name; name them apart")
    for section in page.sections:
        entries = tables(folder, section)
        if entries and (text := notes(section.results)):
            entries[-1] = (*entries[-1][:2], entries[-1][2] + text)
        needle_table(folder, section)
        entries += [(figure.file, figure.title, figure_html(figure)) for figure in section.figures]
        if rules := suite_rules(section.results):
            name = section.prefix + "rules"
            entries.append((name, "Rules of the suite", f"<h3 id='{name}'>Rules of the suite</h3>\n{rules}"))
        if traces := trace_links(folder, section.results):
            name = section.prefix + "traces"
            entries.append((name, "Selection traces", f"<h3 id='{name}'>Selection traces</h3>\n{traces}"))
        part(f"section-{slug(section.title)}", section.title, entries, summary(section.results))
    if page.runs:
        part("training", "Training", [(figure.file, figure.title, figure_html(figure)) for figure in page.training],
             f"<p>Runs: {', '.join(f'{html.escape(run.name)} ({sources([run.source])})' for run in page.runs)}.</p>\n")
    facts = [provenance_table("results", path, provenance) for section in page.sections for path, provenance in section.results.provenance]
    facts += [provenance_table("run", run.source, run.provenance) for run in page.runs]
    part("provenance", "Provenance", [], "<p>Every number comes from a file that one of these commands writes; this page was made of them by "
         f"<code>{html.escape(page.command)}</code>.</p>\n{''.join(facts)}")
    title = html.escape(page.title)
    text = (f"<!DOCTYPE html>\n<html lang=en><head><meta charset=utf-8><title>{title}</title>\n"
            f"<meta name=viewport content='width=device-width, initial-scale=1'><style>{CSS}</style></head><body>\n<h1>{title}</h1>\n"
            "<p>Measured, not quoted: commit, command, device and versions of every number stand under "
            f"<a href='#provenance'>provenance</a>.</p>\n<nav aria-label=Contents><ul>{''.join(contents)}</ul></nav>\n"
            f"{''.join(body)}</body></html>\n")
    path = os.path.join(folder, "index.html")
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    return path
