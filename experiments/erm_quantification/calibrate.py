"""Learn what the shipped networks get wrong, on phantom eyes of seeds 800,000 to 899,999, and keep it where it is used.

    python experiments/erm_quantification/calibrate.py [area] [repeatability] [thickness] [--eyes N]

    area           src/clarion/oct/area_calibration.json   rule, gain and error of the area found by head and boxes
    repeatability  src/clarion/oct/repeatability.json      what two scans of an unchanged eye differ by
    thickness      src/clarion/oct/thickness_error.json    root mean square error of sector thickness, um

To be run again whenever a shipped network changes. No test eye (seeds from 900,000) is looked at.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import numpy as np
import torch

from clarion import quantifying
from clarion.oct.phantom import make_eye
from clarion.oct.quantify import detect
from clarion.oct.validation import area, progression, thickness
from clarion.oct.validation.eyes import true_volume
from clarion.record import now, to_json, write_atomic

ROOM = Path(__file__).resolve().parents[2] / "src" / "clarion" / "oct"
FIRST = 800_000
PARTS = ("area", "repeatability", "thickness")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="default: all")
    parser.add_argument("--eyes", type=int, default=None, help="default: 150 for area, 50, 40")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    models = quantifying.open_models(quantifying.DETECTOR, quantifying.LAYERS, quantifying.PRESENCE, "head", "cpu")
    hashes = {name: models[name].source["hash"] for name in ("layers", "presence", "detector")}
    for part in args.parts or PARTS:
        logging.info("calibrating %s", part)
        {"area": _area, "repeatability": _repeatability, "thickness": _thickness}[part](models, hashes, args.eyes)


def _area(models: dict, hashes: dict, eyes: int | None) -> None:
    def boxes(volume):
        """Extents that count: score 1 from the detector's operating confidence on, as `quantify` takes them."""
        return [np.column_stack([b[:, :4], np.ones(len(b))]) for b in detect(volume, models["detector"])]

    predictors = {"layers": models["layers"].predictor, "presence": models["presence"].predictor, "boxes": boxes}
    found = area.calibration(eyes or 150, predictors=predictors)
    write_atomic(ROOM / "area_calibration.json", to_json({**found, "made": {"at": now(), "models": hashes}}))


def _repeatability(models: dict, hashes: dict, eyes: int | None) -> None:
    progression.measure_repeatability(
        eyes or 50,
        layers_predictor=models["layers"].predictor,
        presence_predictor=models["presence"].predictor,
        path=ROOM / "repeatability.json",
    )


def _thickness(models: dict, hashes: dict, eyes: int | None) -> None:
    """Root mean square error by sector kind: bias and scatter together, as an interval around a reading needs."""
    count = eyes or 40
    squares: dict[str, list[float]] = {}
    for k in range(count):
        eye = make_eye(FIRST + 70_000 + k, k % 5)
        volume, _, _ = true_volume(eye, render=True)
        both = thickness._from_pictures(eye, volume, thickness._predict(models["layers"].predictor, volume))
        for name, truth in both["truth"].items():
            if name != "volume":
                error = np.atleast_1d(np.asarray(both["measured"][name]) - np.asarray(truth))
                squares.setdefault("CSF" if name == "csf" else name, []).extend(np.square(error[np.isfinite(error)]))
    rmse = {name: round(float(np.sqrt(np.mean(values))), 2) for name, values in squares.items()}
    made = {"rmse_um": rmse, "n_eyes": count, "data": "phantom", "made": {"at": now(), "models": hashes}}
    write_atomic(ROOM / "thickness_error.json", to_json(made))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
