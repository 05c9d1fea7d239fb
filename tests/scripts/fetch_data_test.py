#!/usr/bin/env python3
"""scripts/fetch_data.sh against files of this machine: fetched, compared, resumed, refused; and its own table."""
import hashlib
import os
import re
import subprocess
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "fetch_data.sh"
SHARED = Path(os.environ.get("DSRSQ_SHARED_DATA", ROOT.parent / "shared" / "data"))
HEADER = "set\tfile\tbytes\tsha256\tlicence\tsource\n"


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def own_table() -> list[list[str]]:
    return [line.split("\t") for line in (ROOT / "data" / "sources.tsv").read_text().splitlines()[1:]]


class Fetch(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.text = b"a line of text\n" * 1000
        (self.folder / "source.txt").write_bytes(self.text)
        self.url = f"file://{self.folder}/source.txt"

    def run_script(self, *arguments, rows=None):
        if rows is not None:
            table = self.folder / "table.tsv"
            table.write_text(HEADER + "".join("\t".join(row) + "\n" for row in rows))
            arguments = ("--table", table, "--output-dir", self.folder / "out", *arguments)
        # A proxy of this machine must not answer for a host that is not there.
        environment = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
        result = subprocess.run([SCRIPT, *map(str, arguments)], capture_output=True, text=True, env=environment)
        return result.returncode, result.stdout, result.stderr

    def row(self, name, checksum, source=None):
        return ["set", name, str(len(self.text)), checksum, "none", source or self.url]

    def test_fetches_once_and_compares(self):
        rows = [self.row("a.txt", digest(self.text)), self.row("b.txt", "-")]
        code, out, err = self.run_script(rows=rows)
        self.assertEqual((code, err), (0, ""))
        self.assertRegex(out, "fetched  set/a.txt .*as expected")
        self.assertRegex(out, f"fetched  set/b.txt .*{digest(self.text)}, none known")
        self.assertEqual((self.folder / "out/set/a.txt").read_bytes(), self.text)
        os.remove(self.folder / "source.txt")
        code, out, _ = self.run_script(rows=rows)
        self.assertEqual(code, 0)
        self.assertEqual(out, "kept     set/a.txt\nkept     set/b.txt\n")

    def test_goes_on_where_it_stopped(self):
        part = self.folder / "out/set/a.txt.part"
        part.parent.mkdir(parents=True)
        part.write_bytes(b"A LINE" + self.text[6:5000])  # would be seen if it were fetched anew
        whole = b"A LINE" + self.text[6:]
        code, _, err = self.run_script(rows=[self.row("a.txt", digest(whole))])
        self.assertEqual((code, err), (0, ""))
        self.assertEqual((self.folder / "out/set/a.txt").read_bytes(), whole)

    def test_another_text_is_refused(self):
        rows = [self.row("a.txt", digest(b"other")), self.row("b.txt", digest(self.text))]
        code, out, err = self.run_script(rows=rows)
        self.assertEqual(code, 3)
        self.assertIn(f"expected sha256 {digest(b'other')}, got {digest(self.text)}", err)
        self.assertIn("fetched  set/b.txt", out)  # the others are fetched all the same
        self.assertEqual([path.name for path in (self.folder / "out/set").iterdir()], ["b.txt"])

    def test_a_file_that_was_there_is_compared_too(self):
        target = self.folder / "out/set/a.txt"
        target.parent.mkdir(parents=True)
        target.write_bytes(b"mine")
        code, _, err = self.run_script(rows=[self.row("a.txt", digest(self.text))])
        self.assertEqual(code, 3)
        self.assertIn("remove the file", err)
        self.assertEqual(target.read_bytes(), b"mine")

    def test_no_network_is_said_in_a_line(self):
        code, _, err = self.run_script(rows=[self.row("a.txt", "-", "http://127.0.0.1:9/a.txt")])
        self.assertEqual(code, 1)
        self.assertIn("FAILED   set/a.txt: no network to 127.0.0.1:9", err)

    def test_what_needs_a_key_is_named_and_skipped(self):
        rows = [self.row("a", "key", "https://x (ask)"), self.row("b", "account", "y"), self.row("c", "by hand", "z")]
        code, out, err = self.run_script(rows=rows)
        self.assertEqual((code, err), (0, ""))
        self.assertEqual(out, "skipped  set/a: needs a key: https://x (ask)\nskipped  set/b: needs an account: y\n"
                              "skipped  set/c: to be fetched by hand: z\n")

    def test_an_unknown_set_is_an_error_before_any_work(self):
        code, out, err = self.run_script("set", "sett", rows=[self.row("a.txt", "-")])
        self.assertEqual((code, out), (2, ""))
        self.assertIn("expected a set of", err)
        self.assertFalse((self.folder / "out").exists())


class Table(unittest.TestCase):
    def test_is_listed_without_network(self):
        result = subprocess.run([SCRIPT, "--list"], capture_output=True, text=True, check=True)
        self.assertEqual(len(result.stdout.splitlines()), 1 + len(own_table()))
        one = subprocess.run([SCRIPT, "--list", "text/tinyshakespeare.txt"], capture_output=True, text=True, check=True)
        self.assertEqual(len(one.stdout.splitlines()), 2)

    def test_every_line_is_whole(self):
        rows = own_table()
        self.assertEqual(len({(row[0], row[1]) for row in rows}), len(rows))
        for row in rows:
            self.assertEqual(len(row), 6, row)
            self.assertRegex(row[2], r"^(-|~?[0-9.e]+)$")
            self.assertRegex(row[3], r"^([0-9a-f]{64}|-|key|account|by hand)$")
            if re.fullmatch(r"[0-9a-f]{64}|-", row[3]):
                self.assertRegex(row[5], r"^https?://[^ ]+$")
            if len(row[3]) == 64:
                self.assertRegex(row[2], r"^[0-9]+$", "a file whose check sum is known has a known size")

    def test_check_sums_are_those_of_the_files(self):
        if not SHARED.is_dir():
            self.skipTest("the shared data sets are not here")
        known = {row[3]: int(row[2]) for row in own_table() if len(row[3]) == 64}
        found = 0
        for path in SHARED.rglob("*"):
            if path.is_file() and path.stat().st_size in known.values():
                size = known.get(digest(path.read_bytes()))
                if size is not None:
                    self.assertEqual(size, path.stat().st_size)
                    found += 1
        self.assertGreaterEqual(found, 10)


if __name__ == "__main__":
    unittest.main()
