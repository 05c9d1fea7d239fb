"""report.html: one file with the table, the figures and where the numbers come from; it loads nothing from elsewhere.

Only the list of trace pages links to other files."""

import base64
import html
import os
import re
from urllib.parse import quote

from report_data import Results, format_value, read_text, trace_pages

COLUMNS = [("em", "EM"), ("f1", "F1"), ("rouge_l", "ROUGE-L"), ("bleu", "BLEU"), ("evidence_recall", "evidence recall"),
           ("tokens_read", "tokens read"),
           ("token_efficiency", "token efficiency"), ("bytes_held", "bytes held"), ("peak_memory", "peak memory"),
           ("throughput", "throughput (tokens/s)"), ("latency_p50", "latency p50"), ("latency_p95", "latency p95"),
           ("flops", "FLOP"), ("train_core_seconds", "training, core-seconds")]

CSS = """body{font:16px/1.5 system-ui,sans-serif;color:#222;max-width:1150px;margin:2em auto;padding:0 1.2em}
h1{font-size:1.7em;margin-bottom:.2em}h2{font-size:1.25em;margin-top:2em;border-bottom:1px solid #ddd;padding-bottom:.2em}
table{border-collapse:collapse;font-size:.86em;font-variant-numeric:tabular-nums}.scroll{overflow-x:auto}
th,td{padding:.35em .7em;border-bottom:1px solid #e3e3e3;text-align:right;white-space:nowrap}
th{border-bottom:2px solid #888;vertical-align:bottom;white-space:normal}th:first-child,td:first-child,.left td{text-align:left}
tr:nth-child(even) td{background:#f7f9fb}td.na{color:#888;font-style:italic}
.left td{white-space:normal;overflow-wrap:anywhere}.left td:first-child{color:#555;white-space:nowrap}
figure{margin:1em 0}img{max-width:100%;height:auto}figcaption{color:#444;font-size:.92em}code{font-size:.92em}"""


def html_table(rows: list[list[str]]) -> str:
    def cells(tag: str, row: list[str]) -> str:
        return "".join(f"<{tag}{' class=na' if cell == 'n/a' else ''}>{html.escape(cell)}</{tag}>" for cell in row)
    body = "".join(f"<tr>{cells('td', row)}</tr>\n" for row in rows[1:])
    return f"<div class=scroll><table>\n<thead><tr>{cells('th', rows[0])}</tr></thead>\n<tbody>{body}</tbody></table></div>\n"


def markdown_to_html(text: str) -> str:
    """What dsrsq-eval writes: pipe tables, list items, paragraphs."""
    out, table, items = [], [], []
    for line in text.splitlines() + [""]:
        if line.startswith("|"):
            cells = [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            if not all(re.fullmatch(r":?-+:?", cell) for cell in cells):
                table.append(cells)
            continue
        if line.startswith("- "):
            items.append(f"<li>{html.escape(line[2:])}</li>")
            continue
        if table:
            out.append(html_table(table))
        if items:
            out.append(f"<ul>{''.join(items)}</ul>\n")
        table, items = [], []
        if line.strip():
            out.append(f"<p>{html.escape(line)}</p>\n")
    return "".join(out)


def table_of(results: Results) -> str:
    columns = [column for column in COLUMNS if results.has(column[0])]
    rows = [["method"] + [title for _, title in columns]]
    rows += [[row] + [format_value(results.get(row, metric), True) for metric, _ in columns] for row in results.rows]
    return html_table(rows)


def tables(results: Results) -> str:
    files = [os.path.join(os.path.dirname(path), "table.md") for path, _ in results.provenance]
    if all(os.path.isfile(path) for path in files):
        return "".join(markdown_to_html(read_text(path)) for path in dict.fromkeys(files))
    return table_of(results)


def provenance_table(path: str, provenance: dict) -> str:
    def text(value: object) -> str:
        if isinstance(value, dict):
            return ", ".join(f"{key} {item}" for key, item in value.items())
        return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    keys = ["commit", "command", "date", "device", "versions", "seeds"]
    shown = [("results", path)] + [(key, text(provenance[key]) if key in provenance else "n/a") for key in keys]
    body = "".join(f"<tr><td>{key}</td><td><code>{html.escape(value)}</code></td></tr>\n" for key, value in shown)
    return f"<table class=left>{body}</table><br>\n"


def trace_links(folder: str, results: Results) -> str:
    """Links, relative to the report's folder, to the pages of dsrsq-eval --trace."""
    items = []
    for path, pages in trace_pages(results):
        def link(page: str, text: str) -> str:
            target = os.path.relpath(os.path.join(path, page), folder).replace(os.sep, "/")
            return f"<a href='{html.escape(quote(target))}'>{html.escape(text)}</a>"
        questions = ", ".join(link(page, page.removesuffix(".html")) for page in pages)
        items.append(f"<li>{link('index.html', f'all questions of {path}')}{': ' if questions else ''}{questions}</li>\n")
    if not items:
        return ""
    return ("<h2>What was read</h2>\n<p>Single questions: the document's text with picked tokens, evidence and answer marked. These "
            f"pages are files beside results.json.</p>\n<ul>{''.join(items)}</ul>\n")


def write_report(folder: str, results: Results, drawn: list[tuple[str, str, str]]) -> None:
    parts = ["<!DOCTYPE html>\n<html lang=en><head><meta charset=utf-8><title>DSRSQ report</title>\n",
             f"<meta name=viewport content='width=device-width'><style>{CSS}</style></head><body>\n<h1>DSRSQ report</h1>\n"]
    if results.rows:
        parts.append(f"<p>Measured, not quoted: every number comes from the runs named under <a href='#provenance'>provenance</a>."
                     f"</p>\n<h2>Results</h2>\n{tables(results)}")
    for name, title, caption in drawn:
        with open(os.path.join(folder, name + ".png"), "rb") as file:
            data = base64.b64encode(file.read()).decode("ascii")
        parts.append(f"<h2>{html.escape(title)}</h2>\n<figure><img alt='{html.escape(title)}' src='data:image/png;base64,{data}'>"
                     f"<figcaption>{html.escape(caption)}</figcaption></figure>\n")
    parts.append(trace_links(folder, results))
    parts.append("<h2 id=provenance>Provenance</h2>\n")
    parts += [provenance_table(path, provenance) for path, provenance in results.provenance]
    parts.append("</body></html>\n")
    with open(os.path.join(folder, "report.html"), "w", encoding="utf-8") as file:
        file.write("".join(parts))
