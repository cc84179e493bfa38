"""Speed of the ERM phantom: painting against the plain loop over A-scans, and B-scans/s of a written data set.

Run: python benchmarks/phantom.py     (under a minute on 2 cores; the last line is JSON)

The peer paints the same section one A-scan at a time, with numpy inside each A-scan: what one writes first. It gets
the same surfaces, greys, lines, choroid decay and vessel shadows, and the same two noise fields; it is spared the
choroid's texture and the mottling of layers. Both run in this process, taking turns, on one thread, in CPU time, so
that a busy machine does not favour either. The data set is timed by the clock and, for a busy machine, by CPU time.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time

import cv2
import numpy as np

from clarion.oct.phantom import make_eye, write_detection_folder
from clarion.oct.phantom.eye import draw_look
from clarion.oct.phantom.render import FWHM_TO_SD, GREY, Look, Section, paint
from clarion.oct.phantom.speckle import shot_noise, speckle

SCANS = 12
EYES = 16
LAYERS = ("RNFL", "GCL", "INL", "OPL", "ONL", "EZ-RPE", "RPE-BM")


def paint_by_column(rng: np.random.Generator, cut: Section, look: Look, depth: int) -> np.ndarray:
    """The peer: one A-scan after the other."""
    width = cut.membrane.size
    grain, noise = speckle(rng, (depth, width)), shot_noise(rng, (depth, width), look.noise_mean, look.noise_zero)
    rows = np.arange(depth)
    image = np.zeros((depth, width), np.uint8)
    for c in range(width):
        surfaces = cut.surfaces[:, c]
        column = np.zeros(depth)
        if cut.presence[c]:
            column[(rows >= cut.membrane[c]) & (rows < surfaces[0])] = GREY["gap"]
        for k, layer in enumerate(LAYERS):
            column[(rows >= surfaces[k]) & (rows < surfaces[k + 1])] = GREY[layer]
        below = rows - surfaces[7]
        column = np.where(below > 0, GREY["choroid"] * np.exp(-np.maximum(below, 0) / 45), column)
        top, peak = (cut.membrane[c], 213.0) if cut.presence[c] else (surfaces[0], 140.0 + cut.reflex[c])
        for centre, height, fwhm in ((top, peak, 5.0), (surfaces[5], 190.0, 5.5), (surfaces[6] + 2, 232.0, 11.0)):
            column = np.maximum(column, height * np.exp(-0.5 * ((rows - centre) / (fwhm * FWHM_TO_SD)) ** 2))
        column = np.where(rows > surfaces[0] + 12, column * (1 - 0.42 * cut.vessels[c]), column)
        column = column * np.exp(look.speckle * grain[:, c] - 0.5 * look.speckle**2) + noise[:, c]
        image[:, c] = np.clip(column, 0, 255)
    return image


def cpu_seconds() -> float:
    """CPU time of this process and of its finished children."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def main() -> None:
    cv2.setNumThreads(1)
    ours, peer = [], []
    eye = make_eye(3, 2)
    for line in range(SCANS):
        rng = np.random.default_rng(line)
        cut, look = eye.section(rng, "H", line), draw_look(eye.seed, rng)
        start = time.process_time()
        paint(rng, cut, look, 496, 3.872)
        middle = time.process_time()
        paint_by_column(rng, cut, look, 496)
        ours.append(middle - start)
        peer.append(time.process_time() - middle)
    milliseconds = [1000 * statistics.median(times) for times in (ours, peer)]
    print("painting one B-scan: {:.1f} ms; by column: {:.1f} ms of CPU time".format(*milliseconds))

    workers = min(2, os.cpu_count() or 1)
    with tempfile.TemporaryDirectory() as folder:
        start, used = time.perf_counter(), cpu_seconds()
        write_detection_folder(folder, {"train": EYES}, bscans_per_eye=10, workers=workers)
        rate, used = EYES * 10 / (time.perf_counter() - start), cpu_seconds() - used
    by_cpu = workers * EYES * 10 / used
    print(f"data set with PNG and labels, start of {workers} processes included: {rate:.0f} B-scans/s by the clock, "
          f"{by_cpu:.0f} by CPU time ({EYES * 10} B-scans, load {os.getloadavg()[0]:.1f})")  # fmt: skip
    ratios = sorted(b / a for a, b in zip(ours, peer, strict=True))
    result = {
        "name": "phantom_painting",
        "ratio": round(statistics.median(ratios), 2),
        "ratio_low": round(ratios[0], 2),
        "ratio_high": round(ratios[-1], 2),
        "peer": "the same section painted one A-scan at a time (numpy per A-scan)",
        "n": SCANS,
        "bscans_per_s": round(rate, 1),
        "bscans_per_s_by_cpu_time": round(by_cpu, 1),
        "workers": workers,
        "load": round(os.getloadavg()[0], 1),
        "python": sys.version.split()[0],
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
