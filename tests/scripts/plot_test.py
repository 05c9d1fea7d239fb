#!/usr/bin/env python3
"""scripts/plot.py: what is in a report is what was measured, and what was not measured is not drawn."""
import base64
import contextlib
import csv
import importlib.util
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VENV = ROOT / ".venv" / "bin" / "python"
if not importlib.util.find_spec("matplotlib") and VENV.exists():
    os.execv(VENV, [str(VENV), *sys.argv])
sys.path.insert(0, str(ROOT / "scripts"))
MISSING = not importlib.util.find_spec("matplotlib")
if not MISSING:
    import plot


def record(method, metric, value, unit="share", **more):
    shape = {"questions": 40, "context_tokens": 512.5}
    return {"case": "test", "method": method, "metric": metric, "value": value, "unit": unit, "shape": shape, **more}


def difference(value, low, high):
    return {"baseline": "dense", "difference": {"value": value, "ci": [low, high], "p": 0.25, "test": "exact", "pairs": 40}}


RECORDS = [
    record("dense", "f1", 0.5, ci=[0.4, 0.6]), record("dense", "em", 0.25), record("dense", "bytes_held", 4.5e6, "bytes"),
    record("snapkv@12%", "f1", 0.375, ci=[0.3, 0.45], **difference(-0.125, -0.2, -0.05)),
    record("snapkv@50%", "f1", 0.4375, ci=[0.35, 0.5], **difference(-0.0625, -0.1, 0.01)),
    record("snapkv@3%", "f1", None), record("rag@12%", "f1", 0.125),
]
PROVENANCE = {"commit": "abc123", "command": "dsrsq-eval --methods 'a <b>'", "date": "2026-01-01T00:00:00Z", "device": "cpu", "seeds": [7],
              "versions": {"dsrsq": "0.1.0"}}


@unittest.skipIf(MISSING, "matplotlib is missing: scripts/setup.sh installs it into .venv")
class Plot(unittest.TestCase):
    def setUp(self):
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.report = self.folder / "report"

    def write(self, records, name="results.json"):
        path = self.folder / name
        path.write_text(json.dumps({"provenance": PROVENANCE, "records": records}))
        return path

    def plot(self, *arguments):
        errors = io.StringIO()
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
            code = plot.main([*map(str, arguments), "--output", str(self.report)])
        return code, errors.getvalue()

    def figures(self):
        return {path.stem for path in self.report.glob("*.png")}

    def page(self):
        return (self.report / "index.html").read_text()

    def test_tables_hold_the_records(self):
        self.assertEqual(self.plot("--results", self.write(RECORDS)), (0, ""))
        with open(self.report / "table-quality.csv") as file:
            rows = {row["method"]: row for row in csv.DictReader(file)}
        self.assertEqual(list(rows), ["dense", "snapkv@12%", "snapkv@50%", "snapkv@3%", "rag@12%"])
        self.assertEqual((rows["snapkv@12%"]["f1 (share)"], rows["snapkv@12%"]["f1 low"], rows["snapkv@12%"]["f1 high"]), ("0.375", "0.3", "0.45"))
        self.assertEqual((rows["snapkv@3%"]["f1 (share)"], rows["rag@12%"]["f1 low"], rows["rag@12%"]["em (share)"]), ("", "", ""))
        with open(self.report / "table-comparison.csv") as file:
            compared = {row["method"]: list(row.values())[1:] for row in csv.DictReader(file)}
        self.assertEqual(compared, {"snapkv@12%": ["-0.125", "-0.2", "-0.05", "0.25"], "snapkv@50%": ["-0.0625", "-0.1", "0.01", "0.25"]})
        with open(self.report / "table-cost.csv") as file:
            self.assertEqual(next(csv.DictReader(file)), {"method": "dense", "bytes_held (bytes)": "4500000.0"})
        self.assertIn("<td>0.375 <small>[0.300, 0.450]</small></td>", self.page())
        self.assertIn("<td class=na>n/a</td>", self.page())

    def test_what_was_not_measured_is_not_drawn(self):
        path = self.write(RECORDS)
        self.plot("--results", path)
        self.assertEqual(self.figures(), {"quality", "comparison", "budget_quality", "memory", "quality_cost"})
        self.assertEqual({path.stem for path in self.report.glob("*.svg")}, self.figures())
        self.write([r for r in RECORDS if r["metric"] == "f1" and "@" not in r["method"]])
        self.plot("--results", path)
        self.assertEqual(self.figures(), {"quality"}, "figures of an earlier report are removed")
        self.assertEqual(re.findall(r"<h3 id='([^']*)'", self.page()), ["table-quality", "quality"])

    def test_the_page_stands_alone(self):
        self.plot("--results", self.write(RECORDS), "--title", "A & <B>")
        page = self.page()
        self.assertIn("<h1>A &amp; &lt;B&gt;</h1>", page)
        self.assertIn("dsrsq-eval --methods &#x27;a &lt;b&gt;&#x27;", page)
        self.assertFalse(re.findall(r"(?:src|srcset)='(?!data:)[^']*'", page))
        self.assertNotIn("http", re.sub(r"'data:[^']*'", "", page))
        for href in re.findall(r"href='([^']*)'", page):
            if href.startswith("#"):
                self.assertIn(f"id='{href[1:]}'", page)
            else:
                self.assertTrue((self.report / href).exists(), href)
        first = (self.report / "budget_quality.svg").read_bytes()
        self.plot("--results", self.folder / "results.json")
        self.assertEqual(first, (self.report / "budget_quality.svg").read_bytes(), "the same figure from the same numbers")

    def test_a_single_file_needs_no_other(self):
        alone = self.folder / "alone.html"
        self.plot("--results", self.write(RECORDS), "--single-file", alone)
        page = alone.read_text()
        links = re.findall(r"href='((?!#)[^']*)'", page)
        self.assertTrue(links)
        self.assertEqual([link for link in links if not link.startswith("data:text/csv;base64,")], [])
        inside = {base64.b64decode(link.split(",")[1]).decode() for link in links}
        self.assertEqual(inside, {path.read_text() for path in self.report.glob("*.csv")})
        self.assertEqual(page.count("<img "), self.page().count("<img "))

    def test_a_stream(self):
        def lag(method, tokens, value):
            made = record(method, f"accuracy_lag_{tokens}", value, ci=[value - 0.1, value + 0.1])
            return {**made, "shape": {"lag": tokens, "probes": 20}}
        self.write([lag("dsrsq", 1024, 0.5), lag("dsrsq", 0, 0.9), lag("dsrsq", 512, 0.7), lag("window", 0, 0.8), record("dsrsq", "retention", 0.6),
                    record("window", "half_life", 512, "tokens")])
        self.plot("--results", self.folder / "results.json")
        self.assertEqual(self.figures(), {"stream_retention"})
        results = plot.read_sections([str(self.folder / "results.json")])[0]
        self.assertEqual([(tokens, made.value) for tokens, made in plot.plot_results.lag_points(results, "dsrsq")], [(0, 0.9), (512, 0.7), (1024, 0.5)])
        with open(self.report / "table-adaptation.csv") as file:
            rows = {row["method"]: row for row in csv.DictReader(file)}
        self.assertEqual((rows["dsrsq"]["retention (share)"], rows["dsrsq"]["half_life (tokens)"]), ("0.6", ""))
        self.assertEqual((rows["window"]["retention (share)"], rows["window"]["half_life (tokens)"]), ("", "512.0"))
        self.write([lag("dsrsq", 0, 0.9)])
        self.plot("--results", self.folder / "results.json")
        self.assertEqual(self.figures(), set(), "one lag is no curve")

    def test_perplexity_against_context_length(self):
        def point(method, tokens, value, **more):
            shape = {"shape": {"context_tokens": tokens, "scored_tokens": 64, "texts": 9}}
            return [{**record(method, f"loss_context_{tokens}", value / 10, "nats", ci=[value / 20, value / 5], **more), **shape},
                    {**record(method, f"perplexity_context_{tokens}", value, "perplexity", ci=[value - 1, value + 1]), **shape},
                    {**record(method, f"tokens_read_context_{tokens}", tokens / 2, "tokens"), **shape}]
        path = self.write([*point("dense", 1024, 20), *point("dense", 256, 30), *point("dsrsq", 256, 32, **difference(0.2, 0.1, 0.3)),
                           *point("dsrsq", 1024, 24)])
        self.assertEqual(self.plot("--results", path), (0, ""))
        self.assertEqual(self.figures(), {"context_perplexity"})
        results = plot.read_sections([str(path)])[0]
        self.assertEqual([(tokens, made.value) for tokens, made in plot.plot_results.context_points(results, "dense", "perplexity")], [(256, 30), (1024, 20)])
        with open(self.report / "table-context.csv") as file:
            rows = {row["method"]: [float(value) for value in list(row.values())[1:]] for row in csv.DictReader(file)}
        self.assertEqual(rows, {"dense": [30, 29, 31, 20, 19, 21], "dsrsq": [32, 31, 33, 24, 23, 25]}, "shortest first")
        with open(self.report / "table-comparison.csv") as file:
            self.assertEqual(list(csv.reader(file))[1:], [["dsrsq", "0.2", "0.1", "0.3", "0.25"]])
        self.write(point("dense", 256, 30))
        self.plot("--results", path)
        self.assertEqual(self.figures(), set(), "one length is no curve")

    def test_sections(self):
        one, two = self.write(RECORDS, "one.json"), self.write(RECORDS[:2], "two.json")
        code, error = self.plot("--results", one, two)
        self.assertEqual((code, error.count("\n")), (3, 1))
        self.assertIn("two.json: f1 of dense stands twice", error)
        self.assertEqual(self.plot("--results", one, f"Other: run={two}"), (0, ""))
        self.assertIn("other-run-quality", self.figures())
        self.assertIn("quality", self.figures())
        self.assertIn("<h2 id='section-other-run'>Other: run</h2>", self.page())
        code, error = self.plot("--results", f"A b={one}", f"a-B={two}")
        self.assertEqual((code, error.count("\n")), (3, 1))
        self.assertIn("name them apart", error)

    def test_sweeps(self):
        rows = ["a@50%", "a@3%", "a@12.5%", "b@256", "b@64", "c@5%", "d", "x@y", "@3%"]
        self.write([record(row, "f1", 0.5) for row in rows])
        results = plot.read_sections([str(self.folder / "results.json")])[0]
        self.assertEqual(results.sweeps(), {"a": [(3.0, "a@3%"), (12.5, "a@12.5%"), (50.0, "a@50%")]})
        self.assertEqual(results.single(), ["b@256", "b@64", "c@5%", "d", "x@y", "@3%"], "a share and a number of tokens have no axis in common")
        self.write([record(row, "f1", 0.5) for row in rows if "%" not in row])
        results = plot.read_sections([str(self.folder / "results.json")])[0]
        self.assertEqual(results.sweeps(), {"b": [(64.0, "b@64"), (256.0, "b@256")]})

    def test_needle_map_and_rules_of_a_suite(self):
        def needle(depth, value, tokens=512.5, method="dense"):
            shape = {"depth": depth, "context_tokens": tokens, "questions": 4}
            return {**record(method, "score_at_depth", value, ci=[0, 1]), "shape": shape}
        path = self.write([*RECORDS[:2], needle(0.25, 1.0), needle(0.75, 0.5), needle(0.25, None, 1024.0)])
        content = json.loads(path.read_text())
        content["provenance"]["suite"] = {"title": "A suite", "source": "its paper", "maximum_prompt": 7500, "truncation": "middle", "tasks": [
            {"task": "one", "prompt": "Read <b>.\n{context}", "maximum_answer": 3, "chat": False, "answer": "as decoded", "metric": "f1"}]}
        path.write_text(json.dumps(content))
        self.assertEqual(self.plot("--results", path), (0, ""))
        self.assertEqual(self.figures(), {"quality", "needle_map"})
        with open(self.report / "needle_map.csv") as file:
            rows = [(row["context_tokens"], row["depth"], row["questions"], row["right (share)"]) for row in csv.DictReader(file)]
        self.assertEqual(rows, [("512.5", "0.25", "4", "1.0"), ("512.5", "0.75", "4", "0.5"), ("1024.0", "0.25", "4", "")])
        self.assertIn("href='needle_map.csv'", self.page())
        for text in ("A suite", "its paper", "at most 7,500 tokens", "middle", "Read &lt;b&gt;.<br>{context}", "never a user&#x27;s turn"):
            self.assertIn(text, self.page().replace("never a user's turn", "never a user&#x27;s turn"))
        results = plot.read_sections([str(path)])[0]
        self.assertEqual(plot.plot_results.NEEDLE_MAP[0], "needle_map")
        self.assertEqual(results.rows, ["dense"], "a depth is no row")

    def test_runs(self):
        run = self.folder / "run"
        run.mkdir()
        lines = [{"step": step, "time": 1.0, "train/loss": 5 - step / 100, "train/task": 4.5, "validation/loss": 4.0, "validation/em": step / 300}
                 for step in range(0, 300, 10)]
        (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 300, "tra')
        (run / "run.json").write_text(json.dumps({**PROVENANCE, "command": "dsrsq-train --config x.yaml"}))
        self.assertEqual(self.plot("--runs", f"first={run}"), (0, ""))
        self.assertEqual(self.figures(), {"loss_terms", "loss_by_run", "validation_metrics"})
        self.assertIn("dsrsq-train --config x.yaml", self.page())

    def test_bad_input_is_one_line(self):
        for text, message in (("{", "results.json:1: not valid JSON"), ("[]", "expected an object with provenance and records"),
                              (json.dumps({"provenance": {}, "records": [{"case": "a"}]}), "a record is not as dsrsq-eval writes it")):
            (self.folder / "results.json").write_text(text)
            code, error = self.plot("--results", self.folder / "results.json")
            self.assertEqual((code, error.count("\n")), (3, 1), error)
            self.assertIn(message, error)

    @unittest.skipUnless(shutil.which("chromium"), "Chromium is missing (Debian: apt-get install chromium)")
    def test_the_page_passes_check_report(self):
        metrics = ("em", "f1", "bleu", "rouge_l", "evidence_recall")
        long = [record(f"a_method_with_a_long_name:{i}", metric, 0.1 * i, ci=[0, 1]) for i in range(4) for metric in metrics]
        self.plot("--results", self.write(RECORDS), f"Long names={self.write(long, 'long.json')}")
        result = subprocess.run([ROOT / "scripts" / "check_report.sh", self.report], capture_output=True, text=True)
        self.assertEqual((result.returncode, result.stderr), (0, ""))


if __name__ == "__main__":
    unittest.main()
