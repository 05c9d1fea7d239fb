#!/usr/bin/env python3
"""The transfer matrix of domains.sh: what a model trained on one domain answers in each.

    scripts/reproduce/domains.py FOLDER DOMAIN...     FOLDER holds eval/<model>_on_<domain>/results.json

Prints tables of F1, of the loss of the reference answer and of the recall of answer tokens, and leaves them in FOLDER/transfer.md, with all their records in FOLDER/transfer.json.
A column's models answer the same questions; `no context` is the model of the domain itself without the document.
"""

import json
import pathlib
import sys

METRICS = {"f1": "F1", "answer_loss": "Loss of the reference answer, nats a token (less is better)",
           "answer_recall": "Recall of answer tokens among those read"}


def text_of(record: dict | None) -> str:
    if record is None:
        return "n/a"
    low, high = record.get("ci", (None, None))
    return f"{record['value']:.3f}" + (f" [{low:.3f}, {high:.3f}]" if low is not None else "")


def table(records: dict, domains: list[str], metric: str, title: str) -> list[str]:
    rows = [(one, [records.get((one, domain, one, metric)) for domain in domains]) for one in domains]
    rows.append(("no context", [records.get((domain, domain, "question_only", metric)) for domain in domains]))
    if not any(record for _, row in rows for record in row):
        return []
    lines = [f"{title}: trained on (row), tested on (column)", "", "| | " + " | ".join(domains) + " |", "|---" * (len(domains) + 1) + "|"]
    lines += [f"| {name} | " + " | ".join(text_of(record) for record in row) + " |" for name, row in rows]
    return lines + [""]


def main() -> None:
    if len(sys.argv) < 3:
        sys.exit(__doc__.split("\n\n")[1].strip())
    folder, domains = pathlib.Path(sys.argv[1]), sys.argv[2:]
    found, kept, provenance = {}, [], None
    for model in domains:
        for domain in domains:
            path = folder / "eval" / f"{model}_on_{domain}" / "results.json"
            results = json.loads(path.read_text())
            provenance = provenance or results["provenance"]
            for record in results["records"]:
                found[model, domain, record["method"], record["metric"]] = record
                kept.append({**record, "case": f"{model} on {domain}"})
    lines = []
    for metric, title in METRICS.items():
        lines += table(found, domains, metric, title)
    (folder / "transfer.md").write_text("\n".join(lines))
    (folder / "transfer.json").write_text(json.dumps({"provenance": provenance, "records": kept}, indent=1) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
