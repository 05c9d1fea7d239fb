#!/usr/bin/env python3
"""What scripts/check_report.sh runs: drives Chromium through its DevTools protocol, over a pipe, and looks for faults of a report.

    python3 scripts/check_report.py FOLDER [SHOTS]
"""

import base64
import fcntl
import json
import os
import pathlib
import select
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.parse

PAGE = "index.html"
# Name, width in CSS pixels, device pixels a CSS pixel, medium. A4 less margins of 14 mm is 688 pixels wide.
VIEWS = [("1280", 1280, 1, "screen"), ("390", 390, 2, "screen"), ("print", 688, 1, "print")]
PIECE = 3000  # CSS pixels of a screenshot's height: longer ones are more than a texture holds
PATIENCE = 60  # seconds for an answer of the browser

# Faults of the page as it stands in a window of a width, as a list of lines. A phone's innerWidth grows with a page that is too wide.
LOOK = r"""(async width => {
  await Promise.all([...document.images].map(image => image.decode().catch(() => {})));
  const faults = [], root = document.documentElement, printed = matchMedia('print').matches;
  const name = e => {
    const text = (e.getAttribute('alt') || e.textContent || '').trim().replace(/\s+/g, ' ').slice(0, 40);
    return e.tagName.toLowerCase() + (e.id ? '#' + e.id : '') + (text ? ` "${text}"` : '');
  };
  const shown = e => e.checkVisibility({checkOpacity: true, checkVisibilityCSS: true});
  for (const image of document.images) {
    const box = image.getBoundingClientRect();
    if (!image.complete || image.naturalWidth === 0 || image.naturalHeight === 0) faults.push(`image did not load: ${name(image)}`);
    else if (!shown(image) || box.width < 1 || box.height < 1) faults.push(`image is not visible: ${name(image)}`);
  }
  for (const figure of document.querySelectorAll('figure'))
    if (!figure.querySelector('img, svg, canvas, video')) faults.push(`figure without a picture: ${name(figure)}`);
  if (root.clientWidth !== width) faults.push(`laid out for ${root.clientWidth} pixels, the window has ${width}: is the meta viewport missing?`);
  if (root.scrollWidth > width) faults.push(`the page is ${root.scrollWidth} pixels wide, the window ${width}`);
  const scrolls = e => ['auto', 'scroll'].includes(getComputedStyle(e).overflowX);
  // What sticks out of the window, the outermost element of each, unless it can be scrolled to in its own box.
  const sticking = new Set();
  for (const e of document.body.querySelectorAll('*')) {
    const box = e.getBoundingClientRect();
    if (!box.width || !box.height || !shown(e) || sticking.has(e.parentElement)) {
      if (sticking.has(e.parentElement)) sticking.add(e);
      continue;
    }
    let inBox = false;
    for (let p = e.parentElement; p; p = p.parentElement) inBox ||= p !== document.body && p !== root && scrolls(p);
    if (!inBox && (box.right > width + 1 || box.left < -1)) {
      faults.push(`cut off: ${name(e)} reaches from ${Math.round(box.left)} to ${Math.round(box.right)} of ${width} pixels`);
      sticking.add(e);
    }
    const style = getComputedStyle(e), hides = o => ['hidden', 'clip'].includes(o);
    if ((hides(style.overflowX) && e.scrollWidth > e.clientWidth + 1) || (hides(style.overflowY) && e.scrollHeight > e.clientHeight + 1))
      faults.push(`cut off: what is in ${name(e)} is larger than its box`);
    if (printed && scrolls(e) && e.scrollWidth > e.clientWidth + 1) faults.push(`cut off on paper: ${name(e)}`);
  }
  // Letters: nobody reads less than 10 pixels on a screen, or 6 points on paper.
  const least = printed ? 8 : 10, small = new Map(), words = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (words.nextNode()) {
    const e = words.currentNode.parentElement, size = parseFloat(getComputedStyle(e).fontSize);
    if (words.currentNode.data.trim() && shown(e) && size < least - 0.01) small.set(e.tagName, [size, e]);
  }
  for (const [size, e] of small.values()) faults.push(`letters of ${size.toFixed(1)} pixels, less than ${least}: ${name(e)}`);
  return faults;
})"""
LINKS = "[...document.querySelectorAll('a[href], area[href]')].map(a => a.getAttribute('href'))"
NAMES = "[...document.querySelectorAll('[id], a[name]')].map(e => e.id || e.name)"


class BrowserError(Exception):
    """The browser did not do what it was asked."""


class Browser:
    """One page of headless Chromium. Commands and events are JSON, each ended by a zero byte, on descriptors 3 and 4."""

    def __init__(self, program: str, profile: str):
        # Under numbers above those that the child gives them.
        ends = [*os.pipe(), *os.pipe()]
        their_in, self.out, self.into, their_out = (fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends)
        for end in ends:
            os.close(end)
        options = ["--headless", "--remote-debugging-pipe", f"--user-data-dir={profile}", "--no-first-run", "--disable-gpu", "--hide-scrollbars",
                   "--disable-dev-shm-usage", "--disable-background-networking", "--disable-component-update"]
        if os.geteuid() == 0:
            options.append("--no-sandbox")  # it refuses to run as root otherwise

        def give() -> None:
            os.dup2(their_in, 3)
            os.dup2(their_out, 4)
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen([program, *options, "about:blank"], preexec_fn=give, pass_fds=(3, 4), stdin=subprocess.DEVNULL,
                                        stdout=self.log, stderr=self.log)
        os.close(their_in)
        os.close(their_out)
        self.buffer, self.number, self.events, self.session = b"", 0, [], None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(domain + ".enable")

    def close(self) -> None:
        try:
            self.session = None
            self.call("Browser.close")
        except (BrowserError, OSError):
            pass
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self.out)
        os.close(self.into)
        self.log.close()

    def receive(self, until: float) -> dict:
        while b"\0" not in self.buffer:
            if not select.select([self.into], [], [], max(0, until - time.monotonic()))[0]:
                raise BrowserError(f"no answer of the browser within {PATIENCE} s")
            block = os.read(self.into, 1 << 20)
            if not block:
                self.log.seek(0)
                said = self.log.read().decode(errors="replace").strip().splitlines()
                raise BrowserError("the browser ended" + (f": {said[-1]}" if said else ""))
            self.buffer += block
        message, _, self.buffer = self.buffer.partition(b"\0")
        return json.loads(message)

    def call(self, method: str, **parameters: object) -> dict:
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self.out, data):]
        until = time.monotonic() + PATIENCE
        while True:
            answer = self.receive(until)
            if answer.get("id") == self.number:
                if "error" in answer:
                    raise BrowserError(f"{method}: {answer['error']['message']}")
                return answer["result"]
            if "method" in answer:
                self.events.append(answer)

    def evaluate(self, expression: str) -> object:
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise BrowserError(f"a check failed in the page: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def open(self, address: str) -> None:
        self.events.clear()
        answer = self.call("Page.navigate", url=address)
        if answer.get("errorText"):
            raise BrowserError(f"{address}: {answer['errorText']}")
        until = time.monotonic() + PATIENCE
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            event = self.receive(until)
            if "method" in event:
                self.events.append(event)

    def complaints(self) -> list[str]:
        """Of the console and of the network since the page was opened."""
        found = []
        for event in self.events:
            what = event.get("params", {})
            if event["method"] == "Runtime.consoleAPICalled" and what["type"] in ("error", "warning", "assert"):
                found.append(f"console {what['type']}: " + " ".join(str(arg.get("value", arg.get("description", ""))) for arg in what["args"]))
            elif event["method"] == "Runtime.exceptionThrown":
                details = what["exceptionDetails"]
                found.append("console error: " + details.get("exception", {}).get("description", details["text"]).splitlines()[0])
            elif event["method"] == "Log.entryAdded" and what["entry"]["level"] in ("error", "warning"):
                found.append(f"console {what['entry']['level']}: {what['entry']['text']} {what['entry'].get('url', '')[:200]}".rstrip())
            elif event["method"] == "Network.requestWillBeSent" and not what["request"]["url"].startswith(("file:", "data:", "about:")):
                found.append(f"loads from the network: {what['request']['url'][:200]}")
        return found

    def shoot(self, name: str, shots: pathlib.Path) -> None:
        box = self.call("Page.getLayoutMetrics")["cssContentSize"]
        for number, top in enumerate(range(0, max(1, int(box["height"])), PIECE), 1):
            clip = {"x": 0, "y": top, "width": box["width"], "height": min(PIECE, box["height"] - top), "scale": 1}
            data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)["data"]
            (shots / f"{name}-{number:02}.png").write_bytes(base64.b64decode(data))


def broken_links(page: pathlib.Path, links: list[str], names: set[str]) -> list[str]:
    found = []
    for href in dict.fromkeys(links):
        parts = urllib.parse.urlsplit(href)
        if parts.scheme == "data":  # what it links to stands in the page
            continue
        target = page.parent / urllib.parse.unquote(parts.path) if parts.path else page
        if parts.scheme or parts.netloc:
            found.append(f"link to {href}: expected a file beside the report or a place in it; it must stand without a network")
        elif not target.exists():
            found.append(f"link to {href}: there is no such file")
        elif target == page and parts.fragment and urllib.parse.unquote(parts.fragment) not in names:
            found.append(f"link to {href}: there is no such place in the page")
    return found


def check(program: str, page: pathlib.Path, shots: pathlib.Path | None) -> list[str]:
    faults = []
    with tempfile.TemporaryDirectory(prefix="check_report") as profile:
        browser = Browser(program, profile)
        try:
            for name, width, scale, medium in VIEWS:
                browser.call("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=scale, mobile=name == "390")
                browser.call("Emulation.setEmulatedMedia", media=medium)
                browser.open(page.resolve().as_uri())
                found = browser.evaluate(f"{LOOK}({width})")
                if shots:
                    browser.shoot(name, shots)
                faults += [f"{page} at {name}: {fault}" for fault in browser.complaints() + found]
            faults += [f"{page}: {fault}" for fault in broken_links(page, browser.evaluate(LINKS), set(browser.evaluate(NAMES)))]
        finally:
            browser.close()
    return list(dict.fromkeys(faults))


def main() -> int:
    if not 2 <= len(sys.argv) <= 3:
        print(__doc__, file=sys.stderr)
        return 2
    page = pathlib.Path(sys.argv[1]) / PAGE
    program = shutil.which("chromium")
    if program is None:
        print("check_report: chromium is not on PATH; scripts/check_report.sh installs it on Debian", file=sys.stderr)
        return 2
    if not page.is_file():
        print(f"check_report: {page}: no such file; expected the folder that scripts/plot.py wrote", file=sys.stderr)
        return 2
    shots = pathlib.Path(sys.argv[2]) if len(sys.argv) == 3 else None
    try:
        if shots:
            shots.mkdir(parents=True, exist_ok=True)
            for name, *_ in VIEWS:
                for old in shots.glob(f"{name}-[0-9][0-9].png"):
                    old.unlink()
        faults = check(program, page, shots)
    except (BrowserError, OSError) as error:
        print(f"check_report: {error}", file=sys.stderr)
        return 1
    for fault in faults:
        print(fault, file=sys.stderr)
    if not faults:
        print(f"{page}: nothing wrong at {', '.join(view[0] for view in VIEWS)}" + (f"; screenshots in {shots}" if shots else ""))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
