"""The original YOLOv5: its size, its matching of objects to anchors, its loss, and its fit into ultralytics."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from clarion.trainers import ultralytics_setup

ultralytics_setup.prepare()

from ultralytics.utils import DEFAULT_CFG  # noqa: E402
from ultralytics.utils.torch_utils import ModelEMA  # noqa: E402

from clarion.detectors.anchors import best_possible_recall  # noqa: E402
from clarion.detectors.yolov5 import COCO_ANCHORS, YOLOv5  # noqa: E402
from clarion.detectors.yolov5_loss import YOLOv5Loss, match  # noqa: E402
from clarion.trainers.ultralytics_checkpoint import build_network  # noqa: E402

OURS = "clarion.detectors.yolov5.YOLOv5"
PUBLISHED_PARAMETERS = {  # at one class, unfused: Baek et al., IEEE Access 13:196887, 2025
    ("yolov5", OURS): {"s": 7_022_326, "m": 20_871_318, "l": 46_138_294, "x": 86_217_814},
    ("yolov8", None): {"s": 11_135_987, "m": 25_856_899, "l": 43_630_611, "x": 68_153_571},
    ("yolo11", None): {"s": 9_428_179, "m": 20_053_779, "l": 25_311_251, "x": 56_874_931},
}


@pytest.fixture(scope="module")
def small() -> YOLOv5:
    torch.manual_seed(0)
    model = YOLOv5("yolov5n.yaml", nc=2, verbose=False)
    model.args = copy.copy(DEFAULT_CFG)
    model.args.imgsz = 64
    return model


def batch_of(boxes, labels, images, size=64, n=2):
    return {
        "img": torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(1)),
        "batch_idx": torch.tensor(images, dtype=torch.float32),
        "cls": torch.tensor(labels, dtype=torch.float32).view(-1, 1),
        "bboxes": torch.tensor(boxes, dtype=torch.float32).view(-1, 4),
    }


@pytest.mark.parametrize(
    ("network", "network_class", "parameters"),
    [(f"{family}{size}.yaml", cls, count)
     for (family, cls), sizes in PUBLISHED_PARAMETERS.items() for size, count in sizes.items()],
)  # fmt: skip
def test_parameter_counts_equal_the_published_ones(network, network_class, parameters):
    model = build_network(network, network_class, nc=1)
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_strides_prior_and_output_layout(small):
    assert small.stride.tolist() == [8, 16, 32]
    model = copy.deepcopy(small).eval()
    decoded, raw = model(torch.zeros(2, 3, 64, 96))
    assert [tuple(r.shape) for r in raw] == [(2, 3, 8, 12, 7), (2, 3, 4, 6, 7), (2, 3, 2, 3, 7)]
    assert decoded.shape == (2, 4 + 2, 3 * (96 + 24 + 6))
    # 8 objects on 6400, 1600 and 400 cells: the prior of objectness, level by level
    objectness = [r[..., 4].sigmoid().mean().item() for r in raw]
    assert objectness == pytest.approx([8 / 6400, 8 / 1600, 8 / 400], rel=0.35)


def test_decoding_inverts_encoding(small):
    """Logits made from wanted boxes must decode to these boxes, in px, in every level."""
    head = small.model[-1]
    generator = torch.Generator().manual_seed(2)
    for level, stride in enumerate((8, 16, 32)):
        raw = [torch.zeros(1, 3, 64 // s, 64 // s, 7) for s in (8, 16, 32)]
        h, w = raw[level].shape[2:4]
        offset = torch.rand(3, h, w, 2, generator=generator) * 1.8 - 0.4  # within -0.5..1.5 cells
        scale = torch.rand(3, h, w, 2, generator=generator) * 3 + 0.3  # within 0..4 anchors
        columns, rows = np.meshgrid(range(w), range(h))
        wanted_xy = (offset + torch.from_numpy(np.stack((columns, rows), -1))) * stride
        wanted_wh = scale * torch.tensor(COCO_ANCHORS[level]).view(3, 1, 1, 2)
        raw[level][0, ..., 0:2] = torch.logit((offset + 0.5) / 2)
        raw[level][0, ..., 2:4] = torch.logit(scale.sqrt() / 2)
        raw[level][0, ..., 4], raw[level][0, ..., 5] = 2.0, -1.0
        decoded = head.decode(raw)[0]
        start = sum(3 * (64 // s) ** 2 for s in (8, 16, 32)[:level])
        part = decoded[:, start:start + 3 * h * w].T.view(3, h, w, 6)
        torch.testing.assert_close(part[..., 0:2], wanted_xy.float(), atol=1e-3, rtol=1e-4)
        torch.testing.assert_close(part[..., 2:4], wanted_wh.float(), atol=1e-3, rtol=1e-4)
        objectness, class_0 = torch.tensor([2.0, -1.0]).sigmoid().tolist()
        assert part[0, 0, 0, 4].item() == pytest.approx(objectness * class_0)


def test_matching_takes_anchors_by_ratio_and_the_two_nearest_cells():
    anchors = torch.tensor([[1.0, 1.0], [2.0, 2.0], [10.0, 10.0]])  # in cells
    # one object of 3 x 2 cells centred at column 4.3, row 5.8 of a 10 x 10 level
    found = match(torch.tensor([[1.0, 7.0, 0.43, 0.58, 0.3, 0.2]]), anchors, 10, 10)
    # ratios: 3 and 2 (taken), 1.5 and 1 (taken), 3.3 and 5 (refused)
    assert sorted(set(found.anchor.tolist())) == [0, 1]
    cells = set(zip(found.anchor.tolist(), found.row.tolist(), found.column.tolist(), strict=True))
    # home, the left neighbour (.3 < .5), the lower neighbour (.8 > .5)
    assert cells == {(a, r, c) for a in (0, 1) for r, c in ((5, 4), (5, 3), (6, 4))}
    assert found.image.tolist() == [1] * 6 and found.label.tolist() == [7] * 6
    centre = found.box[:, :2] + torch.stack((found.column, found.row), -1)
    torch.testing.assert_close(centre, torch.tensor([[4.3, 5.8]]).expand(6, 2))
    assert ((found.box[:, :2] >= -0.5) & (found.box[:, :2] <= 1.5)).all()  # what 2 s - 0.5 can reach
    torch.testing.assert_close(found.box[:, 2:], torch.tensor([[3.0, 2.0]]).expand(6, 2))


@pytest.mark.parametrize(("x", "y"), [(0.0, 0.0), (1.0, 1.0), (0.999, 0.02)])
def test_matching_stays_inside_the_level(x, y):
    found = match(torch.tensor([[0.0, 0.0, x, y, 0.1, 0.1]]), torch.ones(1, 2), 8, 10)
    assert len(found.row) >= 1
    assert found.row.min() >= 0 and found.row.max() <= 7
    assert found.column.min() >= 0 and found.column.max() <= 9


def test_a_ratio_of_exactly_four_is_refused():
    assert len(match(torch.tensor([[0.0, 0.0, 0.5, 0.5, 0.4, 0.1]]), torch.ones(1, 2), 10, 10).row) == 0
    assert len(match(torch.tensor([[0.0, 0.0, 0.5, 0.5, 0.39, 0.1]]), torch.ones(1, 2), 10, 10).row) >= 1


def test_loss_reaches_every_weight_and_falls_with_training(small):
    model = copy.deepcopy(small).train()
    batch = batch_of([[0.4, 0.5, 0.5, 0.4], [0.5, 0.5, 0.3, 0.6], [0.6, 0.4, 0.9, 0.9]], [0, 1, 1], [0, 0, 1])
    loss, items = model.loss(batch)
    assert loss.shape == (3,) and list(items) == ["box_loss", "obj_loss", "cls_loss"]
    assert torch.isfinite(loss).all() and (loss > 0).all()
    torch.testing.assert_close(loss.detach(), 2 * torch.stack(list(items.values())))  # times the batch size
    loss.sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    head_gradient = model.model[-1].m[1].weight.grad.view(3, 7, -1).abs().sum(-1)
    assert (head_gradient.sum(0) > 0).all()  # each of 4 box numbers, objectness, both classes
    optimizer = torch.optim.Adam(model.parameters(), lr=0.002)
    for _ in range(12):
        optimizer.zero_grad()
        now, _ = model.loss(batch)
        now.sum().backward()
        optimizer.step()
    assert now.sum() < 0.8 * loss.detach().sum()


def test_gradient_equals_finite_differences(small):
    """Of the whole loss with respect to the head's raw output, at random entries (objectness targets held still)."""
    criterion = YOLOv5Loss(small)
    generator = torch.Generator().manual_seed(5)
    raw = [torch.randn(2, 3, n, n, 7, generator=generator, dtype=torch.float32) for n in (8, 4, 2)]
    batch = batch_of([[0.4, 0.5, 0.5, 0.4], [0.55, 0.3, 0.3, 0.3]], [0, 1], [0, 1])
    raw = [r.requires_grad_() for r in raw]
    loss = criterion(raw, batch)[0].sum()
    loss.backward()
    matches = match(torch.cat((batch["batch_idx"].view(-1, 1), batch["cls"], batch["bboxes"]), 1),
                    small.model[-1].anchors[0] / 8, 8, 8)
    at = (matches.image[0], matches.anchor[0], matches.row[0], matches.column[0])
    for channel in (5, 6):  # class logits act on nothing but the class loss
        step, moved = 0.05, [r.detach().clone() for r in raw]
        moved[0][at][channel] += step
        up = criterion(moved, batch)[0].sum()
        moved[0][at][channel] -= 2 * step
        down = criterion(moved, batch)[0].sum()
        assert ((up - down) / (2 * step)).item() == pytest.approx(raw[0].grad[at][channel].item(), rel=0.05, abs=1e-5)


def test_perfect_boxes_cost_nothing(small):
    criterion = YOLOv5Loss(small)
    box = [0.4, 0.5, 0.5, 0.4]
    raw = [torch.full((1, 3, n, n, 7), -12.0) for n in (8, 4, 2)]
    target = torch.tensor([[0.0, 0.0, *box]])
    for level, stride in enumerate((8, 16, 32)):
        anchors = small.model[-1].anchors[level] / stride
        m = match(target, anchors, 64 // stride, 64 // stride)
        entry = raw[level][m.image, m.anchor, m.row, m.column]
        entry[:, 0:2] = torch.logit((m.box[:, :2] + 0.5) / 2)
        entry[:, 2:4] = torch.logit((m.box[:, 2:] / anchors[m.anchor]).sqrt() / 2)
        entry[:, 4], entry[:, 5], entry[:, 6] = 12.0, 12.0, -12.0
        raw[level][m.image, m.anchor, m.row, m.column] = entry
    _, items = criterion(raw, batch_of(box, [0], [0], n=1))
    assert all(float(v) < 1e-3 for v in items.values())


def test_a_batch_without_objects_trains_objectness_only(small):
    model = copy.deepcopy(small).train()
    loss, items = model.loss(batch_of([], [], []))
    assert items["box_loss"] == 0 and items["cls_loss"] == 0 and items["obj_loss"] > 0
    loss.sum().backward()
    assert torch.isfinite(model.model[0].conv.weight.grad).all()


def test_mixed_precision_gives_the_same_loss_and_boxes(small):
    batch = batch_of([[0.4, 0.5, 0.5, 0.4], [0.6, 0.4, 0.9, 0.9]], [0, 1], [0, 1])
    model = copy.deepcopy(small).train()
    full, _ = model.loss(batch)
    with torch.autocast("cpu", torch.bfloat16):
        mixed, _ = model.loss(batch)
        mixed.sum().backward()
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, full, rtol=0.03, atol=1e-3)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
    model.eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        decoded, raw = model(batch["img"])
    assert raw[0].dtype == torch.bfloat16 and decoded.dtype == torch.float32


def test_gains_follow_image_size_levels_classes_and_the_trainers_arguments(small):
    args = copy.copy(DEFAULT_CFG)
    args.imgsz = 320
    model = copy.copy(small)
    model.args = args
    loss = YOLOv5Loss(model)
    assert (loss.box_gain, loss.object_gain, loss.class_gain) == pytest.approx((0.05, 1.0, 0.5 * 2 / 80))
    args.imgsz = 1280
    assert YOLOv5Loss(model).object_gain == pytest.approx(4.0)
    args.box, args.cls = 2 * DEFAULT_CFG.box, 3 * DEFAULT_CFG.cls
    loss = YOLOv5Loss(model)
    assert (loss.box_gain, loss.class_gain) == pytest.approx((0.1, 1.5 * 2 / 80))


def test_fuse_half_deepcopy_and_ema_keep_the_network(small):
    model = copy.deepcopy(small).eval()
    for module in model.modules():  # batch statistics that fusing must fold in
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 2)
    image = torch.rand(1, 3, 64, 64)
    wanted = model(image)[0]
    ema = ModelEMA(model)
    torch.testing.assert_close(ema.ema(image)[0], wanted)
    ema.update(model)
    fused = copy.deepcopy(model).fuse(verbose=False)
    assert fused.is_fused() and not model.is_fused()
    torch.testing.assert_close(fused(image)[0], wanted, atol=2e-3, rtol=2e-3)
    half = copy.deepcopy(model).half().float()
    assert half.model[-1].stride.tolist() == [8, 16, 32]
    torch.testing.assert_close(half.model[-1].anchors, model.model[-1].anchors)
    torch.testing.assert_close(half(image)[0], wanted, atol=1.0, rtol=0.05)


def test_anchors_are_kept_where_they_fit_and_fitted_where_they_do_not(small):
    rng = np.random.default_rng(0)
    model = copy.deepcopy(small)
    coco = np.array(COCO_ANCHORS).reshape(-1, 2)[rng.integers(0, 9, 300)] * rng.uniform(0.95, 1.05, (300, 2))
    assert not model.model[-1].adapt(coco)
    assert model.model[-1].anchors.tolist() == [[list(map(float, a)) for a in level] for level in COCO_ANCHORS]
    flat = np.stack((rng.uniform(300, 600, 300), rng.uniform(4, 12, 300)), 1)  # membranes: long and thin
    before = best_possible_recall(flat, model.model[-1].anchors.reshape(-1, 2).numpy())
    assert model.model[-1].adapt(flat)
    after = best_possible_recall(flat, model.model[-1].anchors.reshape(-1, 2).numpy())
    assert before < 0.5 and after > 0.98
    areas = model.model[-1].anchors.prod(-1).flatten()
    assert (areas[1:] >= areas[:-1]).all()  # small ones on the fine level
    assert not model.model[-1].adapt(flat)
