"""`clarion score`: files of predictions and of the truth, joined by id, scored without a run."""

import json

import pytest

from clarion.cli import main

TRUTH = "sample_id,codes\na,H40.1131;H25.11\nb,H35.3211\n"


@pytest.fixture
def files(tmp_path):
    rows = [{"sample_id": "b", "codes": []}, {"sample_id": "a", "codes": ["H40.1132", "H25.11"]}]
    (tmp_path / "p.jsonl").write_text("\n".join(json.dumps(r) for r in rows), encoding="utf-8")
    (tmp_path / "t.csv").write_text(TRUTH, encoding="utf-8")
    return str(tmp_path / "p.jsonl"), str(tmp_path / "t.csv")


def test_codes_are_scored_and_a_failure_counts(files, capsys):
    assert main(["score", files[0], "--truth", files[1], "--format", "json"]) == 0
    metrics = json.loads(capsys.readouterr().out)["metrics"]
    assert metrics["leaf_f1"]["value"] == pytest.approx(2 * 1 / (2 + 3))
    assert metrics["coding_failure_rate"]["value"] == 0.5


def test_the_published_protocol_skips_and_says_so(files, capsys):
    assert main(["score", files[0], "--truth", files[1], "--protocol", "clibench"]) == 0
    said = capsys.readouterr().out
    assert "1 of 2 cases without a parsed code are skipped" in said and "leaves out" in said


def test_the_majority_comes_from_the_training_file(files, tmp_path, capsys):
    train = tmp_path / "train.csv"
    train.write_text("sample_id,codes\nx,H35.3211\ny,H35.3211\n", encoding="utf-8")
    main(["score", files[0], "--truth", files[1], "--train", str(train), "--format", "json"])
    result = json.loads(capsys.readouterr().out)
    assert result["baseline"]["leaf_f1"]["value"] == pytest.approx(2 * 1 / (2 + 3))  # H35.3211 for both cases


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["--protocol", "clibensh"], "write clarion or clibench"),
        (["--evaluator", "codin"], "coding"),
        (["--set", "n_resample=5"], "n_resamples"),
        (["--set", "seed"], "KEY=VALUE"),
    ],
)
def test_wrong_usage_is_one_sentence(files, change, said, capsys):
    assert main(["score", files[0], "--truth", files[1], *change]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [("p.jsonl", "{broken", "cannot be read as jsonl"), ("p.csv", "id,codes\na,H40\n", "no column sample_id")],
)
def test_broken_files_are_named(files, tmp_path, name, content, said, capsys):
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert main(["score", str(tmp_path / name), "--truth", files[1]]) == 1
    assert said in capsys.readouterr().err
