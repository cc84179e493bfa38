"""The original, anchor-based YOLOv5 (release 6.0, sizes s, m, l, x) in ultralytics' present-day training code.

Ultralytics still ships YOLOv5's backbone and neck, but with an anchor-free head ("yolov5u", 9.1 M parameters at
size s). Here the same backbone and neck end in the original head: one 1x1 convolution a level, predicting for each
of three anchors a box, an objectness and the classes (7.0 M parameters).
Method: Jocher et al., YOLOv5 v6.0, doi 10.5281/zenodo.5563715.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import nn
from ultralytics.nn.tasks import DetectionModel, parse_model, yaml_model_load
from ultralytics.utils.torch_utils import initialize_weights

from clarion.detectors.anchors import adapt_anchors
from clarion.detectors.yolov5_loss import YOLOv5Loss

# Width, height in px of the three anchors of each level (strides 8, 16, 32), fitted to COCO at 640 px.
COCO_ANCHORS = (
    ((10, 13), (16, 30), (33, 23)),
    ((30, 61), (62, 45), (59, 119)),
    ((116, 90), (156, 198), (373, 326)),
)
PRIOR_IMAGE_SIDE, PRIOR_OBJECTS, PRIOR_CLASS = 640, 8, 0.6  # the initial biases expect 8 objects on a 640 px image


class AnchorHead(nn.Module):
    """Turns feature maps into boxes: `na` anchors a cell, each with 4 box numbers, 1 objectness, nc class logits.

    anchors: [levels, na, 2] width, height in px; channels: of each level's feature map.
    """

    def __init__(self, nc: int, anchors, channels: list[int]):
        super().__init__()
        anchors = torch.as_tensor(anchors, dtype=torch.float32)
        self.nc, self.no = nc, nc + 5
        self.nl, self.na = anchors.shape[:2]
        self.register_buffer("anchors", anchors)
        self.register_buffer("stride", torch.zeros(self.nl), persistent=False)
        self.m = nn.ModuleList(nn.Conv2d(c, self.na * self.no, 1) for c in channels)

    def forward(self, features: list[torch.Tensor]):
        """features: a map [b, c, h, w] a level.

        Training: raw logits, [b, na, h, w, nc + 5] a level. Evaluation: (decoded [b, 4 + nc, boxes], raw logits).
        """
        raw = []
        for convolution, x in zip(self.m, features, strict=True):
            y = convolution(x)
            b, _, h, w = y.shape
            raw.append(y.view(b, self.na, self.no, h, w).permute(0, 1, 3, 4, 2).contiguous())
        return raw if self.training else (self.decode(raw), raw)

    def decode(self, raw: list[torch.Tensor]) -> torch.Tensor:
        """Raw logits -> [b, 4 + nc, boxes]: centre x, centre y, width, height in px, and objectness x class.

        With s the sigmoid: centre = (2 s - 0.5 + cell) stride, size = (2 s)^2 anchor. In fp32: half precision
        resolves only 0.5 px beyond 512 px.
        """
        levels = []
        for level, logits in enumerate(raw):
            p = logits.float().sigmoid()
            b, _, h, w, _ = p.shape
            cell = grid(h, w, p.device)
            xy = (p[..., 0:2] * 2 - 0.5 + cell) * self.stride[level].float()
            wh = (p[..., 2:4] * 2) ** 2 * self.anchors[level].float().view(1, self.na, 1, 1, 2)
            scores = p[..., 4:5] * p[..., 5:]
            levels.append(torch.cat((xy, wh, scores), -1).view(b, -1, self.no - 1))
        return torch.cat(levels, 1).transpose(1, 2)

    def set_prior(self) -> None:
        """Biases such that the untrained head expects few objects: log-odds of 8 objects spread over the cells."""
        for convolution, stride in zip(self.m, self.stride.tolist(), strict=True):
            bias = convolution.bias.detach().view(self.na, self.no)
            bias[:, 4] += math.log(PRIOR_OBJECTS / (PRIOR_IMAGE_SIDE / stride) ** 2)
            bias[:, 5:] += math.log(PRIOR_CLASS / (self.nc - 0.99999))  # one class: ~1, as the published loss skips it

    def adapt(self, sizes, seed: int = 0) -> bool:
        """Fit the anchors to object sizes [n, 2] (px at the training image size) if they do not fit already."""
        return adapt_anchors(self.anchors, sizes, seed)


def grid(h: int, w: int, device: torch.device) -> torch.Tensor:
    """Column and row of every cell, [h, w, 2] float."""
    rows, columns = torch.meshgrid(torch.arange(h, device=device), torch.arange(w, device=device), indexing="ij")
    return torch.stack((columns, rows), -1).float()


class YOLOv5(DetectionModel):
    """YOLOv5 for ultralytics' trainer, validator and predictor: same attributes as its DetectionModel.

    cfg: name of ultralytics' structure ("yolov5s.yaml") or its content as a dict; its last layer, the anchor-free
    head, is replaced. A key `anchors` in the dict replaces the COCO anchors.
    """

    def __init__(self, cfg: str | dict = "yolov5s.yaml", ch: int = 3, nc: int | None = None, verbose: bool = True):
        nn.Module.__init__(self)  # not DetectionModel's: it would build and initialise the anchor-free head
        self.yaml = copy.deepcopy(cfg) if isinstance(cfg, dict) else yaml_model_load(cfg)
        self.yaml["channels"] = ch
        self.yaml["nc"] = nc = nc or self.yaml["nc"]
        self.names = {i: str(i) for i in range(nc)}
        self.inplace = True
        self.task = "detect"

        body = copy.deepcopy(self.yaml)
        levels, *_ = body["head"].pop()
        self.model, self.save = parse_model(body, ch=ch, verbose=verbose)
        channels = [self.model[i].cv3.conv.out_channels for i in levels]
        head = AnchorHead(nc, self.yaml.get("anchors", COCO_ANCHORS), channels)
        head.i, head.f, head.type = len(self.model), list(levels), "clarion.detectors.yolov5.AnchorHead"
        head.np = sum(p.numel() for p in head.parameters())
        self.model.append(head)
        self.save = sorted({*self.save, *levels})
        initialize_weights(self)
        self._measure_strides(ch)
        head.set_prior()

    def _measure_strides(self, channels: int, side: int = 256) -> None:
        """Strides of the levels, from the shapes of one forward pass (without touching batch statistics)."""
        head = self.model[-1]
        self.eval()
        head.train()
        with torch.no_grad():
            raw = self.forward(torch.zeros(1, channels, side, side, device=head.anchors.device))
        strides = [side / level.shape[2] for level in raw]
        self.train()
        head.stride = torch.tensor(strides, device=head.anchors.device)
        self.stride = torch.tensor(strides, device="cpu")

    def init_criterion(self) -> YOLOv5Loss:
        """The loss of the published method; called by the library at the first batch."""
        return YOLOv5Loss(self)

    def set_head_attr(self, **kwargs) -> None:
        """Nothing: the library sets limits of heads that suppress duplicates themselves, which this one does not."""
