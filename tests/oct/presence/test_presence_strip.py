"""The strip along the ILM: flat, at one scale, honest about what cannot be seen; what training does to it."""

from __future__ import annotations

import numpy as np
import pytest

from clarion.errors import DataError
from clarion.oct.presence.augment import ilm_error, recut, restyled
from clarion.oct.presence.strip import ABOVE, AXIAL_UM, BELOW, LATERAL_UM, at_columns, cut_strip, normalised


def wavy(width=200, depth=300, thick=60, axial=3.9):
    """A bright band below a wavy surface, and the surface's sub-pixel rows."""
    ilm = 120 + 30 * np.sin(np.arange(width) / 25)
    row = np.arange(depth)[:, None]
    image = 200 * np.clip(row - ilm + 0.5, 0, 1) * np.clip(ilm + thick - row + 0.5, 0, 1)
    return np.rint(image).astype(np.uint8), ilm.astype(np.float32)


def test_a_wavy_surface_becomes_flat():
    image, ilm = wavy()
    strip, known = cut_strip(image, ilm, AXIAL_UM, LATERAL_UM)
    assert strip.shape == (ABOVE + BELOW, 200) and strip.dtype == np.float32 and known.all()
    assert strip[: ABOVE - 1].max() == 0 and strip[ABOVE + 2 :].min() > 180
    assert np.abs(strip[ABOVE] - 100).max() < 60


@pytest.mark.parametrize("axial, lateral", [(3.9, 11.7), (1.95, 11.7), (3.5, 5.85), (3.9, 46.8)])
def test_every_instrument_gives_the_same_scale(axial, lateral):
    image, ilm = wavy(width=int(7000 / lateral), depth=int(1500 / axial))
    strip, _ = cut_strip(image, ilm, axial, lateral)
    assert strip.shape[1] == pytest.approx(7000 / LATERAL_UM, abs=3)
    band = (strip.mean(1) > 100).sum()  # 60 rows of the picture, cut off at the strip's lower end
    assert band == pytest.approx(min(60 * axial / AXIAL_UM, BELOW), abs=2)


def test_what_cannot_be_seen_is_not_assessable_and_is_bridged():
    image, ilm = wavy()
    ilm[50:60] = np.nan
    ilm[100] = -3
    ilm[101] = 400
    image[:, 150:155] = 0
    strip, known = cut_strip(image, ilm, AXIAL_UM, LATERAL_UM)
    assert np.flatnonzero(~known).tolist() == [*range(50, 60), 100, 101, *range(150, 155)]
    assert np.isfinite(strip).all()
    strip, known = cut_strip(image, np.full(200, np.nan, np.float32), AXIAL_UM, LATERAL_UM)
    assert not known.any() and np.isfinite(strip).all()


def test_bad_input_is_refused():
    image, ilm = wavy()
    with pytest.raises(DataError, match="one row per A-scan"):
        cut_strip(image, ilm[:-1], AXIAL_UM, LATERAL_UM)
    with pytest.raises(DataError, match="scale"):
        cut_strip(image, ilm, 0.0, LATERAL_UM)


def test_gain_and_floor_are_taken_out():
    image, ilm = wavy()
    strip, _ = cut_strip(image, ilm, AXIAL_UM, LATERAL_UM)
    assert np.allclose(normalised(strip), normalised(strip * 0.6 + 20), atol=1e-3)
    assert np.isfinite(normalised(np.zeros_like(strip))).all()


def test_columns_are_averaged_or_interpolated():
    assert at_columns(np.repeat([0.0, 1.0, 0.0], 4), 3).tolist() == [0, 1, 0]
    assert at_columns(np.array([0.0, 1.0]), 4) == pytest.approx([0, 0.25, 0.75, 1])


def test_a_recut_strip_is_the_strip_of_the_other_ilm():
    image, ilm = wavy()
    stored, _ = cut_strip(image, ilm, AXIAL_UM, LATERAL_UM, above=ABOVE + 20, below=BELOW + 20)
    error = np.linspace(-8, 8, 200).astype(np.float32)
    expected, _ = cut_strip(image, ilm + error, AXIAL_UM, LATERAL_UM)
    assert np.abs(recut(stored, error, ABOVE + 20) - expected).mean() < 2


def test_the_error_of_the_ilm_is_small_smooth_and_follows_the_membrane():
    lift = np.zeros(384, np.float32)
    lift[100:200] = 10
    errors = np.stack([ilm_error(np.random.default_rng(k), lift, 3.9, 23.4) for k in range(200)])
    flat = errors[:, 250:]
    assert 0.8 < flat.std() < 2 and abs(flat.mean()) < 0.2 and np.abs(np.diff(flat)).max() < 2.5
    assert errors[:, 110:190].min() < -8 and -5 < errors[:, 110:190].mean() < -1
    finer = ilm_error(np.random.default_rng(3), lift * 2, 1.95, 23.4)
    assert np.allclose(finer, 2 * errors[3], atol=1e-4)


def test_restyled_strips_stay_pictures():
    image, ilm = wavy()
    strip, _ = cut_strip(image, ilm, AXIAL_UM, LATERAL_UM)
    for k in range(40):
        row = np.full(200, ABOVE, np.float32)
        shown = restyled(strip, np.arange(200) > 120, row, row - 3, np.random.default_rng(k))
        assert shown.shape == strip.shape and shown.dtype == np.float32
        assert np.isfinite(shown).all() and shown.min() >= 0 and shown.max() <= 255
