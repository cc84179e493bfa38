"""Open a file in headless Chromium through its debugging pipe (standard library only) and watch it."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --hide-scrollbars --remote-debugging-pipe"
).split()


def chromium() -> str | None:
    """The program's path, or None."""
    return next(
        (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
    )


class Browser:
    """One browser with one page. Use as a context manager."""

    def __enter__(self) -> Browser:
        self._profile = tempfile.mkdtemp(prefix="clarion-chromium-")
        commands_out, self._commands = os.pipe()
        self._answers, answers_in = os.pipe()
        # the pipe's ends must be file descriptors 3 (commands) and 4 (answers) of the browser
        program = f'exec "$@" 3<&{commands_out} 4>&{answers_in}'
        self._process = subprocess.Popen(
            ["bash", "-c", program, "bash", chromium(), *FLAGS, f"--user-data-dir={self._profile}"],
            pass_fds=(commands_out, answers_in),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(commands_out)
        os.close(answers_in)
        self._number, self._buffer, self.events = 0, b"", []
        self._session = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        return self

    def __exit__(self, *_) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._commands)
        os.close(self._answers)
        shutil.rmtree(self._profile, ignore_errors=True)

    def call(self, method: str, **params) -> dict:
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        answer = self._until(lambda m: m.get("id") == self._number)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def _until(self, wanted, seconds: float = 30) -> dict:
        deadline = time.monotonic() + seconds
        while True:
            while b"\0" in self._buffer:
                line, self._buffer = self._buffer.split(b"\0", 1)
                message = json.loads(line)
                if "method" in message:
                    self.events.append(message)
                if wanted(message):
                    return message
            if time.monotonic() > deadline or not select.select([self._answers], [], [], 5)[0]:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise TimeoutError("Chromium gave no answer")
                continue
            chunk = os.read(self._answers, 1 << 20)
            if not chunk:
                raise RuntimeError("Chromium ended")
            self._buffer += chunk

    def open(self, path: Path, width: int, dark: bool = False) -> None:
        """Load a file at a viewport width; `events` then holds what it did."""
        self.events = []
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        self.call(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}],
        )
        self.call("Page.navigate", url=path.resolve().as_uri())
        if not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self._until(lambda m: m.get("method") == "Page.loadEventFired")

    def value(self, script: str):
        return self.call("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def problems(self) -> list[str]:
        """Console errors, refused resources and uncaught exceptions since `open`."""
        found = []
        for event in self.events:
            params = event["params"]
            if event["method"] == "Runtime.exceptionThrown":
                found.append(str(params["exceptionDetails"].get("text")))
            elif event["method"] == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
                found.append(params["entry"]["text"])
            elif event["method"] == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
                found.append(str(params["args"]))
        return found

    def requests(self) -> list[str]:
        """Addresses asked for since `open`, inline data left out."""
        urls = [e["params"]["request"]["url"] for e in self.events if e["method"] == "Network.requestWillBeSent"]
        return [url for url in urls if not url.startswith("data:")]

    def screenshot(self, path: Path) -> None:
        """The whole page as PNG."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))


# size of the smallest text as it appears: SVG text shrinks with its drawing
SMALLEST_TEXT = """Math.min(...[...document.querySelectorAll('p,td,th,li,figcaption,text,summary,pre')]
  .filter(e => e.checkVisibility() && e.getClientRects().length).map(e => parseFloat(getComputedStyle(e).fontSize)
    * (e.tagName === 'text' ? Math.hypot(e.getCTM().a, e.getCTM().b) : 1)))"""

# WCAG contrast of text colour on the nearest opaque background
LOWEST_CONTRAST = """(() => {
  const parse = c => (c.match(/[\\d.]+/g) || []).map(Number);
  const linear = v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = c => { const [r, g, b] = c.slice(0, 3).map(v => linear(v / 255));
    return .2126 * r + .7152 * g + .0722 * b; };
  const behind = e => { for (; e; e = e.parentElement) { const s = getComputedStyle(e).backgroundColor, c = parse(s);
    if (s.startsWith('rgb') && (c.length < 4 || c[3] === 1)) return c; } return [255, 255, 255]; };
  let lowest = 21;
  for (const e of document.querySelectorAll('h1,h2,h3,p,th,li,b,a,summary,.quiet,.tag,footer,text,figcaption,pre')) {
    const s = getComputedStyle(e), a = light(parse(e.tagName === 'text' ? s.fill : s.color)), b = light(behind(e));
    lowest = Math.min(lowest, (Math.max(a, b) + .05) / (Math.min(a, b) + .05));
  }
  return lowest;
})()"""

# labels of one chart that are drawn over each other, and blocks of text that cover the next one
OVERLAPPING = """(() => {
  const meet = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1.5
    && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 3;
  const found = [];
  for (const svg of document.querySelectorAll('svg.chart')) {
    if (!svg.getClientRects().length) continue;
    const texts = [...svg.querySelectorAll('text')].map(t => [t.textContent, t.getBoundingClientRect()]);
    texts.forEach(([a, box], i) => texts.slice(i + 1).forEach(([b, other]) => {
      if (meet(box, other)) found.push(a + ' / ' + b); }));
  }
  const blocks = [...document.querySelectorAll('main p, main li, main figcaption, main summary, main h2, main h3')]
    .filter(e => e.checkVisibility() && e.getClientRects().length && !e.closest('.scroll'));
  blocks.slice(1).forEach((e, i) => { if (!blocks[i].contains(e)
    && meet(blocks[i].getBoundingClientRect(), e.getBoundingClientRect())) found.push(e.textContent.slice(0, 60)); });
  return found.slice(0, 5);
})()"""
