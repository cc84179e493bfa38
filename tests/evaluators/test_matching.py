"""The same boxes scored by ultralytics' own code, by pycocotools, and by ours."""

from __future__ import annotations

import contextlib
import io
import os

import numpy as np
import pandas as pd
import pytest

from clarion.errors import DataError
from clarion.evaluators.matching import COCO, ULTRALYTICS, flatten, match
from clarion.evaluators.precision_recall import CONFIDENCE_GRID, PrecisionRecall, best_f1

os.environ.setdefault("YOLO_OFFLINE", "1")
os.environ.setdefault("YOLO_AUTOINSTALL", "False")

CASES = {
    "one class": dict(seed=1),
    "three classes": dict(seed=2, classes=3, images=80),
    "many images": dict(seed=3, images=300, most_truths=2),
    "duplicates": dict(seed=4, copies=4),
    "tied scores": dict(seed=5, decimals=1),
    "tied scores, duplicates, classes": dict(seed=6, decimals=1, copies=3, classes=2),
    "tiny boxes": dict(seed=7, size=(1, 6), jitter=0.5, whole_pixels=True),
    "exact IoU ties": dict(seed=8, size=(2, 12), jitter=1.0, whole_pixels=True, images=120, copies=2),
    "over 100 detections": dict(seed=9, images=10, false_per_image=160),
    "crowded": dict(seed=10, images=12, most_truths=60, size=(60, 200)),
    "few truths": dict(seed=11, images=6, most_truths=1),
    "all wrong": dict(seed=12, found=0.0),
    "faultless": dict(seed=13, jitter=0.0, false_per_image=0.0, found=1.0),
    "ten truths": dict(seed=14, images=10, most_truths=1, found=1.0, false_per_image=4, jitter=2),
}


def empty(table: pd.DataFrame, columns: tuple[str, ...], keep: int = 0) -> pd.DataFrame:
    table = table.copy()
    for column in columns:
        table[column] = [value if i < keep else [] for i, value in enumerate(table[column])]
    return table


def tables(case: str, make_boxes):
    if case == "no predictions":
        predictions, truth = make_boxes(1)
        return empty(predictions, ("boxes", "scores", "labels")), truth
    if case == "truth in one image":
        predictions, truth = make_boxes(2)
        return predictions, empty(truth, ("boxes", "labels"), keep=3)
    if case == "predictions in few images":
        predictions, truth = make_boxes(3)
        return empty(predictions, ("boxes", "scores", "labels"), keep=4), truth
    return make_boxes(**CASES[case])


ALL = [*CASES, "no predictions", "truth in one image", "predictions in few images"]


def ours(predictions, truth, coco=False):
    detections, boxes = flatten(predictions, scored=True), flatten(truth, scored=False)
    found = match(detections, boxes, convention=COCO if coco else ULTRALYTICS)
    counts = PrecisionRecall(found, boxes, np.arange(len(truth)), len(truth), coco=coco)
    ones = np.ones((1, len(truth)))
    ap = counts.average_precision(ones)[0]
    precision, recall, f1 = counts.over_confidence(ones)
    at = best_f1(f1)[0]
    return {
        "map50": ap[:, 0].mean(),
        "map50_95": ap.mean(),
        "precision": precision[0, at],
        "recall": recall[0, at],
    }


def ultralytics_scores(predictions, truth, split_ties=True):
    """DetectionValidator's matching and DetMetrics, image by image.

    ultralytics sorts by an unstable sort, so what it gives for equal scores depends on the machine. split_ties lowers
    each of a row of equal scores by one float32 step more than the one before, in the order of the table: the order
    a stable sort gives.
    """
    torch = pytest.importorskip("torch")
    pytest.importorskip("ultralytics")
    from ultralytics.engine.validator import BaseValidator
    from ultralytics.utils.metrics import DetMetrics, box_iou

    matcher = BaseValidator.__new__(BaseValidator)
    matcher.iouv = torch.linspace(0.5, 0.95, 10)
    scores = [np.asarray(s, dtype=np.float32) for s in predictions["scores"]]
    if split_ties and sum(map(len, scores)):
        flat = np.concatenate(scores)
        order = np.argsort(-flat, kind="stable")
        for before, now in zip(order[:-1], order[1:]):
            if flat[now] >= flat[before]:
                flat[now] = np.nextafter(flat[before], np.float32(-1))
        scores = np.split(flat, np.cumsum([len(s) for s in scores])[:-1])
    metrics = DetMetrics({i: str(i) for i in range(10)})
    for box, score, label, true_box, true_label in zip(
        predictions["boxes"], scores, predictions["labels"], truth["boxes"], truth["labels"]
    ):
        order = np.argsort(-score, kind="stable")  # detections come sorted out of non-maximum suppression
        box = torch.tensor(np.asarray(box, dtype=np.float32).reshape(-1, 4)[order])
        label, score = np.asarray(label, dtype=np.float32)[order], score[order]
        true_box = torch.tensor(np.asarray(true_box, dtype=np.float32).reshape(-1, 4))
        true_label = np.asarray(true_label, dtype=np.float32)
        if len(box) and len(true_box):
            tp = matcher.match_predictions(
                torch.tensor(label), torch.tensor(true_label), box_iou(true_box, box)
            ).numpy()
        else:
            tp = np.zeros((len(box), 10), dtype=bool)
        metrics.update_stats(
            {"tp": tp, "conf": score, "pred_cls": label, "target_cls": true_label,
             "target_img": np.unique(true_label), "im_name": "x"}
        )
    metrics.process()
    return dict(zip(("precision", "recall", "map50", "map50_95"), metrics.mean_results()))


def coco_scores(predictions, truth):
    pytest.importorskip("pycocotools")
    from pycocotools.coco import COCO as Coco
    from pycocotools.cocoeval import COCOeval

    def row(box):
        return [box[0], box[1], box[2] - box[0], box[3] - box[1]]

    labels = [int(c) for column in (truth["labels"], predictions["labels"]) for cell in column for c in cell]
    with contextlib.redirect_stdout(io.StringIO()):
        gold = Coco()
        gold.dataset = {
            "images": [{"id": i} for i in range(len(truth))],
            "categories": [{"id": c} for c in sorted(set(labels))],
            "annotations": [],
        }
        for i, (boxes, ls) in enumerate(zip(truth["boxes"], truth["labels"])):
            for box, label in zip(boxes, ls):
                gold.dataset["annotations"].append(
                    {"id": len(gold.dataset["annotations"]) + 1, "image_id": i, "category_id": int(label),
                     "bbox": row(box), "area": row(box)[2] * row(box)[3], "iscrowd": 0}
                )
        gold.createIndex()
        results = [
            {"image_id": i, "category_id": int(label), "bbox": row(box), "score": score}
            for i, (boxes, ls, ss) in enumerate(zip(predictions["boxes"], predictions["labels"], predictions["scores"]))
            for box, label, score in zip(boxes, ls, ss)
        ]
        if not results:
            return {"map50": 0.0, "map50_95": 0.0}
        run = COCOeval(gold, gold.loadRes(results), "bbox")
        run.params.areaRng, run.params.areaRngLbl = [[0, 1e10]], ["all"]
        run.evaluate()
        run.accumulate()
    precision = run.eval["precision"][:, :, :, 0, -1]  # [T, R, K]
    present = (precision > -1).all((0, 1))
    return {"map50": precision[0][:, present].mean(), "map50_95": precision[:, :, present].mean()}


@pytest.mark.parametrize("case", ALL)
def test_equals_ultralytics(case, make_boxes):
    predictions, truth = tables(case, make_boxes)
    reference, mine = ultralytics_scores(predictions, truth), ours(predictions, truth)
    for name in ("map50", "map50_95", "precision", "recall"):
        assert mine[name] == pytest.approx(reference[name], abs=1e-6), name


@pytest.mark.parametrize("case", ALL)
def test_equals_pycocotools(case, make_boxes):
    predictions, truth = tables(case, make_boxes)
    reference, mine = coco_scores(predictions, truth), ours(predictions, truth, coco=True)
    for name in ("map50", "map50_95"):
        assert mine[name] == pytest.approx(reference[name], abs=1e-6), name


@pytest.mark.parametrize("seed", range(5))
def test_both_conventions_agree_on_a_test_set_of_usual_size(seed, make_boxes):
    predictions, truth = make_boxes(seed, images=400, most_truths=2)
    mine, reference = ours(predictions, truth), coco_scores(predictions, truth)
    for name in ("map50", "map50_95"):
        assert mine[name] == pytest.approx(reference[name], abs=0.005), name


@pytest.mark.parametrize("coco", [False, True])
@pytest.mark.parametrize("settings", [dict(classes=1), dict(classes=3, copies=2)])
def test_weights_act_as_copies_of_a_patient(coco, settings, make_boxes):
    predictions, truth = make_boxes(21, images=30, per_patient=3, **settings)
    weights = np.random.default_rng(0).integers(0, 4, 10)
    rows = np.concatenate([np.tile(np.arange(30).reshape(10, 3)[p], w) for p, w in enumerate(weights)]).astype(int)
    copied = [t.iloc[rows].reset_index(drop=True) for t in (predictions, truth)]
    plain = ours(*copied, coco=coco)
    boxes = flatten(truth, scored=False)
    found = match(flatten(predictions, scored=True), boxes, convention=COCO if coco else ULTRALYTICS)
    counts = PrecisionRecall(found, boxes, np.repeat(np.arange(10), 3), 10, coco=coco)
    ap = counts.average_precision(weights[None].astype(float))[0]
    assert ap[:, 0].mean() == pytest.approx(plain["map50"], abs=1e-9)
    assert ap.mean() == pytest.approx(plain["map50_95"], abs=1e-9)
    # Precision and recall are read between the neighbours in the whole data, which a copy may lack: near, not equal.
    precision, recall, f1 = counts.over_confidence(weights[None].astype(float))
    at = best_f1(f1)[0]
    assert (precision[0, at], recall[0, at]) == pytest.approx((plain["precision"], plain["recall"]), abs=0.03)
    assert len(CONFIDENCE_GRID) == precision.shape[1]


def test_bad_boxes_are_refused_by_sample(make_boxes):
    predictions, _ = make_boxes(1, images=3, false_per_image=5)
    for broken in ([[5, 5, 1, 9]], [[0, 0, np.nan, 4]], [[1, 2, 3]]):
        table = predictions.copy()
        table.at[1, "boxes"], table.at[1, "scores"], table.at[1, "labels"] = broken, [0.5], [0]
        with pytest.raises(DataError, match="s0001"):
            flatten(table, scored=True)
    table = predictions.copy()
    table.at[2, "scores"] = [0.5]
    with pytest.raises(DataError, match="s0002"):
        flatten(table, scored=True)
