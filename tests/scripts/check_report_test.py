#!/usr/bin/env python3
"""scripts/check_report.sh finds each kind of fault of a report, and nothing in a page that has none."""
import base64
import shutil
import struct
import subprocess
import tempfile
import unittest
import zlib
from pathlib import Path

CHECK = Path(__file__).resolve().parents[2] / "scripts" / "check_report.sh"
SVG = "data:image/svg+xml;base64," + base64.b64encode(
    b"<svg xmlns='http://www.w3.org/2000/svg' width='600' height='40'><rect width='600' height='40'/></svg>").decode()
HEAD = "<!DOCTYPE html><html lang=en><head><meta charset=utf-8><title>t</title><meta name=viewport content='width=device-width'><style>"
CSS = ("body{font:16px sans-serif}figure img{max-width:100%}.scroll{overflow-x:auto}"
       "@media print{.scroll{overflow:visible}td{white-space:normal!important}}")
CLEAN = f"""<h1 id=top>Report</h1><p><a href='#top'>up</a> <a href='table.csv'>CSV</a> <a href='data:text/csv;base64,YQo='>CSV</a></p><figure><img alt=bars src='{SVG}'></figure>
<div class=scroll><table><tr>{"<td style='white-space:nowrap'>four little words here</td>" * 9}</tr></table></div>"""
# Body of a page that is otherwise clean -> what each width says of it.
EVERYWHERE = {
    "<img alt=lost src='lost.png'>": "image did not load: img \"lost\"",
    "<img alt=broken src='data:image/png;base64,AAAA'>": "image did not load: img \"broken\"",
    f"<img alt=hidden style='display:none' src='{SVG}'>": "image is not visible: img \"hidden\"",
    "<figure><figcaption>nothing</figcaption></figure>": "figure without a picture: figure \"nothing\"",
    "<script>console.error('planted', 7)</script>": "console error: planted 7",
    "<script>console.warn('look out')</script>": "console warning: look out",
    "<script>null.x</script>": "console error: TypeError: Cannot read properties of null (reading 'x')",
    "<p style='font-size:5px'>small print</p>": "letters of 5.0 pixels",
    "<p style='width:50px;overflow:hidden;white-space:nowrap'>a long line, hidden</p>": "cut off: what is in p \"a long line, hidden\"",
    "<img alt=remote src='http://127.0.0.1:9/x.png'>": "loads from the network: http://127.0.0.1:9/x.png",
}
ONCE = {
    "<a href='gone.csv'>x</a>": "link to gone.csv: there is no such file",
    "<a href='#gone'>x</a>": "link to #gone: there is no such place in the page",
    "<a href='https://example.org/'>x</a>": "link to https://example.org/: expected a file beside the report",
}
WIDE = "<div id=wide style='width:900px;height:9px;background:red'></div>"


@unittest.skipUnless(shutil.which("chromium"), "Chromium is missing (Debian: apt-get install chromium)")
class CheckReport(unittest.TestCase):
    def setUp(self):
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        (self.folder / "table.csv").write_text("a\n1\n")

    def check(self, body, css=CSS, shots=None):
        (self.folder / "index.html").write_text(f"{HEAD}{css}</style></head><body>{body}</body></html>")
        result = subprocess.run([CHECK, self.folder] + ([shots] if shots else []), capture_output=True, text=True)
        return result.returncode, result.stderr.splitlines()

    def test_a_clean_page_passes_and_is_shot(self):
        shots = self.folder / "shots"
        self.assertEqual(self.check(CLEAN + "<p style='height:4000px'>tall</p>", shots=shots), (0, []))
        for name, width in (("1280", 1280), ("390", 780), ("print", 688)):  # a phone has two pixels for one
            sizes = []
            for path in sorted(shots.glob(f"{name}-*.png")):
                data = path.read_bytes()
                sizes.append(struct.unpack(">II", data[16:24]))
                self.assertTrue(zlib.decompress(b"".join(self.chunks(data))))
            self.assertEqual([size[0] for size in sizes], [width] * 2, f"{name}: the page's height takes two pieces")

    @staticmethod
    def chunks(png):
        at = 8
        while at < len(png):
            length, kind = struct.unpack(">I4s", png[at:at + 8])
            if kind == b"IDAT":
                yield png[at + 8:at + 8 + length]
            at += 12 + length

    def test_every_fault_is_found_and_nothing_else(self):
        code, lines = self.check(CLEAN + "".join(EVERYWHERE) + "".join(ONCE))
        self.assertEqual(code, 1)
        for message in EVERYWHERE.values():
            for view in ("1280", "390", "print"):
                found = [line for line in lines if f" at {view}: {message}" in line]
                self.assertEqual(len(found), 1, f"{message} at {view}: {lines}")
        for message in ONCE.values():
            self.assertEqual(len([line for line in lines if message in line]), 1, f"{message}: {lines}")
        # Two of the images say so twice: the remote one did not load, and the console hears of both that have an address.
        rest = [line for line in lines if not any(message in line for message in [*EVERYWHERE.values(), *ONCE.values()])]
        self.assertTrue(all("img \"remote\"" in line or "console error: Failed to load resource" in line for line in rest), rest)

    def test_what_is_wider_than_a_phone(self):
        code, lines = self.check(CLEAN + WIDE)
        self.assertEqual(code, 1)
        self.assertFalse([line for line in lines if " at 1280:" in line], lines)
        self.assertTrue([line for line in lines if " at 390: the page is 9" in line and "the window 390" in line], lines)
        self.assertTrue([line for line in lines if " at 390: cut off: div#wide" in line], lines)

    def test_a_page_that_is_not_made_for_phones(self):
        code, lines = self.check("<h1>Report</h1></body>", css="</style><meta name=viewport content='width=1000'><style>")
        self.assertEqual(code, 1)
        self.assertEqual(len([line for line in lines if " at 390: laid out for 1000 pixels" in line]), 1, lines)

    def test_a_scroll_box_is_cut_off_on_paper(self):
        code, lines = self.check(CLEAN, css=CSS.split("@media")[0])
        self.assertEqual(code, 1)
        self.assertEqual(len(lines), 1, lines)
        self.assertIn(" at print: cut off on paper: div", lines[0])

    def test_no_report(self):
        result = subprocess.run([CHECK, self.folder / "none"], capture_output=True, text=True)
        self.assertEqual(result.returncode, 2)
        self.assertIn("none/index.html: no such file", result.stderr)


if __name__ == "__main__":
    unittest.main()
