"""Detectors of ultralytics, by the library's own exporter, compared on real images before non-maximum suppression.

The exported file is AGPL-3.0 as the library is; the model card says so.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np

from clarion.errors import ClarionError
from clarion.exporting import Job
from clarion.exporting_networks import OPSET, difference, in_fresh_process, quiet, require


def inputs_of(job: Job, predictor: Any) -> Any:
    """float32 [n, 3, h, w] in 0..1: the job's images as the predictor letterboxes them, those of one shape."""
    import torch

    from clarion.trainers.ultralytics_predictor import load_image

    images = [load_image(s.inputs["image"], predictor.imgsz, predictor.stride).pixels for s in job.samples]
    same = [i for i in images if i.shape == images[0].shape]
    return torch.from_numpy(np.stack(same)).float() / 255


def outputs_of(model: Any, images: Any) -> np.ndarray:
    """[n, 4 + classes, anchors]: boxes (centre, width, height, px) and scores, before suppression."""
    import torch

    with torch.inference_mode():
        found = model(images)
    return (found[0] if isinstance(found, (list, tuple)) else found).float().numpy()


def relative(expected: np.ndarray, found: np.ndarray, size: int) -> float:
    """Largest difference, boxes in shares of the image's side and scores as they are: one tolerance for both."""
    scale = np.ones((1, expected.shape[1], 1))
    scale[:, :4] = size
    return difference([expected / scale], [found / scale]) if expected.shape == found.shape else float("inf")


def exported(job: Job, form: str) -> tuple[Path, Any]:
    """(the file that the library's exporter wrote, the predictor of the checkpoint)."""
    from clarion.trainers import ultralytics_checkpoint, ultralytics_setup

    ultralytics_setup.prepare()
    from ultralytics.engine.exporter import Exporter

    predictor = job.predictor()
    network, record = ultralytics_checkpoint.load(job.checkpoint, job.cfg.model.get("network_class"))
    network.pt_path = str(job.folder / "model.pt")  # the exporter names its file after it
    network.task = "detect"
    settings = {"format": form, "imgsz": record["imgsz"], "dynamic": True, "simplify": False, "opset": OPSET,
                "device": "cpu", "batch": 2, "verbose": False}  # fmt: skip
    if form == "torchscript":
        del settings["opset"], settings["simplify"]  # the library refuses what a format does not have
    with quiet(), contextlib.redirect_stdout(sys.stderr):
        path = Path(str(Exporter(overrides=settings)(model=network)))
    if not path.is_file():
        raise ClarionError(f"ultralytics' exporter wrote no {form} file of model={job.cfg.model.name}.")
    return path, predictor


def said(job: Job, predictor: Any, images: Any, expected: np.ndarray, found: np.ndarray) -> dict[str, Any]:
    return {
        "max_difference": relative(expected, found, predictor.imgsz),
        "difference_of": "boxes in shares of the image's side, and scores, before non-maximum suppression",
        "inputs": {"images": {"dtype": "float32", "shape": ["batch", 3, "height", "width"]}},
        "outputs": ["output0"],
        "meaning": {"images": f"RGB in 0..1, long side {predictor.imgsz} px, letterboxed with grey 114/255",
                    "output0": "float32 [batch, 4 + classes, anchors]: centre x, y, width, height in px; scores"},
        "facts": {"class_names": predictor.class_names, "imgsz": predictor.imgsz, "stride": predictor.stride,
                  "confidence": predictor.conf, "iou": predictor.iou, "max_det": predictor.max_det},
    }  # fmt: skip


def onnx(job: Job) -> dict[str, Any]:
    """model.onnx, batch and image size free, run by onnxruntime in a fresh process."""
    require("onnx", "onnxruntime")
    path, predictor = exported(job, "onnx")
    images = inputs_of(job, predictor)
    expected = outputs_of(predictor.model, images)
    found = in_fresh_process(path, {"images": images.numpy()})["output0"]
    return said(job, predictor, images, expected, found) | {
        "opset": OPSET, "checked_by": "onnxruntime, fresh process"}  # fmt: skip


def torchscript(job: Job) -> dict[str, Any]:
    """model.torchscript, read again."""
    import torch

    path, predictor = exported(job, "torchscript")
    images = inputs_of(job, predictor)
    with quiet():
        found = outputs_of(torch.jit.load(str(path), map_location="cpu"), images)
    return said(job, predictor, images, outputs_of(predictor.model, images), found) | {
        "checked_by": f"torch {torch.__version__}"}  # fmt: skip


def safetensors(job: Job) -> dict[str, Any]:
    """weights.safetensors and network.json as the checkpoint holds them, read into a fresh network."""
    from clarion.trainers import ultralytics_checkpoint

    predictor = job.predictor()
    for name in ("weights.safetensors", "network.json"):
        shutil.copyfile(job.checkpoint / name, job.folder / name)
    again, _ = ultralytics_checkpoint.load(job.folder, job.cfg.model.get("network_class"))
    images = inputs_of(job, predictor)
    found = outputs_of(again.fuse(verbose=False), images)
    return said(job, predictor, images, outputs_of(predictor.model, images), found) | {
        "checked_by": "Clarion's own reader"}  # fmt: skip
