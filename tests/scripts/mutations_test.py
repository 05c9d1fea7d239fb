#!/usr/bin/env python3
"""tests/mutations: every patch still applies, and names a property and a test. Whether the test notices is for scripts/mutate.sh."""
import re
import shutil
import subprocess
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PATCHES = sorted((ROOT / "tests" / "mutations").glob("*.patch"))


class Mutations(unittest.TestCase):
    @unittest.skipUnless(shutil.which("patch"), "the program patch is missing")
    def test_every_patch_applies(self):
        self.assertTrue(PATCHES)
        for path in PATCHES:
            with self.subTest(path.name):
                result = subprocess.run(["patch", "-s", "-p1", "--dry-run", "-d", str(ROOT), "-i", str(path)], capture_output=True, text=True)
                self.assertEqual(result.returncode, 0, result.stdout + result.stderr)

    def test_every_patch_says_what_it_breaks_and_who_must_notice(self):
        for path in PATCHES:
            with self.subTest(path.name):
                first, second = path.read_text().splitlines()[:2]
                self.assertRegex(first, r"^Breaks: \S")
                test = re.match(r"Test: (\w+) (\S+)$", second)
                self.assertTrue(test, second)
                self.assertTrue((ROOT / "tests" / test[1]).is_dir(), second)


if __name__ == "__main__":
    unittest.main()
