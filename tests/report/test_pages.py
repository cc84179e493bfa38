"""The pages: what they say, what they leave out, and that nothing in them can act."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy
import pandas
import pytest
from PIL import Image
from recorded_runs import build_detection, build_generation

from clarion.errors import UsageError
from clarion.report import publish_results, write_comparison, write_run_report
from clarion.report.cases import boxes_of, classification_cases, detection_cases, matched_ious
from clarion.report.files import read_run
from clarion.report.overlays import overlay_picture
from clarion.tracking import LocalTracker

HOSTILE = "\"'><script>alert(1)</script><img src=https://evil.example/x onerror=alert(2)>{{ 7 * 7 }}"


class Tags(HTMLParser):
    """Elements with their attributes, and all text."""

    def __init__(self, page: str):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def assert_static(page: str) -> Tags:
    """No script, no event handler, no address but inline data and places in the page."""
    parsed = Tags(page)
    assert "script" not in {tag for tag, _ in parsed.tags}
    for tag, attributes in parsed.tags:
        assert not [name for name in attributes if name.startswith("on")], tag
        for name in ("src", "href", "xlink:href", "action", "data", "srcset"):
            if value := attributes.get(name):
                assert value.startswith(("data:", "#")), f"<{tag} {name}={value[:60]}>"
    assert not re.search(r"url\(|@import", page)
    return parsed


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def test_detection_page(detection_run):
    path = write_run_report(detection_run)
    assert path == detection_run / "report.html"
    page = text_of(path)
    parsed = assert_static(page)
    assert "<title>yolo11n on erm_demo (phantom data)</title>" in page
    for part in (
        "0.631 [0.561, 0.701]",
        "Baseline: mean box",
        "0.104 [0.074, 0.134]",
        "mAP50:95",
        "By stage",
        "the interval is wide",
        "Precision–recall",
        "Learning rate",
        "9f9f9f",
        "model=yolo11n data=erm_demo",
        "0a1b2c3d",
    ):
        assert part in parsed.text, part
    assert "Missed: no true box found: all 8 of 40 samples" in parsed.text
    images = [attributes for tag, attributes in parsed.tags if tag == "image"]
    assert len(images) == 16 and all(image["href"].startswith("data:image/jpeg") for image in images)
    drawings = [
        attributes for tag, attributes in parsed.tags if tag == "svg" and attributes.get("aria-hidden") != "true"
    ]
    assert all(attributes["role"] == "img" and attributes["aria-label"] for attributes in drawings)
    assert len(page) < 3_000_000


def test_classification_page(classification_run):
    parsed = assert_static(text_of(write_run_report(classification_run)))
    assert "Most confident mistakes" in parsed.text and "taken for" in parsed.text
    assert "Right with the highest probability" in parsed.text
    assert "Confusion" in parsed.text and "ROC" in parsed.text and "Calibration" in parsed.text
    wrong = classification_cases(read_run(classification_run)).missed
    assert len(wrong) == 8 and f"all {len(wrong)} of 60 samples" in parsed.text
    assert [tag for tag, _ in parsed.tags].count("image") >= len(wrong)


def test_generation_page(generation_run):
    parsed = assert_static(text_of(write_run_report(generation_run)))
    assert "망막전막" in parsed.text and "Epiretinal membrane, stage 0." in parsed.text
    assert "Cases to look at" not in parsed.text


def test_hostile_strings_stay_text(tmp_path):
    runs = [build_generation(tmp_path / name, HOSTILE) for name in ("a", "b")]
    manifest = json.loads((runs[0] / "manifest.json").read_text()) | {"status": "failed", HOSTILE: HOSTILE}
    (runs[0] / "manifest.json").write_text(json.dumps(manifest))
    (runs[0] / "error.txt").write_text(HOSTILE)
    (runs[1] / "config.yaml").write_text((runs[1] / "config.yaml").read_text().replace("epochs: 1", "epochs: 2"))
    for path in (write_run_report(runs[0]), write_comparison(runs, tmp_path / "comparison.html")):
        page = text_of(path)
        parsed = assert_static(page)
        assert "alert(1)</script>" in parsed.text  # shown, as text
        assert "{{ 7 * 7 }}" in parsed.text and "img" not in {tag for tag, _ in parsed.tags}
        assert "default-src 'none'" in page


def test_yaml_and_json_do_not_execute(tmp_path):
    run = build_generation(tmp_path / "run")
    (run / "config.yaml").write_text("model: !!python/object/apply:os.system ['touch " + str(tmp_path / "owned") + "']")
    write_run_report(run)
    assert not (tmp_path / "owned").exists()


def test_a_run_that_has_just_begun(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text("model: {name: yolo11n}\ndata: {name: erm_demo, kind: private}\n")
    parsed = assert_static(text_of(write_run_report(run)))
    assert "Private data" in parsed.text
    for absent in ("Results", "Cases", "Training", "Examples"):
        assert absent not in parsed.text


def test_a_damaged_run_still_has_a_page(detection_run, caplog):
    (detection_run / "metrics.json").write_text('{"evaluators": {"detection"')
    (detection_run / "predictions" / "test.parquet").write_bytes(b"PAR1 not")
    (detection_run / "metrics.jsonl").open("a").write('{"step": 12, "tra')
    parsed = assert_static(text_of(write_run_report(detection_run)))
    assert "Training" in parsed.text and "Results" not in parsed.text
    assert "metrics.json cannot be read" in caplog.text and "test.parquet cannot be read" in caplog.text


def test_a_failed_run_says_why_without_folders(detection_run):
    manifest = json.loads((detection_run / "manifest.json").read_text()) | {"status": "failed"}
    (detection_run / "manifest.json").write_text(json.dumps(manifest))
    (detection_run / "error.txt").write_text("DataError: /home/hong/scans/a.png cannot be read\n\nTraceback ...")
    (detection_run / "overrides.yaml").write_text("- data.root=/home/hong/scans\n")
    page = text_of(write_run_report(detection_run))
    assert "This run is failed: DataError: …/a.png cannot be read" in page
    assert "hong" not in page


def test_results_before_metrics_json_and_images_given(detection_run):
    results = json.loads((detection_run / "metrics.json").read_text())
    (detection_run / "metrics.json").unlink()
    truth = pandas.read_parquet(detection_run / "truth" / "test.parquet")
    images = dict(zip(truth["sample_id"], truth["image"], strict=True))
    truth.drop(columns="image").to_parquet(detection_run / "truth" / "test.parquet")
    assert text_of(write_run_report(detection_run, results)).count("image not recorded") == 16
    assert text_of(write_run_report(detection_run, results, images)).count("data:image/jpeg") == 16


def test_images_do_not_leave_their_root(detection_run):
    secret = detection_run.parent / "secret.png"
    Image.new("L", (10, 10)).save(secret)
    (detection_run / "truth" / "test_images.json").write_text(json.dumps({"PH000001-H12": "../secret.png"}))
    truth = pandas.read_parquet(detection_run / "truth" / "test.parquet").drop(columns="image")
    truth.to_parquet(detection_run / "truth" / "test.parquet")
    assert read_run(detection_run).images == {}


def test_unreadable_and_huge_images_are_left_out(detection_run, monkeypatch, caplog):
    run = read_run(detection_run)
    first, second = (run.images[case.sample_id] for case in detection_cases(run).shown[:2])
    first.write_bytes(first.read_bytes()[:500])
    second.write_text("not an image")
    assert text_of(write_run_report(detection_run)).count("image not recorded") == 2
    assert caplog.text.count("is not drawn on the page") == 2
    monkeypatch.setattr("clarion.report.overlays.LARGEST", 1000)
    assert "data:image/jpeg" not in text_of(write_run_report(detection_run))


def test_no_run_directory(tmp_path):
    with pytest.raises(UsageError, match="is not a run directory"):
        write_run_report(tmp_path)
    with pytest.raises(UsageError, match="at least two"):
        write_comparison([tmp_path], tmp_path / "out.html")


def test_comparison(tmp_path):
    first = build_detection(tmp_path / "runs" / "a")
    second = build_detection(tmp_path / "runs" / "b", "yolov8s", seed=1, shift=-0.05)
    parsed = assert_static(text_of(write_comparison([first, second], tmp_path / "deep" / "comparison.html")))
    for part in ("0.631 [0.561, 0.701]", "0.581 [0.511, 0.651]", "model.name", "yolov8s", "val/map50"):
        assert part in parsed.text
    assert "do not compare" not in parsed.text and "trainer.epochs" not in parsed.text


def test_comparison_warns_of_unlike_data(tmp_path):
    runs = [build_detection(tmp_path / "runs" / kind, kind=kind) for kind in ("phantom", "private")]
    assert "their scores do not compare" in text_of(write_comparison(runs, tmp_path / "c.html"))


# --- cases ---------------------------------------------------------------------------------------------


def test_detection_cases_are_best_worst_and_missed(detection_run):
    cases = detection_cases(read_run(detection_run))
    assert cases.confidence == 0.31 and cases.samples == 40
    assert cases.missed == [f"PH{k:06d}-H12" for k in range(40) if k % 5 == 3]
    by_group = {group: [case for case in cases.shown if case.group == group] for group in ("best", "worst", "missed")}
    assert [len(items) for items in by_group.values()] == [4, 4, 8]
    assert by_group["best"][0].sample_id == "PH000001-H12" and "IoU 0.88" in by_group["best"][0].note
    assert by_group["worst"][0].note == "no true box, 1 false"
    assert by_group["missed"][0].note == "0 of 1 found"
    assert by_group["best"][0].predicted.xyxy.shape == (1, 4)  # the box of score 0.01 is below the operating point


def test_matching_is_one_to_one_and_by_class():
    truth = boxes_of([[0, 0, 10, 10], [20, 0, 30, 10]], [0, 1])
    found = boxes_of([[0, 0, 10, 10], [0, 0, 10, 9], [20, 0, 30, 10]], [0, 0, 0], [0.9, 0.8, 0.7])
    assert matched_ious(truth, found).tolist() == [1.0]
    assert matched_ious(truth, boxes_of([[20, 0, 30, 8]], [1], [0.5])) == pytest.approx([0.8])
    assert len(boxes_of(None).xyxy) == len(boxes_of(numpy.nan).xyxy) == 0
    assert len(boxes_of([[0, 0, numpy.nan, 1]], [0], [0.5]).xyxy) == 0


def test_drawn_overlay_has_both_colours(detection_run):
    run = read_run(detection_run)
    case = detection_cases(run).shown[0]
    pixels = numpy.asarray(overlay_picture(case, run.images[case.sample_id])).reshape(-1, 3)
    for colour in ((26, 188, 120), (255, 140, 0)):
        assert (pixels == colour).all(axis=1).sum() > 50


def test_published_results_reach_a_tracker(detection_run, tmp_path):
    publish_results(LocalTracker(tmp_path / "out"), detection_run)
    names = {path.name for path in (tmp_path / "out" / "media").iterdir()}
    assert {"results.csv", "subgroups.csv", "detection_pr.json", "detection_confusion.json"} <= names
    cases = pandas.read_csv(tmp_path / "out" / "media" / "cases.csv")
    assert cases["group"].value_counts().to_dict() == {"missed": 8, "best": 4, "worst": 4}
    assert set(cases["overlay (truth dashed)"]) == {name for name in names if name.startswith("cases_")}
    table = pandas.read_csv(tmp_path / "out" / "media" / "results.csv")
    assert table.loc[0, ["metric", "value", "baseline", "data"]].tolist() == ["map50", 0.631, 0.104, "phantom"]


def test_style_sheet_and_templates_are_package_data():
    from importlib.resources import files

    names = {item.name for item in files("clarion.report").joinpath("templates").iterdir()}
    assert {"base.html", "run.html", "comparison.html", "macros.html", "style.css"} <= names


def test_pictures_of_the_documentation_are_there_and_small():
    docs = Path(__file__).resolve().parents[2] / "docs"
    named = set(re.findall(r"\]\(([^)]+\.webp)\)", text_of(docs / "looking_at_runs.md")))
    made = {path.name: path.stat().st_size for path in docs.glob("*.webp")}
    assert named and named <= set(made)
    assert sum(made.values()) < 300_000
    for name in made:
        assert Image.open(docs / name).convert("L").getextrema() != (255, 255), f"{name} is blank"
