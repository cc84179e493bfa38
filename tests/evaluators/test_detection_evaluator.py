from __future__ import annotations

import json
import time

import numpy as np
import pandas as pd
import pytest

from clarion.errors import DataError
from clarion.evaluators.detection import DetectionEvaluator, Scored, per_sample_outcomes

CONTEXT = {"class_names": ["erm"], "task": "detection", "seed": 0, "data_kind": "phantom", "validation": None}
KEYS = {"value", "low", "high", "n", "n_patients", "unit", "method"}


def emptied(table, rows, *columns):
    table = table.copy()
    for column in columns:
        table[column] = [[] if i in rows else v for i, v in enumerate(table[column])]
    return table


def test_the_whole_result_is_sound_json(make_boxes):
    predictions, truth = make_boxes(1, images=60, most_truths=3)
    truth = emptied(truth, range(20), "boxes", "labels")  # four eyes without a finding
    truth["line"] = range(60)
    result = DetectionEvaluator(n_resamples=200).evaluate(predictions, truth, CONTEXT)
    json.dumps(result, allow_nan=False)
    for name, found in result["metrics"].items():
        assert set(found) == KEYS, name
        if found["low"] is not None:
            assert found["low"] <= found["value"] <= found["high"], name
    assert {"map50", "map50_95", "precision", "recall", "coco_map50", "coco_map50_95"} <= set(result["baseline"])
    assert all("other eyes" in found["name"] for found in result["baseline"].values())
    assert all(len(c["x"]) == len(c["y"]) <= 201 for c in result["curves"].values())
    assert set(result["subgroups"]) == {"stage"} and set(result["subgroups"]["stage"]) == {"0", "1", "2"}
    assert any("line" in note for note in result["notes"])
    assert any("chosen on the test itself" in note for note in result["notes"])
    confusion = np.array(result["confusion"]["matrix"])
    assert result["confusion"]["labels"] == ["erm", "background"]
    assert confusion[0].sum() == sum(map(len, truth["boxes"]))


def test_metrics_do_not_depend_on_the_order_of_rows(make_boxes):
    predictions, truth = make_boxes(2, decimals=1)  # ties, where order could matter
    straight = DetectionEvaluator(n_resamples=50).evaluate(predictions, truth, CONTEXT)
    shuffled = DetectionEvaluator(n_resamples=50).evaluate(
        predictions.sample(frac=1, random_state=0), truth.sample(frac=1, random_state=1), CONTEXT
    )
    assert straight == shuffled


def test_a_better_detector_scores_better_and_beats_the_mean_box(make_boxes):
    scores = []
    for found in (0.5, 0.95):
        predictions, truth = make_boxes(3, images=100, found=found, jitter=3, most_truths=2)
        scores.append(DetectionEvaluator(n_resamples=100).evaluate(predictions, truth, CONTEXT))
    low, high = (s["metrics"]["map50"] for s in scores)
    assert low["value"] + 0.2 < high["value"] and low["high"] < high["low"]
    assert scores[0]["baseline"]["map50"]["value"] < low["value"]


def test_mean_box_finds_boxes_that_never_move(make_boxes):
    predictions, truth = make_boxes(4, images=30)
    truth["boxes"], truth["labels"] = [[[100.0, 50.0, 300.0, 150.0]]] * 30, [[0]] * 30
    result = DetectionEvaluator(n_resamples=20).evaluate(predictions, truth, CONTEXT)
    assert result["baseline"]["map50_95"]["value"] == pytest.approx(0.995, abs=1e-6)
    assert result["baseline"]["coco_map50_95"]["value"] == pytest.approx(1.0, abs=1e-6)


def test_validation_sets_threshold_confidence_and_baseline(make_boxes):
    predictions, truth = make_boxes(5, images=60)
    validation, validation_truth = make_boxes(6, images=60)
    truth, validation_truth = (emptied(t, range(20), "boxes", "labels") for t in (truth, validation_truth))
    context = {**CONTEXT, "validation": (validation, validation_truth)}
    result = DetectionEvaluator(n_resamples=50).evaluate(predictions, truth, context)
    assert "on the validation" in result["metrics"]["eye_sensitivity"]["method"]
    assert "precision_validation_confidence" in result["metrics"]
    assert all("validation" in found["name"] for found in result["baseline"].values())
    assert not any("test itself" in note for note in result["notes"])
    assert result["metrics"]["eye_sensitivity"]["n"] == 8 and result["metrics"]["eye_specificity"]["n"] == 4


@pytest.mark.filterwarnings("error")
def test_degenerate_data_gives_none_with_a_note(make_boxes):
    predictions, truth = make_boxes(7, images=10)
    no_boxes = emptied(predictions, range(10), "boxes", "scores", "labels")
    no_truth = emptied(truth, range(10), "boxes", "labels")
    evaluator = DetectionEvaluator(n_resamples=30)
    silent = evaluator.evaluate(no_boxes, truth, CONTEXT)
    assert silent["metrics"]["map50"]["value"] == 0.0 and silent["metrics"]["recall"]["value"] == 0.0
    assert silent["metrics"]["precision"]["value"] is None and any("no box at all" in n for n in silent["notes"])
    healthy = evaluator.evaluate(predictions, no_truth, CONTEXT)
    for name in ("map50", "map50_95", "recall", "bscan_auc", "eye_auc", "eye_sensitivity"):
        assert healthy["metrics"][name]["value"] is None, name
    assert healthy["baseline"] == {} and any("no true box" in n for n in healthy["notes"])
    evaluator.evaluate(no_boxes, no_truth, CONTEXT)
    alone = truth.assign(patient_id="p"), predictions.assign(patient_id="p")
    single = evaluator.evaluate(alone[1], alone[0], CONTEXT)
    assert single["metrics"]["map50"]["value"] > 0 and single["metrics"]["map50"]["low"] is None
    assert any(n.startswith("map50:") and "one patient" in n for n in single["notes"])
    for result in (silent, healthy, single):
        json.dumps(result, allow_nan=False)


def test_scores_that_are_no_confidences_are_refused(make_boxes):
    predictions, truth = make_boxes(8, images=4)
    predictions["scores"] = [[5.0 for _ in s] for s in predictions["scores"]]
    with pytest.raises(DataError, match="0..1"):
        DetectionEvaluator().evaluate(predictions, truth, CONTEXT)


def test_outcomes_list_the_worst_sample_first(make_boxes):
    predictions, truth = make_boxes(9, images=30, classes=2)
    table = per_sample_outcomes(predictions, truth, confidence=0.4)
    assert ((table["fp"] + table["fn"]).diff().dropna() <= 0).all()
    by_id = {frame_id: i for i, frame_id in enumerate(truth["sample_id"])}
    for row in table.itertuples():
        i = by_id[row.sample_id]
        scores = np.array(predictions["scores"][i])
        assert row.tp + row.fn == len(truth["boxes"][i]) and row.tp + row.fp == (scores >= 0.4).sum() == len(row.kept)
        assert (scores[row.kept] >= 0.4).all() and sum(row.hit) == row.tp
        assert len(row.missed) == row.fn and all(0 <= m < len(truth["boxes"][i]) for m in row.missed)
        for kept, hit in zip(row.kept, row.hit):
            if hit:
                assert predictions["labels"][i][kept] in truth["labels"][i]


def test_interval_covers_the_score_of_the_whole_population(make_boxes):
    predictions, truth = make_boxes(10, images=2000, per_patient=5, most_truths=2, jitter=10)
    whole = Scored.join(predictions, truth).areas((0, 0, 0.95))
    covered = {"map50": 0, "coco_map50_95": 0}
    for k in range(20):
        rows = slice(100 * k, 100 * (k + 1))
        part = Scored.join(predictions[rows], truth[rows]).areas((200, k, 0.95))
        for name in covered:
            covered[name] += part[name].low <= whole[name].value <= part[name].high
    assert min(covered.values()) >= 16  # of 20 at 95 %, fewer than 16 has a probability below 0.3 %


def test_two_eyes_of_a_patient_are_two_eyes(make_boxes):
    predictions, truth = make_boxes(12, images=40, per_patient=10)
    truth["laterality"] = ["OD", "OS"] * 20
    truth = emptied(truth, range(0, 40, 2), "boxes", "labels")  # every right eye is free of findings
    metrics = DetectionEvaluator(n_resamples=50).evaluate(predictions, truth, CONTEXT)["metrics"]
    assert metrics["eye_auc"]["n"] == 8 and metrics["eye_auc"]["n_patients"] == 4
    assert metrics["eye_specificity"]["n"] == 4 and metrics["eye_specificity"]["n_patients"] == 4


def test_tables_read_back_from_parquet_score_the_same(make_boxes, tmp_path):
    predictions, truth = make_boxes(13, images=20)
    plain = DetectionEvaluator(n_resamples=20).evaluate(predictions, truth, CONTEXT)
    for name, table in (("predictions", predictions), ("truth", truth)):
        table.to_parquet(tmp_path / name, index=False)
    predictions, truth = (pd.read_parquet(tmp_path / name) for name in ("predictions", "truth"))
    assert DetectionEvaluator(n_resamples=20).evaluate(predictions, truth, CONTEXT) == plain


def test_a_test_set_of_full_size_is_scored_quickly(make_boxes):
    predictions, truth = make_boxes(11, images=650, per_patient=10, most_truths=2, false_per_image=298)
    start = time.process_time()  # the machine may be busy with other work
    DetectionEvaluator().evaluate(predictions, truth, CONTEXT)
    assert time.process_time() - start < 15
