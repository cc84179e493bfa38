"""Stage from foveal numbers, its trace, and when it cannot be told."""

from types import SimpleNamespace

import numpy as np
import pytest

from clarion.oct.phantom import make_eye
from clarion.oct.staging import grade
from clarion.oct.validation.eyes import true_volume
from clarion.oct.validation.stage import agreement, measure, true_fovea
from clarion.oct.volume import SURFACES, Scan, Volume
from clarion.samples import Prediction

AXIAL, WIDTH, LENGTH = 4.0, 600, 6.0


def slab(centre, rim, eifl, onl, wall=0.5):
    """Rows [8, WIDTH] of one line through a fovea with the given um at its centre and a rim of healthy layers."""
    s = np.abs((np.arange(WIDTH) + 0.5) * LENGTH / WIDTH - LENGTH / 2)
    weight = np.exp(-((s / wall) ** 4))
    total = rim + (centre - rim) * weight
    inner = (rim - 178) * (1 - weight) + eifl * weight
    opl_onl = np.minimum(total - 48 - (onl + 30), total - inner) * weight + (total - inner - 30) * (1 - weight)
    above_bm = np.stack([total, total - 0.1 * inner, total - 0.6 * inner, total - inner, np.zeros_like(s), 0 * s + 48,
                         0 * s + 18, 0 * s])  # fmt: skip
    above_bm[4] = np.where(weight > 0.5, 48 + onl + 30, np.minimum(opl_onl, total - inner))
    return (400 - above_bm / AXIAL).astype(np.float32)


def study(rows, directions="HV", at=0.0):
    blank = np.zeros((496, WIDTH), np.uint8)
    half = LENGTH / 2
    ends = {"H": ((-half, at), (half, at)), "V": ((at, half), (at, -half))}
    scans = tuple(Scan(f"{d}0", blank, d, 0, *ends[d]) for d in directions)
    volume = Volume(scans, AXIAL, "OD", "p", "s", "test", "folder", "phantom")
    return volume, [rows.copy() for _ in scans]


CENTRE = SimpleNamespace(x_mm=0.0, y_mm=0.0, confident=True, why="")


@pytest.mark.parametrize(
    ("numbers", "share", "stage"),
    [
        ((246, 320, 7.5, 126), 0.0, 0),
        ((258, 330, 12, 143), 0.5, 1),
        ((346, 350, 27, 201), 0.5, 2),
        ((434, 420, 161, 206), 0.7, 3),
        ((614, 500, 362, 177), 0.9, 4),
    ],
)
def test_published_means_give_their_stage(numbers, share, stage):
    volume, surfaces = study(slab(*numbers))
    found = grade(volume, surfaces, CENTRE, erm_share=share)
    assert found.value == stage, found.trace
    assert found.measures["eifl_um"] == pytest.approx(numbers[2], abs=2)
    assert found.measures["onl_um"] == pytest.approx(numbers[3], abs=2)
    assert found.measures["central_um"] == pytest.approx(numbers[0], abs=2)
    assert found.trace and f"stage {stage}" in " ".join(found.trace)
    assert found.scan_ids == ("H0", "V0") and found.to_dict()["value"] == stage


def test_a_shallow_pit_is_decided_by_the_inner_layers():
    for eifl, stage in ((12, 1), (27, 2)):
        volume, surfaces = study(slab(300, 322, eifl, 150))
        found = grade(volume, surfaces, CENTRE, erm_share=0.5)
        assert found.value == stage and "too close to tell" in " ".join(found.trace)


def test_ectopic_layers_that_are_interrupted_are_not_stage_3():
    rows = slab(434, 420, 161, 206)
    gap = np.abs(np.arange(WIDTH) - WIDTH // 2 - 18) < 5
    rows[:4, gap] = rows[3, gap] - 1
    volume, surfaces = study(rows)
    found = grade(volume, surfaces, CENTRE, erm_share=0.5)
    assert found.value == 2 and "not continuous" in " ".join(found.trace)


def test_steep_walls_are_told():
    volume, surfaces = study(slab(210, 390, 14, 100, wall=0.2))
    assert any("hole" in line for line in grade(volume, surfaces, CENTRE, erm_share=0.4).trace)
    volume, surfaces = study(slab(258, 330, 12, 143))
    assert not any("hole" in line for line in grade(volume, surfaces, CENTRE, erm_share=0.4).trace)


def test_cannot_tell():
    rows = slab(258, 330, 12, 143)
    volume, surfaces = study(rows)
    assert "not found" in grade(volume, surfaces, None, erm_share=0.4).why
    unsure = SimpleNamespace(x_mm=0.0, y_mm=0.0, confident=False, why="two minima")
    assert "two minima" in grade(volume, surfaces, unsure, erm_share=0.4).why
    assert "not measured" in grade(volume, surfaces, CENTRE).why
    torn = rows.copy()
    torn[SURFACES.index("INL/OPL"), 280:320] = np.nan
    found = grade(volume, [torn, torn], CENTRE, erm_share=0.4)
    assert found.value is None and "foveal centre" in found.why and found.name == "cannot tell"
    half_torn = grade(volume, [rows, torn], CENTRE, erm_share=0.4)
    assert half_torn.value == 1 and half_torn.scan_ids == ("H0",) and "one direction" in half_torn.trace[-1]
    away, surfaces = study(rows, at=0.4)
    found = grade(away, surfaces, CENTRE, erm_share=0.4)
    assert found.value is None and "central scans are missing" in found.why


def test_phantom_without_its_central_scans_cannot_be_told():
    eye = make_eye(880_003, 3)
    middle = eye.geometry.lines // 2
    volume, surfaces, presence = true_volume(eye, [n for n in range(25) if abs(n - middle) > 3])
    assert grade(volume, surfaces, true_fovea(eye), presence).value is None
    volume, surfaces, presence = true_volume(eye)
    assert grade(volume, surfaces, true_fovea(eye), presence).value == 3


def test_kappa_knows_perfect_chance_and_near_agreement():
    truth = np.repeat(np.arange(5), 20)
    assert agreement(truth, list(truth))["kappa"].value == 1
    shuffled = np.random.default_rng(0).permutation(truth)
    assert abs(agreement(truth, list(shuffled))["kappa"].value) < 0.25
    near, far = truth.copy(), truth.copy()
    near[::5] = np.clip(near[::5] + 1, 0, 4)
    far[::5] = 4 - far[::5]
    part = [agreement(truth, list(v))["kappa"] for v in (near, far)]
    assert part[0].value > part[1].value and part[0].low < part[0].value < part[0].high
    told = agreement(truth, [None if k % 10 == 0 else int(t) for k, t in enumerate(truth)])
    assert told["n"] == 90 and told["cannot_tell"].value == pytest.approx(0.1)


def test_phantom_eyes_are_staged_and_the_table_is_complete():

    def truthful(samples):  # stands in for a layers network: the true rows, joined by id
        for sample in samples:
            direction, line = sample.sample_id[0], int(sample.sample_id[1:])
            seed = int(sample.patient_id[2:])
            eye = make_eye(seed, seed % 5)
            assert sample.inputs["bscan"].max() > 100, "a rendered picture"
            rows = eye.section(eye.line_rng(direction, line), direction, line).surfaces
            yield Prediction(sample.sample_id, sample.patient_id, {"surfaces": rows, "sd": np.ones_like(rows)})

    result = measure(5, layers_predictor=truthful, workers=1)
    predicted = result["figures"]["kappa_predicted_surfaces_true_fovea"]
    assert predicted["value"] == result["figures"]["kappa_true_surfaces_true_fovea"]["value"] and predicted["n"] == 5
    value = result["figures"]["kappa_true_surfaces_true_fovea"]
    assert value["value"] > 0.85 and value["n"] == 5
    assert all(len(row) == len(result["columns"]) for row in result["rows"])
    assert {"part", "title", "columns", "rows", "notes", "n", "data", "figures"} <= set(result)
