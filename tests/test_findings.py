"""The schema of findings: nothing that is no measurement gets in, and what was written is read back."""

from __future__ import annotations

import json

import pytest

from clarion.errors import DataError
from clarion.findings import SCHEMA, Document, Finding, read_document


def document() -> Document:
    found = Document("P1", "s1", "Spectralis", "2026-01-02T03:04:05+00:00", data_kind="public")
    found.add(
        Finding("erm_area", "Area", 4.5, "mm2", (4.1, 5.0, 0.95), "Summed.", {"model": "ab12"}, ("H01", "mask"), "OD",
                codes={"snomed": "1"}, quality="flagged", why="Two lines are missing.", data_kind="public"),
        Finding("erm_present", "Present", True, data_kind="public"),
        Finding("stage", "Stage", 3, "1", data_kind="public"),
        Finding("pit", "망막 오목", "absent", data_kind="public"),
    )  # fmt: skip
    found.omit("volume", "The outer ring was not scanned.")
    found.warnings.append({"name": "scale_nominal", "message": "The scale is nominal."})
    return found


def test_read_back_equals_what_was_written(tmp_path):
    path = document().write(tmp_path / "findings.json")
    assert read_document(path) == document()
    data = json.loads(path.read_text(encoding="utf-8"))
    assert data["schema"] == SCHEMA and data["findings"][0]["interval"] == [4.1, 5.0, 0.95]
    assert data["findings"][0]["quality"] == {"state": "flagged", "why": "Two lines are missing."}
    assert data["findings"][1]["value"] is True and "망막 오목" in path.read_text(encoding="utf-8")


def test_values_by_id():
    found = document()
    assert found.value("erm_area") == 4.5 and found.value("nothing") is None
    assert found.get("stage").value == 3 and found.get("nothing") is None


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"value": float("nan")}, "no measurement"),
        ({"value": float("inf")}, "no measurement"),
        ({"data_kind": "mixed"}, "mixed"),
        ({"quality": "poor"}, "poor"),
        ({"quality": "flagged"}, "without a reason"),
        ({"interval": (2.0, 1.0, 0.95)}, "upside down"),
        ({"interval": (float("nan"), 1.0, 0.95)}, "upside down"),
    ],
)
def test_what_is_no_finding_is_refused(fields, says):
    with pytest.raises(ValueError, match=says):
        Finding(**{"id": "x", "name": "X", "value": 1.0, "unit": "um", **fields})


def test_an_id_is_taken_once():
    found = document()
    with pytest.raises(ValueError, match="erm_area"):
        found.add(Finding("new", "New", 1.0), Finding("erm_area", "Again", 1.0))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "cannot be read"),
        ("[]", "findings.json"),
        ('{"schema": "other/9"}', "other/9"),
        (json.dumps({"schema": SCHEMA, "patient": "P"}), "damaged"),
        (b"\xff\xfe\x00", "cannot be read"),
    ],
)
def test_what_is_no_document_is_a_sentence(tmp_path, content, says):
    path = tmp_path / "findings.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=says):
        read_document(path)


@pytest.mark.parametrize(
    ("field", "value"), [("interval", [2, 1, 0.95]), ("value", None), ("quality", "ok"), ("derived_from", None)]
)
def test_damaged_rows_are_a_sentence(tmp_path, field, value):
    path = document().write(tmp_path / "findings.json")
    data = json.loads(path.read_text(encoding="utf-8"))
    data["findings"][0][field] = value
    path.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(DataError, match="damaged"):
        read_document(path)


def test_a_missing_file_is_a_sentence(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        read_document(tmp_path / "nothing.json")


def test_numpy_numbers_are_written_as_numbers(tmp_path):
    import numpy as np

    found = Document("P", "s", "d", "2026-01-01T00:00:00+00:00")
    found.add(Finding("a", "A", np.float32(1.5), "um", (np.float64(1), np.float64(2), 0.95)))
    assert read_document(found.write(tmp_path / "f.json")).value("a") == 1.5
    with pytest.raises(ValueError, match="no measurement"):
        Finding("b", "B", np.float32("nan"))
