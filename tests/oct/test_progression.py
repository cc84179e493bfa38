"""Change between two visits: found, told from noise, and refused where visits cannot be compared."""

import json
from dataclasses import replace
from datetime import date
from functools import lru_cache
from types import SimpleNamespace

import numpy as np
import pytest

from clarion.errors import DataError, UsageError
from clarion.oct.enface import Grid
from clarion.oct.phantom import make_eye
from clarion.oct.phantom.revisit import revisit
from clarion.oct.progression import Repeatability, compare, load_repeatability, repeatability_of
from clarion.oct.registration import Registration
from clarion.oct.validation.progression import measure, measure_repeatability, true_study
from clarion.oct.volume import Scan, Volume
from clarion.samples import Prediction

GRID = Grid(-4.0, -3.5, 200, 175, 0.04)
STILL = Registration(0.0, (0.0, 0.0), 1.0, 9.0, 0.0, 1.0, "localiser", True)
LIMITS = Repeatability(0.05, 0.02, {"CSF": 2.0, "inner": 1.5, "outer": 1.0}, 0.24, 50, "test")


def visit(radius=1.0, thickness=300.0, area=None, **fields):
    """A made-up study: a round membrane and a flat retina."""
    x, y = GRID.mm()
    blank = np.zeros((100, 64), np.uint8)
    scans = tuple(Scan(f"H{k}", blank, "H", k, (-4, 0.24 * k - 3.4), (4, 0.24 * k - 3.4)) for k in range(29))
    volume = Volume(scans, 3.87, "OD", "P1", f"s{radius}{thickness}{fields}", "Spectralis", "vol", "phantom")
    probability = np.clip(0.5 + (radius - np.hypot(x, y)) / 0.04, 0, 1).astype(np.float32)
    return SimpleNamespace(
        volume=replace(volume, **fields), grid=GRID, projection=SimpleNamespace(probability=probability),
        thickness=SimpleNamespace(total=np.full(x.shape, thickness, np.float32)),
        fovea=SimpleNamespace(x_mm=0.0, y_mm=0.0, confident=True, why=""),
        area=None if area is None else SimpleNamespace(value_mm2=area),
    )  # fmt: skip


def compared(first, second, **options):
    return compare(first, second, repeatability=LIMITS, registration=STILL, **options)


def test_growth_and_thickening_are_measured():
    found = compared(visit(1.0), visit(1.2, 312.0), years=2.0)
    truth = np.pi * (1.2**2 - 1.0)
    assert found.area.value == pytest.approx(truth, abs=0.02) and found.area.verdict == "increased"
    assert found.growth_mm2_per_year[0] == pytest.approx(truth / 2, abs=0.01)
    low, high, level = found.area.interval
    assert low < truth < high and level == 0.95
    assert found.csf.value == pytest.approx(12) and found.csf.changed and len(found.sectors) == 9
    assert found.new_erm.sum() * GRID.pixel_mm2 == pytest.approx(truth, rel=0.05) and not found.lost_erm.any()
    assert np.nanmedian(found.thickness_change_um) == pytest.approx(12)
    data = json.loads(json.dumps(found.to_dict()))
    assert data["area"]["verdict"] == "increased" and data["lost_erm_mm2"] == 0 and data["csf"]["unit"] == "um"


def test_less_than_the_limit_is_no_change():
    found = compared(visit(1.0), visit(1.01, 302.0))
    assert not found.area.changed and found.csf.verdict == "no change beyond repeatability"
    back = compared(visit(1.3, 320.0), visit(1.0, 300.0))
    assert back.area.verdict == "decreased" and back.csf.verdict == "decreased"
    assert back.lost_erm.any() and not back.new_erm.any()


def test_reported_areas_are_shared_out():
    found = compared(visit(1.0, area=4.0), visit(1.0, area=4.4))
    assert (found.area.first, found.area.second) == (pytest.approx(4.0), pytest.approx(4.4))


def test_only_what_both_scanned_counts():
    first, second = visit(1.0), visit(1.0)
    second.projection.probability[:, GRID.mm()[0][0] > 0.5] = np.nan
    found = compared(first, second)
    assert found.area.value == pytest.approx(0, abs=0.02) and found.area.first < np.pi - 0.3
    assert any(f.name == "little_in_common" for f in found.flags)


def test_years_come_from_the_dates_or_the_user():
    dated = [visit(1.0, acquired=date(2020, 1, 1)), visit(1.2, acquired=date(2022, 1, 1))]
    assert compared(*dated).years == pytest.approx(2, abs=0.01)
    assert compared(*dated, years=0.5).years == 0.5
    unknown = compared(visit(1.0), visit(1.2))
    assert unknown.growth_mm2_per_year is None and "years" in unknown.omitted["growth"]
    with pytest.raises(DataError, match="earlier"):
        compared(*dated[::-1])
    with pytest.raises(UsageError, match="above 0"):
        compared(*dated, years=0)


def test_two_sides_are_never_compared():
    with pytest.raises(DataError, match="right eye, the second of a left eye"):
        compared(visit(), visit(laterality="OS"))


def test_doubts_are_flagged():
    found = compared(visit(), visit(patient_id="P2", device="Cirrus", laterality=None))
    assert {"patient_differs", "device_differs", "laterality_unknown"} <= {f.name for f in found.flags}
    assert "same_scan" in {f.name for f in compared(visit(), visit()).flags}
    loose = replace(STILL, residual_mm=0.2, proves_identity=False)
    found = compare(visit(), visit(1.1), repeatability=LIMITS, registration=loose)
    assert {"registration_loose", "registered_on_thickness"} <= {f.name for f in found.flags}


def test_the_record_says_whose_scans_were_compared_and_of_what_kind():
    first, second = visit(device="A"), visit(1.1, device="B", data_kind="phantom", patient_id="P2")
    data = compared(first, second).to_dict()
    assert data["data_kind"] == "phantom"
    assert data["visits"] == [
        {"study": first.volume.study_id, "patient": "P1", "device": "A", "data_kind": "phantom"},
        {"study": second.volume.study_id, "patient": "P2", "device": "B", "data_kind": "phantom"},
    ]
    for kinds, said in ((("public", "public"), "public"), (("phantom", "public"), "private")):
        assert compared(*(visit(1 + k, data_kind=kind) for k, kind in enumerate(kinds))).data_kind == said


def test_what_is_missing_is_omitted_with_its_reason():
    first, second = visit(), visit(1.1)
    second.projection = None
    first.fovea = second.fovea = None
    found = compared(first, second)
    assert found.area is None and found.csf is None and {"area_change", "csf_change"} <= set(found.omitted)
    first.thickness = second.thickness = first.projection = None
    with pytest.raises(DataError, match="nothing to compare"):
        compared(first, second)


def test_the_later_fovea_serves_where_the_first_is_unsure():
    first, second = visit(), visit(1.1, 310)
    first.fovea = SimpleNamespace(x_mm=9.0, y_mm=9.0, confident=False, why="")
    assert compared(first, second).csf.value == pytest.approx(10)


def test_limits_follow_area_and_line_spacing():
    assert LIMITS.area_sd_mm2(4.0, 0.24) == pytest.approx(0.10)
    assert LIMITS.area_sd_mm2(0.0, 0.24) == 0.02
    assert LIMITS.area_sd_mm2(4.0, 0.48) == pytest.approx(0.10 * 2**1.5)
    assert LIMITS.area_sd_mm2(4.0, 0.12) == pytest.approx(0.10)
    rng = np.random.default_rng(0)
    area = rng.uniform(1, 20, 4000)
    pairs = np.column_stack([area, area + 0.07 * np.sqrt(area) * rng.standard_normal(4000)])
    found = repeatability_of(pairs, {k: rng.normal(0, 3, 4000) for k in ("CSF", "inner", "outer")}, 0.24, "test")
    assert found.area_mm == pytest.approx(0.07, rel=0.05) and found.thickness_um["CSF"] == pytest.approx(3, rel=0.05)


def test_shipped_repeatability_says_what_it_rests_on():
    shipped = load_repeatability()
    assert shipped.n >= 50 and shipped.source and 0 < shipped.area_mm < 0.5
    assert 0 < shipped.thickness_um["outer"] <= shipped.thickness_um["CSF"] < 10


def test_a_phantom_eye_that_changed_and_one_that_did_not():
    eye = make_eye(880_002, 2)
    first = true_study(eye)
    same = compare(first, true_study(revisit(eye, 7)))
    assert not same.area.changed and not same.csf.changed
    grown = revisit(eye, 8, growth_mm=0.2, thickening_um=25.0)
    found = compare(first, true_study(grown), years=1.0)
    assert found.area.changed and found.csf.value == pytest.approx(25, abs=2)
    assert found.area.value == pytest.approx(grown.erm_area_mm2 - eye.erm_area_mm2, rel=0.1)
    with pytest.raises(DataError, match="do not match"):
        other = make_eye(880_004, 2)
        compare(first, true_study(replace(other, laterality=eye.laterality)))


def test_validation_table_is_complete(tmp_path):
    result = measure(5, source="truth", workers=1, planted=((0.0, 0.0),))
    assert all(len(row) == len(result["columns"]) for row in result["rows"]) and len(result["rows"]) == 1
    assert result["figures"]["registration_rms_um"]["value"] < 20
    assert result["figures"]["area_false_change"]["n"] == 4
    found = measure_repeatability(3, "degraded", workers=1, path=tmp_path / "r.json")
    assert json.loads((tmp_path / "r.json").read_text())["repeatability"]["n"] == found.n == 3
    with pytest.raises(UsageError):
        measure(2)


def test_repeatability_can_be_measured_with_predictors():
    eye_of = lru_cache(lambda seed: make_eye(seed, seed % 5))

    def of_first_visit(samples, name):  # stands in for networks: what is true of the eye at its first visit
        for sample in samples:
            direction, line = sample.sample_id[0], int(sample.sample_id[1:])
            eye = eye_of(int(sample.patient_id[2:]))
            cut = eye.section(eye.line_rng(direction, line), direction, line)
            values = {"surfaces": cut.surfaces, "presence": cut.presence.astype(np.float32)}
            assert name == "surfaces" or sample.inputs["ilm"].shape == cut.presence.shape
            yield Prediction(sample.sample_id, sample.patient_id, {name: values[name]})

    found = measure_repeatability(
        1,
        layers_predictor=lambda samples: of_first_visit(samples, "surfaces"),
        presence_predictor=lambda samples: of_first_visit(samples, "presence"),
    )
    assert found.n == 1 and found.source.startswith("predicted") and found.thickness_um["outer"] < 30
