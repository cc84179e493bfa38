"""Detections for images, pre-processed as the library's validation does, so that both give the same scores."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import torch
import torchvision  # noqa: F401  (the library's NMS uses torchvision's only if it is imported)
from ultralytics.data.augment import LetterBox
from ultralytics.utils.nms import non_max_suppression
from ultralytics.utils.patches import imread

from clarion.errors import DataError
from clarion.trainers.base import Prediction, Sample

MAX_SIDE = 20_000  # px; a larger image is a decompression bomb or no B-scan


@dataclass
class _Image:
    """One image ready for the network: pixels uint8 [3, h, w] RGB, and what maps boxes back to the original."""

    pixels: np.ndarray
    gain: tuple[float, float]  # size in the network / original size: x, y
    padding: tuple[float, float]  # left, top, px

    def to_original(self, boxes: torch.Tensor) -> torch.Tensor:
        """Map boxes [n, 6] (x1, y1, x2, y2, ...) from the network's picture to this image's own pixels.

        They are not clipped to the image: validation measures a box that overhangs the edge as it is.
        """
        scaled = boxes.clone()
        scaled[:, 0:4] = (boxes[:, 0:4] - boxes.new_tensor(self.padding * 2)) / boxes.new_tensor(self.gain * 2)
        return scaled


def load_image(file: Path | np.ndarray, imgsz: int, stride: int) -> _Image:
    """Read and letterbox one image: long side to `imgsz`, padding to a multiple of `stride` with half a cell to spare.

    This is validation with rect=True for a batch of one. Grey and 16-bit images become 8-bit RGB. A grey uint8 array
    [height, width] is taken as it is. Raises DataError, naming the file, when it cannot be read.
    """
    held = isinstance(file, np.ndarray)
    pixels = cv2.cvtColor(file, cv2.COLOR_GRAY2BGR) if held else imread(file, flags=cv2.IMREAD_COLOR)
    if pixels is None or pixels.size == 0 or max(pixels.shape) > MAX_SIDE:
        raise DataError(f"image {file} cannot be read; replace it or take its sample out of the data set.")
    height, width = pixels.shape[:2]
    ratio = imgsz / max(height, width)
    if ratio != 1:
        size = min(math.ceil(width * ratio), imgsz), min(math.ceil(height * ratio), imgsz)
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR)
    gain = pixels.shape[1] / width, pixels.shape[0] / height
    target = [math.ceil(side * imgsz / stride + 0.5) * stride
              for side in (min(height / width, 1.0), 1.0 if height <= width else 1 / (height / width))]
    box = LetterBox(target, scaleup=False)
    layout = box.get_params({"img": pixels})
    pixels = box(image=pixels)
    gain = gain[0] * layout["ratio"][0], gain[1] * layout["ratio"][1]
    return _Image(np.ascontiguousarray(pixels[..., ::-1].transpose(2, 0, 1)), gain, (layout["left"], layout["top"]))


class DetectionPredictor:
    """Trained detector: samples with inputs["image"] (a path or a grey array) -> boxes [x1, y1, x2, y2] in original
    pixels, scores, labels.

    Streaming: holds one chunk of `batch_size` images. Confidence .001, NMS IoU .7 and at most 300 boxes an image are
    the library's validation settings. autocast: dtype for mixed precision on CUDA (None: fp32).
    """

    def __init__(
        self, model: torch.nn.Module, imgsz: int, batch_size: int, device: torch.device | str, *,
        autocast: torch.dtype | None = None, conf: float = 0.001, iou: float = 0.7, max_det: int = 300,
        agnostic: bool = False, workers: int = 0,
    ):  # fmt: skip
        self.device = torch.device(device)
        self.model = model.eval().to(self.device)
        self.stride = max(int(max(model.stride)), 32)
        self.class_names = [model.names[i] for i in range(len(model.names))]
        self.imgsz, self.batch_size, self.autocast = imgsz, max(int(batch_size), 1), autocast
        self.conf, self.iou, self.max_det, self.agnostic = conf, iou, max_det, agnostic
        self.workers = workers

    def __call__(self, samples: Iterable[Sample]) -> Iterator[Prediction]:
        """One Prediction for each sample, in order; an image without a box gives empty lists."""
        rest = iter(samples)
        with ThreadPoolExecutor(max(self.workers, 1)) as pool:
            while chunk := list(islice(rest, self.batch_size)):
                files = [sample.inputs["image"] for sample in chunk]
                images = list(pool.map(lambda file: load_image(file, self.imgsz, self.stride), files))
                for sample, boxes in zip(chunk, self._detect(images), strict=True):
                    yield Prediction(sample.sample_id, sample.patient_id, {
                        "boxes": boxes[:, :4].tolist(), "scores": boxes[:, 4].tolist(),
                        "labels": boxes[:, 5].int().tolist(),
                    })  # fmt: skip

    @torch.inference_mode()
    def _detect(self, images: list[_Image]) -> list[torch.Tensor]:
        """Boxes [n, 6] = x1, y1, x2, y2 (original pixels), score, class, for each image."""
        found: list[torch.Tensor] = [torch.empty(0, 6)] * len(images)
        for shape in dict.fromkeys(image.pixels.shape for image in images):  # images of one size make one batch
            at = [i for i, image in enumerate(images) if image.pixels.shape == shape]
            batch = torch.from_numpy(np.stack([images[i].pixels for i in at])).to(self.device).float() / 255
            for i, boxes in zip(at, self._forward(batch), strict=True):
                found[i] = images[i].to_original(boxes.cpu())
        return found

    def _forward(self, batch: torch.Tensor) -> list[torch.Tensor]:
        with torch.autocast(self.device.type, self.autocast or torch.bfloat16, enabled=self.autocast is not None):
            output = self.model(batch)
        output = output[0] if isinstance(output, (list, tuple)) else output
        # max_time_img: the library gives up on the rest of a batch after a wall-clock limit, which would drop boxes
        # of a slow machine in silence.
        return non_max_suppression(
            output.float(), self.conf, self.iou, agnostic=self.agnostic, multi_label=True, max_det=self.max_det,
            max_time_img=3600.0,
        )  # fmt: skip
