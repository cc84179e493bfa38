"""Pictures of report.html for the documentation: python docs/screenshots.py RUN [RUN ...]   (needs chromium)

Writes docs/report_TASK.webp (the top), docs/report_TASK_cases.webp and docs/report_TASK_narrow.webp (a telephone, dark)
for the first run of each task, and docs/report_comparison.webp where two runs are of one task. Phantom data alone: a
run on any other is refused. Without a recorded run, `python train.py experiment=demo` makes one.
"""

from __future__ import annotations

import argparse
import io
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

from clarion.report import write_comparison, write_run_report
from clarion.report.files import read_run

DOCS = Path(__file__).resolve().parent
BUDGET = 300_000  # bytes of all pictures together
WIDE, NARROW = (1280, 1500), (400, 900)


def shoot(browser: str, page: Path, size: tuple[int, int], section: str = "", dark: bool = False) -> Image.Image:
    """The page in a window of `size`, or one section of it (its id) with the page's head."""
    with tempfile.TemporaryDirectory() as folder:
        out, shown = Path(folder) / "shot.png", Path(folder) / "page.html"
        alone = f"<style>section:not(#{section}) {{ display: none }}</style></head>" if section else "</head>"
        shown.write_text(page.read_text(encoding="utf-8").replace("</head>", alone, 1), encoding="utf-8")
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        flags += [f"--user-data-dir={folder}/profile", f"--window-size={size[0]},{size[1]}", f"--screenshot={out}"]
        flags += ["--blink-settings=preferredColorScheme=0"] if dark else []
        subprocess.run([browser, *flags, shown.as_uri()], check=True, capture_output=True, timeout=300)
        return Image.open(io.BytesIO(out.read_bytes())).convert("RGB")


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    runs = [read_run(path) for path in parser.parse_args(argv).runs]
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        return refuse("chromium is not installed: apt-get install chromium")
    if other := [run.name for run in runs if run.data_kind != "phantom"]:
        return refuse(f"{', '.join(other)}: not on phantom data, so its page is not published")
    by_task: dict[str, list] = {}
    for run in runs:
        by_task.setdefault(str(run.config.get("model", {}).get("task")), []).append(run)
    pictures = {}
    for task, found in by_task.items():
        page = write_run_report(found[0].directory)
        pictures[f"report_{task}"] = shoot(browser, page, WIDE)
        pictures[f"report_{task}_cases"] = shoot(browser, page, WIDE, "examples" if task == "generation" else "cases")
        pictures[f"report_{task}_narrow"] = shoot(browser, page, NARROW, dark=True)
        if len(found) > 1 and "report_comparison" not in pictures:
            with tempfile.TemporaryDirectory() as folder:
                page = write_comparison([run.directory for run in found], Path(folder) / "comparison.html")
                pictures["report_comparison"] = shoot(browser, page, WIDE)
    for quality in (80, 65, 50, 35):  # text stays sharp well below a photograph's quality
        encoded = {name: encode(picture, quality) for name, picture in pictures.items()}
        if sum(map(len, encoded.values())) <= BUDGET:
            break
    else:
        return refuse(f"the pictures exceed {BUDGET // 1000} kB together: give fewer runs")
    for name, content in encoded.items():
        (DOCS / f"{name}.webp").write_bytes(content)
        print(DOCS / f"{name}.webp", f"{len(content) / 1000:.0f} kB")
    return 0


def encode(picture: Image.Image, quality: int) -> bytes:
    smaller = picture.resize((picture.width * 3 // 4, picture.height * 3 // 4), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    smaller.save(buffer, "WEBP", quality=quality, method=6)
    return buffer.getvalue()


def refuse(why: str) -> int:
    print(why, file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
