"""ETDRS sectors: known areas, constant, ramp and cone, sides of both eyes, gaps."""

from math import pi

import numpy as np
import pytest

from clarion.oct.enface import Grid
from clarion.oct.etdrs import AREA_MM2, LOINC, centre_point, sector_names, sector_weights, sectors, volume_mm3

GRID = Grid(-4.5, -4.2, 300, 280)
CENTRE = (0.113, -0.207)  # off the pixels


def test_areas_are_those_of_the_circles():
    weights = sector_weights(GRID, *CENTRE)
    area = weights.sum((1, 2)) * GRID.pixel_mm2
    nominal = [AREA_MM2["CSF"], *[AREA_MM2["inner"]] * 4, *[AREA_MM2["outer"]] * 4]
    assert np.allclose(area, nominal, rtol=3e-3)
    assert sum(nominal) == pytest.approx(9 * pi)
    assert weights.sum(0).max() <= 1 + 1e-6


def test_constant_map_and_its_volume():
    found = sectors(np.full((280, 300), 300.0, np.float32), GRID, CENTRE, "OD")
    assert all(s.mean == pytest.approx(300) and s.coverage > 0.995 for s in found.values())
    volume = volume_mm3(found)
    assert volume.mean == pytest.approx(9 * pi * 0.3) and volume.coverage > 0.995


def test_linear_ramp_gives_the_centroids():
    x, y = GRID.mm()
    found = sectors(100 + 10 * (x - CENTRE[0]) + 4 * (y - CENTRE[1]), GRID, CENTRE, None)
    # Centroid of a quarter ring between a and b: (2/3) (b^3 - a^3) / (b^2 - a^2) * sin(45 deg) / (pi / 4)
    inner, outer = (
        2 / 3 * (b**3 - a**3) / (b**2 - a**2) * np.sin(pi / 4) / (pi / 4) for a, b in ((0.5, 1.5), (1.5, 3))
    )
    assert found["CSF"].mean == pytest.approx(100, abs=0.01)
    for ring, c in (("inner", inner), ("outer", outer)):
        assert found[f"{ring}_right"].mean == pytest.approx(100 + 10 * c, abs=0.02)
        assert found[f"{ring}_left"].mean == pytest.approx(100 - 10 * c, abs=0.02)
        assert found[f"{ring}_superior"].mean == pytest.approx(100 - 4 * c, abs=0.02)
        assert found[f"{ring}_inferior"].mean == pytest.approx(100 + 4 * c, abs=0.02)


def test_cone_gives_the_mean_radii():
    x, y = GRID.mm()
    found = sectors(np.hypot(x - CENTRE[0], y - CENTRE[1]), GRID, CENTRE, "OS")
    assert found["CSF"].mean == pytest.approx(1 / 3, abs=1e-3)  # 2/3 R
    mean = {"inner": 2 / 3 * (1.5**3 - 0.5**3) / (1.5**2 - 0.5**2), "outer": 2 / 3 * (27 - 1.5**3) / (9 - 1.5**2)}
    for name, sector in found.items():
        if name != "CSF":
            assert sector.mean == pytest.approx(mean[name.split("_")[0]], abs=2e-3)
    assert centre_point(np.hypot(x - CENTRE[0], y - CENTRE[1]), GRID, CENTRE).mean == pytest.approx(2 / 30, abs=0.01)


def test_nasal_is_right_in_a_right_eye_and_unknown_eyes_have_sides():
    x, _ = GRID.mm()
    step = (x > CENTRE[0]).astype(float)  # 1 on the right
    assert sectors(step, GRID, CENTRE, "OD")["outer_nasal"].mean == pytest.approx(1)
    assert sectors(step, GRID, CENTRE, "OS")["outer_temporal"].mean == pytest.approx(1)
    unknown = sectors(step, GRID, CENTRE, None)
    assert unknown["inner_right"].mean == pytest.approx(1) and "inner_nasal" not in unknown
    assert set(sector_names("OD")) == set(sector_names("OS")) == set(LOINC) - {"centre_point", "volume"}


def test_coverage_counts_what_was_scanned_and_gaps_do_not_pull_the_mean():
    values = np.full((280, 300), 280.0)
    x, y = GRID.mm()
    values[x > CENTRE[0]] = np.nan
    found = sectors(values, GRID, CENTRE, "OD")
    assert found["inner_nasal"].coverage == pytest.approx(0, abs=0.01) or np.isnan(found["inner_nasal"].mean)
    assert found["CSF"].coverage == pytest.approx(0.5, abs=0.03) and found["CSF"].mean == pytest.approx(280)
    assert np.isnan(volume_mm3(sectors(np.full_like(values, np.nan), GRID, CENTRE, "OD")).mean)
    edge = sectors(np.full((280, 300), 1.0), GRID, (3.5, 0.0), "OD")
    assert edge["outer_nasal"].coverage < 0.1 and edge["outer_temporal"].coverage > 0.99


def test_share_of_a_sector_under_membrane():
    _, y = GRID.mm()
    shares = sectors((y < CENTRE[1]).astype(float), GRID, CENTRE, "OD")
    assert shares["CSF"].mean == pytest.approx(0.5, abs=0.02) and shares["outer_superior"].mean == pytest.approx(1)
