"""Trained detectors predict what the library's own validation sees: the same mAP on the same images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ultralytics_drawn import DrawnPlates, make_run

from clarion.trainers import ultralytics_checkpoint
from clarion.trainers.ultralytics import UltralyticsTrainer

OVERFIT = {  # few images, shown as they are, so that a network learns them in a minute on a CPU
    "imgsz": 128, "nbs": 4, "warmup_epochs": 1, "mosaic": 0.0, "scale": 0.0, "translate": 0.0, "hsv_h": 0.0,
    "hsv_s": 0.0, "hsv_v": 0.0, "close_mosaic": 0, "optimizer": "AdamW", "lr0": 0.002,
}  # fmt: skip
NETWORKS = {
    "yolov5n": {"name": "yolov5n", "network": "yolov5n.yaml", "network_class": "clarion.detectors.yolov5.YOLOv5"},
    "yolo11n": {"name": "yolo11n", "network": "yolo11n.yaml"},
}


class Overfit(DrawnPlates):
    """Validates on the training images."""

    def yolo_yaml(self):
        file = super().yolo_yaml()
        file.write_text(file.read_text(encoding="utf-8").replace("images/val", "images/train"), encoding="utf-8")
        return file


def library_validation(data: DrawnPlates, checkpoint, tmp_path, batch: int) -> dict[str, float]:
    """ultralytics' DetectionValidator on the checkpoint's network, rect=True as during training."""
    from ultralytics.models.yolo.detect import DetectionValidator

    model, record = ultralytics_checkpoint.load(checkpoint)
    arguments = {"task": "detect", "mode": "val", "data": str(data.yolo_yaml()), "imgsz": record["imgsz"], "rect": True,
                 "batch": batch, "device": "cpu", "plots": False, "workers": 0, "save_dir": str(tmp_path / "val")}
    return DetectionValidator(args=arguments)(model=model)


def library_metrics(data: DrawnPlates, predictions, ids: list[str]) -> tuple[float, float]:
    """mAP50 and mAP50:95 of our boxes (original pixels) by ultralytics' own matching and DetMetrics."""
    from ultralytics.models.yolo.detect import DetectionValidator
    from ultralytics.utils.metrics import DetMetrics, box_iou

    matcher = DetectionValidator.__new__(DetectionValidator)  # its matching of predictions to truth, nothing else
    matcher.iouv = torch.linspace(0.5, 0.95, 10)
    metrics = DetMetrics(names=dict(enumerate(data.class_names)))
    for prediction in predictions:
        boxes, labels = data.truth[prediction.sample_id]
        found = torch.tensor(prediction.values["boxes"], dtype=torch.float32).view(-1, 4)
        classes = torch.tensor(prediction.values["labels"], dtype=torch.float32)
        hits = np.zeros((len(found), 10), dtype=bool)
        if len(found) and len(boxes):
            iou = box_iou(torch.tensor(boxes, dtype=torch.float32), found)
            hits = matcher.match_predictions(classes, torch.tensor(labels, dtype=torch.float32), iou).numpy()
        metrics.update_stats({"tp": hits, "conf": np.array(prediction.values["scores"]), "pred_cls": classes.numpy(),
                              "target_cls": labels.astype(float), "target_img": np.unique(labels).astype(float),
                              "im_name": prediction.sample_id})
    metrics.process()
    assert [p.sample_id for p in predictions] == ids
    return metrics.box.map50, metrics.box.map


@pytest.fixture(scope="module", params=NETWORKS)
def learned(request, tmp_path_factory):
    """(name, data, run, checkpoint) of a network trained on 16 images of one size."""
    folder = tmp_path_factory.mktemp(request.param)
    data = Overfit(folder / "data", train=16, val=1)
    run = make_run(folder / "run", data)
    epochs = {"yolov5n": 45, "yolo11n": 34}[request.param]
    trainer = UltralyticsTrainer(NETWORKS[request.param], epochs, 4, "cpu", "32", OVERFIT)
    return request.param, data, run, trainer.fit(run)


def test_the_network_learns_and_predictions_equal_the_librarys_validation(learned, tmp_path):
    name, data, run, checkpoint = learned
    first, last = run.tracker.logged[0][1], run.tracker.logged[-1][1]
    losses = [k for k in first if k.startswith("train/") and k.endswith("_loss")]
    assert sum(last[k] for k in losses) < 0.6 * sum(first[k] for k in losses)
    best = max(metrics["val/map50"] for _, metrics in run.tracker.logged)
    assert best > 0.5, f"{name}: mAP50 {best} on the images it was trained on"

    predictor = UltralyticsTrainer(NETWORKS[name], 1, 6, "cpu", "32", OVERFIT).load(checkpoint)
    mixed = ((96, 128), (61, 97), (150, 110), (64, 64), (300, 200))
    for sizes, batch in (((96, 128),), 7), (mixed, 1):  # of several sizes, only a batch of one is padded alone
        images = Overfit(tmp_path / f"batch{batch}", sizes=sizes, train=60, val=1, seed=7)
        ours = library_metrics(images, list(predictor(images.samples("train"))), images.splits["train"])
        theirs = library_validation(images, checkpoint, tmp_path, batch)
        print(f"{name}, {len(sizes)} sizes: ours {ours}, library {theirs['metrics/mAP50(B)']}, "
              f"{theirs['metrics/mAP50-95(B)']}")
        assert ours[0] == pytest.approx(theirs["metrics/mAP50(B)"], abs=0.002)
        assert ours[1] == pytest.approx(theirs["metrics/mAP50-95(B)"], abs=0.002)
        assert ours[0] > 0.3
