"""The pages in headless Chromium: nothing asked for, nothing said on the console, legible wide and narrow."""

from __future__ import annotations

import shutil

import pytest
from chromium_page import LOWEST_CONTRAST, OVERLAPPING, SMALLEST_TEXT, Browser
from evaluated_runs import build_corpus, build_language, build_layers, build_presence
from recorded_runs import build_detection, build_generation

from clarion.report import write_comparison, write_run_report

HOSTILE = "\"'><script>alert(1)</script><img src=https://evil.example/x onerror=alert(2)>{{ 7 * 7 }}"
OPEN_ALL = "document.querySelectorAll('details').forEach(d => d.open = true)"


needs_chromium = pytest.mark.skipif(
    not any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
    reason="Chromium is not installed: apt-get install chromium runs this test",
)


@needs_chromium
def test_the_browser_tells_a_bad_page(tmp_path):
    """The control of the test below: a page that fails in each way is found out."""
    page = tmp_path / "bad.html"
    page.write_text(
        "<!doctype html><p style='font-size:5px'>small</p><script>console.error('said'); nowhere()</script>"
        "<img src='http://127.0.0.1:9/x.png'><div style='width:3000px'>wide</div>",
        encoding="utf-8",
    )
    with Browser() as browser:
        browser.open(page, 400, False)
        assert len(browser.problems()) >= 2
        assert "http://127.0.0.1:9/x.png" in browser.requests()
        assert browser.value("document.documentElement.scrollWidth") > 400
        assert browser.value(SMALLEST_TEXT) == 5


@needs_chromium
def test_pages_in_chromium(tmp_path, detection_run, classification_run, generation_run):
    runs = tmp_path / "runs"
    hostile = build_generation(runs / "hostile", HOSTILE)
    other = build_detection(runs / "other", "yolov8s", seed=1, shift=-0.05)
    evaluated = [build(runs / build.__name__) for build in (build_language, build_corpus, build_layers, build_presence)]
    drawn = build_presence(runs / "drawn", images=True)
    recorded = (detection_run, classification_run, generation_run, hostile)
    pages = [write_run_report(run) for run in (*recorded, *evaluated, drawn)]
    pages.append(write_comparison([detection_run, classification_run, hostile], tmp_path / "comparison.html"))
    pages.append(write_comparison([detection_run, other], tmp_path / "pair.html"))
    with Browser() as browser:
        for page in pages:
            for width in (1280, 400):
                for dark in (False, True):
                    browser.open(page, width, dark)
                    browser.value(OPEN_ALL)  # folded parts as well
                    where = f"{page} at {width}, {'dark' if dark else 'light'}"
                    assert browser.problems() == [], where
                    assert browser.requests() == [page.resolve().as_uri()]
                    assert browser.value("document.documentElement.scrollWidth") <= width, where
                    assert (smallest := browser.value(SMALLEST_TEXT)) >= 9.5, f"{where}: text of {smallest:.1f} px"
                    assert browser.value(LOWEST_CONTRAST) >= 4.5, where
                    assert browser.value(OVERLAPPING) == [], where
        for name, value in (("script", "document.scripts.length"), ("img", "document.images.length")):
            assert browser.value(value) == 0, name
