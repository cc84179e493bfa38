"""Review sheets and ratings: blind, without identifiers, kind about mistakes, agreement as the library computes it."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import krippendorff
import numpy as np
import pandas as pd
import pytest

from clarion.cancer.rationale.ratings import alpha
from clarion.cancer.rationale.sheet import COLUMNS, CRITERIA
from clarion.cli import main
from clarion.evaluators.factcheck_facts import Facts, Gene


def make_run(folder: Path, name: str, n: int = 6) -> Path:
    run = folder / name
    (run / "predictions").mkdir(parents=True)
    (run / "config.yaml").write_text("model: {name: x}\n", encoding="utf-8")
    facts = Facts((Gene("TP53", 0.4, 0.01, 1.0),), survival=0.3, missing=("slide",)).to_json()
    rows = [{"sample_id": f"S-{k:04d}", "patient_id": f"P-{k:04d}", "facts": facts,
             "text": f"## 요약\nP-{k:04d} is text {k} of {name}.\n<b>사망할 것으로 예측된다.</b>"}
            for k in range(n)]  # fmt: skip
    pd.DataFrame(rows).to_parquet(run / "predictions" / "test.parquet")
    return run


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig"), newline="")))


def fill(sheet: Path, out: Path, reviewer: str, scores, encoding: str = "utf-8", separator: str = ",") -> Path:
    """What a reviewer hands back: scores(k) -> the criteria of the k-th row."""
    with open(out, "w", encoding=encoding, newline="") as file:
        writer = csv.DictWriter(file, COLUMNS[:-2], delimiter=separator, extrasaction="ignore")
        writer.writeheader()
        for k, row in enumerate(rows_of(sheet)):
            writer.writerow(row | {"reviewer": reviewer, **dict(zip(CRITERIA, scores(k), strict=True))})
    return out


@pytest.fixture
def sheet(tmp_path, capsys) -> Path:
    path = tmp_path / "sheet.csv"
    assert main(["review", "sheet", str(make_run(tmp_path, "run_a")), "--out", str(path)]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["items"] == 6 and said["patients"] == 6 and said["split"] == "test"
    return path


def test_a_csv_sheet_is_blind_and_names_nobody(sheet):
    rows = rows_of(sheet)
    key = json.loads(sheet.with_suffix(".key.json").read_text(encoding="utf-8"))
    assert [r["item"] for r in rows] == [f"R{k:03d}" for k in range(1, 7)] and all(not r["validity"] for r in rows)
    text = sheet.read_text(encoding="utf-8")
    assert not re.search(r"[SP]-\d{4}", text) and "[id]" in text and "run_a:" not in text
    assert "Gene TP53: risk" in rows[0]["inputs"] and "예측된다" in rows[0]["text"]
    order = [key["items"][r["item"]]["sample_id"] for r in rows]
    assert sorted(order) == [f"S-{k:04d}" for k in range(6)] and order != sorted(order)
    for row, sample in zip(rows, order, strict=True):
        assert f"text {int(sample[2:])} of" in row["text"]
    assert sheet.with_suffix(".key.json").stat().st_mode & 0o077 == 0


def test_a_page_needs_no_network_and_escapes_texts(tmp_path, capsys):
    runs = [str(make_run(tmp_path, name)) for name in ("run_a", "run_b")]
    page = tmp_path / "sheet.html"
    assert main(["review", "sheet", *runs, "--out", str(page), "--n", "2", "--seed", "3"]) == 0
    assert json.loads(capsys.readouterr().out)["items"] == 4  # two patients, both runs
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"https?://|<link|src=", text) and "default-src 'none'" in text
    assert "<b>" not in text and "&lt;b&gt;" in text and text.count('type="radio"') == 4 * 3 * 5
    assert not re.search(r"@[A-Z]+@|[SP]-\d{4}", text) and "<h3>요약</h3>" in text


def test_marks_of_the_page_in_a_text_stay_text(tmp_path, capsys):
    run = make_run(tmp_path, "run_a", 1)
    said = "It says @SETTINGS@, @COUNT@ and @ITEMS@."
    table = pd.DataFrame({"sample_id": ["S-0001"], "patient_id": ["P-0001"], "text": [said]})
    table.to_parquet(run / "predictions" / "test.parquet")
    page = tmp_path / "sheet.html"
    assert main(["review", "sheet", str(run), "--out", str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    assert f"<p>{said}</p>" in text and "of 1 complete" in text
    assert json.loads(re.search(r"const settings = (.*);", text)[1])["criteria"] == list(CRITERIA)


def test_other_files_named_like_keys_are_passed_over(sheet, tmp_path, capsys):
    good = fill(sheet, tmp_path / "one.csv", "rater", lambda k: (3, 4, 5))
    (tmp_path / "a.key.json").write_text('{"kty": "RSA"}')
    (tmp_path / "b.key.json").write_text("{")
    assert main(["review", "read", str(good), "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["n_ratings"] == 6


def test_ratings_give_means_and_krippendorffs_alpha(sheet, tmp_path, capsys):
    one = fill(sheet, tmp_path / "one.csv", "rater1", lambda k: (1 + k % 5, 4, 5))
    two = fill(sheet, tmp_path / "two.csv", "평가자2", lambda k: (1 + (k + (k == 0)) % 5, 4, 1 + k % 5), "cp949", ";")
    assert main(["review", "read", str(one), str(two), "--format", "json", "--out", str(tmp_path / "r.json")]) == 0
    result = json.loads(capsys.readouterr().out)
    assert json.loads((tmp_path / "r.json").read_text(encoding="utf-8")) == result
    validity = result["criteria"]["validity"]
    first = [1 + k % 5 for k in range(6)]
    second = [1 + (k + (k == 0)) % 5 for k in range(6)]
    assert validity["mean"]["value"] == pytest.approx(np.mean(first + second))
    assert validity["mean"]["low"] < validity["mean"]["value"] < validity["mean"]["high"]
    expected = krippendorff.alpha([first, second], level_of_measurement="ordinal")
    assert validity["alpha"]["value"] == pytest.approx(expected) and validity["alpha"]["n"] == 6
    assert validity["alpha"]["low"] <= expected <= validity["alpha"]["high"]
    assert result["criteria"]["logic"]["alpha"]["value"] is None  # all alike: nothing to agree or disagree on
    assert result["criteria"]["fluency"]["alpha"]["value"] < 0.2
    assert result["raters"]["rater1"]["fluency"] == 5 and result["n_raters"] == 2 and result["n_patients"] == 6
    assert main(["review", "read", str(one), str(two)]) == 0
    assert "validity" in (shown := capsys.readouterr().out) and "평가자2 (n=6)" in shown and "not defined" in shown


def test_alpha_equals_a_published_example():
    """Hayes & Krippendorff's example of the library's documentation: ordinal alpha 0.815."""
    nan = np.nan
    table = np.array([[1, 2, 3, 3, 2, 1, 4, 1, 2, nan, nan, nan], [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, nan, 3],
                      [nan, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, nan], [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, nan]])  # fmt: skip
    counts = np.array([[(column == v).sum() for v in range(1, 6)] for column in table.T])
    assert alpha(counts) == pytest.approx(0.815, abs=5e-4)


def test_one_reviewer_and_empty_cells(sheet, tmp_path, capsys):
    one = fill(sheet, tmp_path / "one.csv", "a", lambda k: (k % 5 + 1, "", 3) if k < 4 else ("", "", ""))
    assert main(["review", "read", str(one), "--format", "json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["n_ratings"] == 4 and result["criteria"]["logic"]["mean"]["value"] is None
    assert result["criteria"]["validity"]["alpha"]["value"] is None
    notes = " ".join(result["notes"])
    assert "no item was rated by two" in notes and "left empty" in notes


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda t: t.replace(",3,4,5,", ",3,6,5,", 1), "logic is '6', not a whole number from 1 to 5"),
        (lambda t: t.replace(",3,4,5,", ",3.5,4,5,", 1), "validity is '3.5'"),
        (lambda t: t.replace("R002", "R022"), "no item 'R022'"),
        (lambda t: t.replace("R002", "R001"), "rated R001 already"),
        (lambda t: t.replace(",rater,", ",Dr. Kim <k@x.kr>,", 1), "is no pseudonym"),
        (lambda t: t.replace("validity", "validty"), "lacks the column"),
        (lambda t: "\n".join(t.splitlines()[:1]) + "\n", "hold no rating"),
        (lambda t: re.sub(r"^[0-9a-f]{8},R003", "00000000,R003", t, flags=re.M), "belongs to sheet 00000000"),
    ],
)
def test_mistakes_of_a_file_are_named(sheet, tmp_path, capsys, damage, said):
    good = fill(sheet, tmp_path / "one.csv", "rater", lambda k: (3, 4, 5))
    bad = tmp_path / "bad.csv"
    bad.write_text(damage(good.read_text(encoding="utf-8")), encoding="utf-8")
    key = str(sheet.with_suffix(".key.json"))
    assert main(["review", "read", str(bad), "--key", key]) == 1
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error


def test_wrong_usage_is_named(sheet, tmp_path, capsys):
    run, good = str(tmp_path / "run_a"), fill(sheet, tmp_path / "one.csv", "r", lambda k: (3, 4, 5))
    other = tmp_path / "elsewhere"
    other.mkdir()
    (other / "one.csv").write_bytes(good.read_bytes())
    untexted = make_run(tmp_path, "numbers")
    pd.DataFrame({"sample_id": ["a"], "patient_id": ["a"], "risk": [1.0]}).to_parquet(
        untexted / "predictions" / "test.parquet"
    )
    for arguments, status, said in (
        (["sheet", run], 2, "--out"),
        (["sheet", run, "--out", "x.pdf"], 2, ".csv or a .html"),
        (["sheet", str(other), "--out", "x.csv"], 2, "not a run directory"),
        (["sheet", run, "--out", "x.csv", "--split", "dev"], 2, "--split dev"),
        (["sheet", run, run, "--out", "x.csv"], 2, "same name"),
        (["sheet", str(untexted), "--out", "x.csv"], 2, "no column text"),
        (["read", str(tmp_path / "none.csv")], 2, "no such file"),
        (["read", str(other / "one.csv")], 2, "--key"),
        (["read", str(good), "--key", str(good)], 1, "no key of a review sheet"),
    ):
        assert main(["review", *arguments]) == status, arguments
        assert said in capsys.readouterr().err
