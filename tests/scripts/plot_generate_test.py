#!/usr/bin/env python3
"""scripts/reproduce/plot_generate.py: files of one sweep together, and the length from which on a method is faster."""
import contextlib
import importlib.util
import io
import json
import os
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parents[2]
VENV = ROOT / ".venv" / "bin" / "python"
if not importlib.util.find_spec("matplotlib") and VENV.exists():
    os.execv(VENV, [str(VENV), *sys.argv])
sys.path[:0] = [str(ROOT / "scripts" / "reproduce"), str(ROOT / "scripts")]
MISSING = not importlib.util.find_spec("matplotlib")
if not MISSING:
    import plot_generate


def case(batch, tokens, seconds, **model):
    """Records of dense, which takes 1 s at every length, and of SQA."""
    shape = {**{key: 1 for key in (() if MISSING else plot_generate.MODEL)}, **model, "batch": batch, "tokens": tokens}
    values = {"dense": [("prefill", 1.0, "s")], "sqa": [("prefill", seconds, "s"), ("prefill_speedup", 1 / seconds, "x")]}
    return [{"case": f"batch {batch}, n {tokens}", "method": method, "metric": metric, "value": value, "unit": unit, "shape": shape}
            for method, found in values.items() for metric, value, unit in found]


@unittest.skipIf(MISSING, "matplotlib is missing: scripts/setup.sh installs it into .venv")
class PlotGenerate(unittest.TestCase):
    def setUp(self):
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))

    def write(self, name, records, device="a device"):
        (self.folder / name).write_text(json.dumps({"provenance": {"device": device}, "records": records}))
        return str(self.folder / name)

    def run_main(self, *paths):
        out, figure = io.StringIO(), self.folder / "figure.png"
        with mock.patch.object(sys, "argv", ["plot_generate", "--results", *paths, "--output", str(figure)]), contextlib.redirect_stdout(out):
            plot_generate.main()
        self.assertTrue(figure.exists() and figure.with_suffix(".svg").exists())
        return out.getvalue()

    def test_files_are_one_sweep(self):
        text = self.run_main(self.write("a.json", case(1, 4096, 0.5) + case(1, 8192, 2)), self.write("b.json", case(1, 16384, 0.5) + case(4, 4096, 3)))
        self.assertIn("| 1 | 16K | SQA | 500 ms | 2.00 |", text)
        self.assertIn("batch 1, SQA, first token: faster than dense from 16K on (measured: 4K, 8K, 16K)", text)
        self.assertIn("batch 4, SQA, first token: faster than dense at no length (measured: 4K)", text)

    def test_a_case_is_taken_from_the_last_file(self):
        text = self.run_main(self.write("a.json", case(1, 4096, 2)), self.write("b.json", case(1, 4096, 0.5)))
        self.assertEqual(text.count("| SQA |"), 1)
        self.assertIn("| 1 | 4K | SQA | 500 ms |", text)

    def test_what_does_not_go_together_is_one_line(self):
        one = self.write("a.json", case(1, 4096, 2))
        for other in (self.write("b.json", case(1, 8192, 2), "another"), self.write("c.json", case(1, 8192, 2, layers=2)), self.write("d.json", [{}])):
            with self.assertRaises(SystemExit) as error:
                self.run_main(one, other)
            self.assertIn("plot_generate: ", str(error.exception.code))


if __name__ == "__main__":
    unittest.main()
