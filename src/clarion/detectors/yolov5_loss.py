"""YOLOv5's loss: which cell and anchor answers for which object, and what it costs them to be wrong.

Method: Jocher et al., YOLOv5 v6.0, doi 10.5281/zenodo.5563715. Box: complete IoU (Zheng et al., AAAI 2020).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn
from ultralytics.utils import DEFAULT_CFG
from ultralytics.utils.metrics import bbox_iou

MAX_RATIO = 4.0  # an anchor answers for objects up to 4 times wider, narrower, taller or flatter than itself
BOX_GAIN, OBJECT_GAIN, CLASS_GAIN = 0.05, 1.0, 0.5  # published gains, for 640 px, 80 classes, 3 levels
LEVEL_BALANCE = {3: (4.0, 1.0, 0.4), 5: (4.0, 1.0, 0.25, 0.06, 0.02)}  # objectness weight of a level, fine to coarse
NEIGHBOURS = ((0, 0), (-1, 0), (0, -1), (1, 0), (0, 1))  # column, row steps: the cell itself, left, up, right, down


class Matches(NamedTuple):
    """Predictions of one level made responsible for objects; all of length m."""

    image: torch.Tensor  # index in the batch
    anchor: torch.Tensor
    row: torch.Tensor
    column: torch.Tensor
    box: torch.Tensor  # [m, 4] centre relative to that cell, width, height: in cells
    label: torch.Tensor


def match(targets: torch.Tensor, anchors: torch.Tensor, height: int, width: int) -> Matches:
    """Assign objects to anchors and cells of one level.

    targets: [n, 6] image, class, centre x, centre y, width, height (relative to the image, 0-1);
    anchors: [na, 2] in cells; height, width: of the level, in cells.
    An anchor takes an object if neither side differs by a factor of 4 or more. Beside the cell that holds the
    centre, the two nearest neighbours answer too: left or right, and up or down, by which half the centre is in.
    """
    size = targets.new_tensor([width, height])
    centre, wh = targets[:, 2:4] * size, targets[:, 4:6] * size
    ratio = wh[None] / anchors[:, None]  # [na, n, 2]
    anchor, object_ = torch.where(torch.maximum(ratio, 1 / ratio).amax(-1) < MAX_RATIO)

    centre, wh = centre[object_], wh[object_]
    home = torch.minimum(centre.floor(), size - 1).clamp_(min=0)
    fraction = centre - home
    step = targets.new_tensor(NEIGHBOURS)[:, None]  # [5, 1, 2]
    cell = home[None] + step
    near = torch.where(step < 0, fraction < 0.5, fraction > 0.5) | (step == 0)  # the centre lies towards that side
    inside = (cell >= 0) & (cell < size)
    direction, pair = torch.where((near & inside).all(-1))

    cell, object_ = cell[direction, pair], object_[pair]
    column, row = cell.long().unbind(-1)
    box = torch.cat((centre[pair] - cell, wh[pair]), -1)
    return Matches(targets[object_, 0].long(), anchor[pair], row, column, box, targets[object_, 1].long())


class YOLOv5Loss:
    """Box, objectness and class loss of raw head outputs, in the form the library's trainer expects.

    model: a YOLOv5 with `.args` (the training settings: `imgsz`; `box` and `cls` scale the published gains by their
    ratio to the library's defaults, so that a sweep over them acts on this network too).
    """

    def __init__(self, model: nn.Module):
        head, args = model.model[-1], getattr(model, "args", None) or DEFAULT_CFG
        self.head, self.nc = head, head.nc
        levels = 3 / head.nl
        self.box_gain = BOX_GAIN * levels * args.box / DEFAULT_CFG.box
        self.class_gain = CLASS_GAIN * levels * head.nc / 80 * args.cls / DEFAULT_CFG.cls
        # Published: x (imgsz / 640)^2. At 192 px that starves the objectness beside the box loss: on the phantom
        # (600 B-scans, 12 epochs, yolov5s) mAP50 was .175; without it, and with fitted anchors, .270. Equal at 640 px.
        self.object_gain = OBJECT_GAIN * levels * max(args.imgsz / 640, 1.0) ** 2
        self.balance = LEVEL_BALANCE.get(head.nl, (1.0,) * head.nl)
        self.object_bce = nn.BCEWithLogitsLoss()
        self.class_bce = nn.BCEWithLogitsLoss(weight=getattr(model, "class_weights", None))

    def __call__(self, preds: Any, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """preds: output of the head (training or evaluation form); batch: batch_idx [n], cls [n, 1], bboxes [n, 4].

        Returns (loss [3] x batch size: box, objectness, class; the same three by name, detached, per image).
        """
        raw = preds[1] if isinstance(preds, tuple) else preds
        device = raw[0].device
        targets = torch.cat((batch["batch_idx"].view(-1, 1), batch["cls"].view(-1, 1), batch["bboxes"]), 1)
        targets = targets.to(device).float()
        targets = targets[(targets[:, 4:6] > 0).all(1)]
        loss = torch.zeros(3, device=device)
        for level, logits in enumerate(raw):
            loss = loss + self._level(level, logits, targets)
        gains = loss.new_tensor([self.box_gain, self.object_gain, self.class_gain])
        loss = loss * gains
        names = ("box_loss", "obj_loss", "cls_loss")
        return loss * raw[0].shape[0], dict(zip(names, loss.detach(), strict=True))

    def _level(self, level: int, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Box, objectness (balanced) and class loss of one level, [3], without gains. logits: [b, na, h, w, nc + 5]."""
        b, na, h, w, _ = logits.shape
        anchors = self.head.anchors[level].float() / self.head.stride[level].float()
        wanted = torch.zeros(b, na, h, w, device=logits.device)
        box_loss = class_loss = torch.zeros((), device=logits.device)
        m = match(targets, anchors, h, w)
        if len(m.image):
            picked = logits[m.image, m.anchor, m.row, m.column].float()
            xy = picked[:, 0:2].sigmoid() * 2 - 0.5
            wh = (picked[:, 2:4].sigmoid() * 2) ** 2 * anchors[m.anchor]
            iou = bbox_iou(torch.cat((xy, wh), -1), m.box, xywh=True, CIoU=True).squeeze(-1)
            box_loss = (1 - iou).mean()
            # Where objects share a cell and anchor, the better box sets the objectness (any order, same result).
            index = ((m.image * na + m.anchor) * h + m.row) * w + m.column
            wanted.view(-1).scatter_reduce_(0, index, iou.detach().clamp(min=0).float(), "amax")
            if self.nc > 1:
                one_hot = nn.functional.one_hot(m.label, self.nc).float()
                class_loss = self.class_bce(picked[:, 5:], one_hot)
        object_loss = self.object_bce(logits[..., 4].float(), wanted) * self.balance[level]
        return torch.stack((box_loss, object_loss, class_loss))
