"""Pages of language models, of layers and of presence; what private data may show; paired differences."""

from __future__ import annotations

import json

import numpy
import pandas
import pytest
from evaluated_runs import build_corpus, build_language, build_layers, build_presence
from recorded_runs import build_detection
from test_pages import assert_static, text_of

from clarion.errors import ClarionError
from clarion.evaluators.detection import DetectionEvaluator
from clarion.evaluators.mcqa import McqaEvaluator
from clarion.report import publish_results, write_comparison, write_run_report
from clarion.report.files import read_run
from clarion.report.language import examples_view
from clarion.report.paired import differences
from clarion.report.scan_cases import presence_cases, surface_cases
from clarion.tracking import LocalTracker


def test_language_page_has_examples_contamination_and_the_untuned_model(tmp_path):
    parsed = assert_static(text_of(write_run_report(build_language(tmp_path / "run"))))
    for part in (
        "Before tuning", "0.237 [0.100, 0.400]",  # the column of the untuned model
        "24 evaluated items searched for in the recorded training texts of run on ophtimus_demo", "13 words in a row",
        "20.8 %", "The 19 without overlap", "0.421", "Not known: pre-training data unknown.",  # contamination
        "Multiple choice", "Free answers", "Best: 4", "Worst: 4", "At random: 4", "right answer", "chosen",
        "Not in its source: ", "999 um",  # the grounding evaluator's rules on the answers shown
    ):  # fmt: skip
        assert part in parsed.text, part


def test_examples_are_ranked_by_the_probability_of_the_right_option(tmp_path):
    run = read_run(build_language(tmp_path / "run"))
    choice, free = examples_view(run)
    best, worst, drawn = (group["rows"] for group in choice["groups"])
    share = lambda row: float(next(o["share"] for o in row["options"] if o["gold"]))  # noqa: E731
    assert min(map(share, best)) >= max(map(share, drawn)) >= min(map(share, drawn)) >= max(map(share, worst))
    assert all(abs(sum(float(o["share"]) for o in row["options"]) - 1) < 0.01 for row in best)
    shown = [row["sample_id"] for section in (choice, free) for group in section["groups"] for row in group["rows"]]
    assert len(shown) == len(set(shown)) == 24
    assert examples_view(run) == [choice, free]  # the random ones too


def test_documents_are_ranked_by_bits_per_byte(tmp_path):
    (section,) = examples_view(read_run(build_corpus(tmp_path / "run")))
    best, worst, _ = (group["rows"] for group in section["groups"])
    assert best[0]["sample_id"] == "d00" and best[0]["note"] == "1.44 bits per byte"  # 1 nat a byte
    assert worst[0]["sample_id"] == "d11"


@pytest.mark.parametrize("told", [False, True])
def test_private_data_shows_no_text_and_no_picture_unless_told(tmp_path, told):
    tracker = {"log_images": True} if told else {}
    page = text_of(write_run_report(build_language(tmp_path / "language", kind="private", tracker=tracker)))
    assert ("999 um" in page) == told and "Contamination" in page
    assert ("are left out" in page) != told
    run = build_detection(tmp_path / "runs" / "a", kind="private")
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("tracker:", "tracker:\n  log_images: true" if told else "tracker:"))
    page = text_of(write_run_report(run))
    assert ("data:image/jpeg" in page) == told
    assert "all 8 of 40 samples" in page and "0 of 1 found" in page  # what happened is told all the same
    publish_results(LocalTracker(tmp_path / "out"), run)
    assert (tmp_path / "out" / "media" / "cases.csv").exists() == told


def test_every_missed_scan_is_drawn_however_many(tmp_path):
    run = build_detection(tmp_path / "runs" / "a")
    predictions = pandas.read_parquet(run / "predictions" / "test.parquet")
    predictions["boxes"], predictions["scores"] = [[] for _ in range(40)], [[] for _ in range(40)]
    predictions["labels"] = [[] for _ in range(40)]
    predictions.to_parquet(run / "predictions" / "test.parquet")
    page = text_of(write_run_report(run))
    assert "all 32 of 40 samples" in page and "9 to 32 of 32" in page
    assert page.count("data:image/jpeg") == 32 and len(page) < 3_000_000


def test_surfaces_that_are_lost_are_all_shown(tmp_path):
    run = build_layers(tmp_path / "run")
    cases = surface_cases(read_run(run))
    assert sorted(cases.missed) == ["PH00", "PH01", "PH02"] and cases.samples == 20
    notes = {case.sample_id: case.note for case in cases.shown}
    assert "lost: RNFL/GCL" in notes["PH00"]
    assert [case.sample_id for case in cases.shown if case.group == "best"] == ["PH03", "PH04", "PH05", "PH06"]
    page = text_of(write_run_report(run))
    assert_static(page)
    assert page.count('class="box thin truth"') == page.count('class="box thin predicted"') == 3 * 11


def test_presence_is_drawn_with_and_without_a_picture(tmp_path):
    run = build_presence(tmp_path / "run", images=True)
    cases = presence_cases(read_run(run))
    assert cases.missed == ["PH05_H12", "PH09_H12"]
    page = text_of(write_run_report(run))
    assert_static(page)
    assert page.count('class="bar-truth"') >= 6 and "membrane found, Dice" in page and "image not recorded" not in page


def test_paired_difference_is_that_of_the_evaluators(tmp_path):
    """The value is the difference of what the evaluators say of each run, and the interval is narrower than theirs."""
    runs = [build_language(tmp_path / name, right=right) for name, right in (("a", 0.2), ("b", 0.9))]
    a, b = map(read_run, runs)
    found, n, patients = differences(a, b)
    scores = [McqaEvaluator(n_resamples=0).evaluate(r.predictions, r.truth, {"seed": 0})["metrics"] for r in (a, b)]
    assert found["accuracy"].value == pytest.approx(scores[1]["accuracy"]["value"] - scores[0]["accuracy"]["value"])
    assert (n, patients) == (40, 10) and found["accuracy"].low > 0
    page = text_of(write_comparison(runs, tmp_path / "pair.html"))
    assert_static(page)
    assert "Paired differences" in page and "B better" in page and "40 samples of 10 patients" in page


def test_paired_average_precision_and_errors(tmp_path):
    a = build_detection(tmp_path / "runs" / "a")
    b = build_detection(tmp_path / "runs" / "b", "yolov8s")
    predictions = pandas.read_parquet(b / "predictions" / "test.parquet")
    predictions["boxes"] = [[[x + 60 * (k < 27) for x in box] for box in boxes] for k, boxes in
                            enumerate(predictions["boxes"])]  # fmt: skip
    predictions.sample(frac=1, random_state=0).to_parquet(b / "predictions" / "test.parquet")  # joined by id
    runs = [read_run(run) for run in (a, b)]
    found, _, _ = differences(*runs)
    own = [DetectionEvaluator(n_resamples=0).evaluate(r.predictions, r.truth, {"seed": 0})["metrics"] for r in runs]
    assert found["map50"].value == pytest.approx(own[1]["map50"]["value"] - own[0]["map50"]["value"])
    assert found["map50"].high < 0
    layers = [read_run(build_layers(tmp_path / name, lost=0, off=off)) for name, off in (("c", 1.0), ("d", 2.0))]
    error = differences(*layers)[0]["mae_um"]
    assert error.value == pytest.approx(3.87 * numpy.mean([0.5 + k / 10 for k in range(20)]), rel=0.05)
    same = differences(layers[0], layers[0])[0]["mae_um"]
    assert same.value == 0 and same.low is None


def test_runs_on_other_truth_are_not_paired(tmp_path):
    a, b = build_detection(tmp_path / "runs" / "a"), build_detection(tmp_path / "runs" / "b")
    truth = pandas.read_parquet(b / "truth" / "test.parquet")
    truth.loc[1, "boxes"] = None
    truth.to_parquet(b / "truth" / "test.parquet")
    with pytest.raises(ClarionError, match="not the same data"):
        differences(read_run(a), read_run(b))
    assert "not the same data" in text_of(write_comparison([a, b], tmp_path / "c.html"))
    manifest = json.loads((b / "manifest.json").read_text())
    assert manifest["status"] == "complete"  # nothing of the run was touched
