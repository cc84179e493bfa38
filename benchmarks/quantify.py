"""A study's 50 B-scans (496x768): seconds and memory of `clarion quantify` after imports and model load, detection
aside; and batched detection against the library's own `model.predict`, one picture at a time, in the same process.

    python benchmarks/quantify.py

The last line is JSON: ratio is one-by-one time over batched time.
"""

from __future__ import annotations

import argparse
import json
import logging
import resource
import statistics
import sys
import time
import warnings

import numpy as np


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    logging.disable(logging.INFO)
    warnings.filterwarnings("ignore")

    import torch

    from clarion.oct.phantom import make_eye
    from clarion.oct.quantify import detect, measure
    from clarion.oct.readers import phantom_volume
    from clarion.quantifying import DETECTOR, LAYERS, PRESENCE, open_models

    torch.set_num_threads(args.threads)
    volume = phantom_volume(make_eye(950_000, stage=3))
    models = open_models(None, LAYERS, PRESENCE, "head", args.device)
    measure(volume, **models)  # warm up: kernels, caches
    study_s, steps = [], {}
    for _ in range(args.repeats):
        began = time.perf_counter()
        study = measure(volume, **models)
        study_s.append(time.perf_counter() - began)
        steps = study.timings_s
    # ru_maxrss is in KiB on Linux
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform != "darwin" else 1024**2)
    print(f"study: {statistics.median(study_s):.2f} s of {len(volume.scans)} B-scans ({steps}); peak {peak_mb:.0f} MB")

    detector = open_models(DETECTOR, LAYERS, PRESENCE, "boxes", args.device)["detector"]
    predictor = detector.predictor
    library = library_model(predictor)
    pictures = [np.repeat(scan.image[..., None], 3, axis=2) for scan in volume.scans]
    options = {"imgsz": predictor.imgsz, "conf": predictor.conf, "iou": predictor.iou, "verbose": False,
               "device": args.device, "max_det": predictor.max_det}  # fmt: skip
    batched_s, single_s = [], []
    for round_ in range(args.repeats + 1):
        began = time.perf_counter()
        detect(volume, detector)
        middle = time.perf_counter()
        for picture in pictures:
            library.predict(picture, **options)
        if round_:  # the first round warms both up
            batched_s.append(middle - began)
            single_s.append(time.perf_counter() - middle)
    ratio = statistics.median(single_s) / statistics.median(batched_s)
    result = {
        "name": "quantify: 50 B-scans; batched detection",
        "ratio": round(ratio, 2),
        "peer": "ultralytics model.predict, one picture at a time",
        "n": args.repeats,
        "study_s": round(statistics.median(study_s), 2),
        "peak_mb": round(peak_mb),
        "batched_detection_s": round(statistics.median(batched_s), 3),
        "single_detection_s": round(statistics.median(single_s), 3),
        "threads": args.threads,
        "device": args.device,
        "steps_s": steps,
    }
    print(json.dumps(result))


def library_model(predictor):
    """The same network inside ultralytics' own YOLO class."""
    import copy

    from ultralytics import YOLO

    library = YOLO("yolo11n.yaml", task="detect")
    library.model = copy.deepcopy(predictor.model)
    return library


if __name__ == "__main__":
    main()
