"""`clarion quantify` and `clarion compare` as a user types them, with the networks that Clarion ships."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from clarion import cli, quantifying
from clarion.errors import UsageError
from clarion.findings import read_document
from clarion.oct.phantom import make_eye

SEED, STAGE = 900_104, 2


@pytest.fixture(scope="module")
def quantified(command, tmp_path_factory) -> tuple[Path, dict, str]:
    """(folder, summary on stdout, stderr) of a phantom eye measured by a fresh process."""
    out = tmp_path_factory.mktemp("quantified") / "eye"
    done = command("clarion", "quantify", f"phantom:{SEED}:{STAGE}", "--out", str(out), "--export", "dicom,fhir")
    assert done.returncode == 0, done.stderr
    return out, json.loads(done.stdout), done.stderr


@pytest.fixture(scope="module")
def models():
    """The shipped networks, loaded once."""
    opened = quantifying.open_models(None, quantifying.LAYERS, quantifying.PRESENCE, "head", "cpu")
    return lambda: opened


def test_the_phantom_eye_comes_out_as_it_is(quantified):
    out, summary, _ = quantified
    eye, document = make_eye(SEED, STAGE), read_document(out / "findings.json")
    area = document.get("erm_area")
    assert area.interval[0] <= eye.erm_area_mm2 <= area.interval[1]
    assert area.value == pytest.approx(eye.erm_area_mm2, rel=0.2)
    csf = document.get("central_subfield_thickness")
    assert csf.value == pytest.approx(eye.central_subfield_um, abs=8) and csf.interval is not None
    assert abs(document.value("govetto_stage") - STAGE) <= 1
    assert summary["findings"]["erm_area"]["unit"] == "mm2" and summary["data_kind"] == "phantom"
    assert document.data_kind == "phantom" and all(f.data_kind == "phantom" for f in document.findings)
    assert len(area.source["hash"]) >= 16 and area.source["model"] == "shipped:erm_presence"


def test_everything_is_written(quantified):
    out, summary, stderr = quantified
    names = {p.name for p in out.iterdir()}
    assert names == {"findings.json", "report.html", "maps.npz", "fhir.json", "sr.dcm", "opt_H.dcm", "opt_V.dcm",
                     "seg_H.dcm", "seg_V.dcm"} == set(summary["files"])  # fmt: skip
    with np.load(out / "maps.npz", allow_pickle=False) as maps:
        step = maps["grid_x0_y0_step_mm"][2]
        area = float(np.nansum(maps["erm_probability"])) * step**2
        assert maps["thickness_total_um"].shape == maps["erm_probability"].shape
    assert area == pytest.approx(summary["findings"]["erm_area"]["value"], rel=0.2)
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "phantom" in page and not re.search(r"(src|href)=[\"']https?:", page)
    assert "layers:" in stderr  # progress is told beside stdout


def test_the_own_export_reads_back_to_the_same_eye(quantified, models, tmp_path):
    out, summary, _ = quantified
    folder = tmp_path / "dicom"
    folder.mkdir()
    for name in ("opt_H.dcm", "opt_V.dcm"):
        shutil.copy(out / name, folder / name)
    again = quantifying.quantify_path(str(folder), tmp_path / "again", models, {}, set(), page=False)
    for name in ("erm_area", "central_subfield_thickness"):
        assert again["findings"][name]["value"] == pytest.approx(summary["findings"][name]["value"], rel=0.02)


def test_another_studys_findings_are_not_written_over(quantified, capsys):
    out, _, _ = quantified
    before = (out / "findings.json").read_bytes()
    assert cli.main(["quantify", "phantom:7", "--out", str(out)]) == 2
    assert "findings of another study" in capsys.readouterr().err
    assert (out / "findings.json").read_bytes() == before


@pytest.mark.parametrize("argv, code, said", [
    (["quantify", "no/such/file.vol"], 1, "does not exist"),
    (["quantify", "phantom:1:9"], 2, "phantom:SEED:STAGE"),
    (["quantify", "phantom", "--spacing", "3,x"], 2, "--spacing"),
    (["quantify", "phantom", "--export", "dicm"], 2, "Did you mean `dicom`?"),
    (["quantify", "phantom:3:2", "--layers", "shipped:layer_unet"], 2, "Did you mean `layers_unet`?"),
    (["quantify", "phantom:3:2", "--detector", "no/such/run"], 2, "no such run"),
    (["quantify", "phantom:3:2", "--out", "pyproject.toml"], 2, "is a file"),
    (["compare", "phantom:3:2", "phantom:3:2", "--out", "x"], 2, "the same scan"),
    (["compare", "phantom:3:2", "phantom:3:2:100", "--years", "-1", "--out", "x"], 2, "give them in order"),
])  # fmt: skip
def test_mistakes_end_in_a_sentence(argv, code, said, capsys, tmp_path):
    if "--out" not in argv:
        argv = [*argv, "--out", str(tmp_path / "out")]
    assert cli.main(argv) == code
    err = [line for line in capsys.readouterr().err.splitlines() if line.startswith("clarion ")]
    assert len(err) == 1 and said in err[0], err
    assert not (tmp_path / "out").exists()


def test_laterality_mismatch_stops(capsys, tmp_path):
    wrong = "OS" if make_eye(SEED, STAGE).laterality == "OD" else "OD"
    argv = ["quantify", f"phantom:{SEED}:{STAGE}", "--laterality", wrong, "--out", str(tmp_path / "x")]
    assert cli.main(argv) == 1
    assert wrong in capsys.readouterr().err and not (tmp_path / "x").exists()


def test_two_visits_are_compared(models, tmp_path):
    first, second = f"phantom:{SEED}:{STAGE}", f"phantom:{SEED}:{STAGE}:150"
    found = quantifying.compare_paths(first, second, tmp_path / "out", models, {}, years=0.5)
    truth = make_eye(SEED, STAGE).erm_area_mm2
    grown = json.loads((tmp_path / "out" / "progression.json").read_text(encoding="utf-8"))
    assert grown["area"]["value"] > 0 and grown["area"]["changed"]
    assert grown["growth_mm2_per_year"][0] == pytest.approx(2 * grown["area"]["value"])
    assert truth * 0.02 < found["area"]["value"] < truth
    assert (tmp_path / "out" / "progression.html").is_file()
    assert read_document(tmp_path / "out" / "visit2" / "findings.json").findings


@pytest.mark.parametrize("name, thickness_um", [
    ("Linescan_1.vol", (300, 340)), ("fda_minimized.fda", (150, 400)),
    ("heyex_vol/test_volume.vol", None), ("heyex_xml/test_volume", None),
])  # fmt: skip
def test_public_files(real_data, models, tmp_path, name, thickness_um, caplog):
    """Real exports give numbers with units, and every warning reaches the findings."""
    path = real_data / "oct" / name
    summary = quantifying.quantify_path(str(path), tmp_path / "out", models, {"data_kind": "public"}, set())
    document = read_document(tmp_path / "out" / "findings.json")
    assert "calibrated_on_phantoms" in {w["name"] for w in document.warnings}
    assert summary["warnings"] == document.warnings
    for warning in document.warnings:
        assert warning["message"] in caplog.text
    assert document.findings and all(f.unit for f in document.findings if isinstance(f.value, float))
    if thickness_um:
        low, high = thickness_um
        assert low < document.value("line_thickness_median") < high
        assert {"erm_area", "govetto_stage"} <= {o["name"] for o in document.omitted}
    assert all(str(part) not in json.dumps(document.to_dict()) for part in (real_data, os.sep + "oct" + os.sep))


def test_exports_are_parsed():
    assert quantifying.parse_exports(None) == set() and quantifying.parse_exports("fhir, dicom") == {"fhir", "dicom"}
    with pytest.raises(UsageError):
        quantifying.parse_exports("pdf")
