"""Synthetic slides: tissue where the map says, colours that stain separation undoes, files that OpenSlide reads."""

import numpy as np
import openslide
import pytest
import tifffile
from skimage.filters import threshold_otsu

from clarion.cancer.patients.drawing import SlideRecipe, draw_slide, read_maps, write_maps, write_slide
from clarion.cancer.patients.staining import EOSIN, HAEMATOXYLIN, Stain
from clarion.cancer.patients.tissue_map import CELL, KINDS, Composition, draw_map, shares

SIDE = 1024


@pytest.fixture(scope="module")
def drawn():
    return draw_slide(SlideRecipe((1, 2, 3), side=SIDE, variation=0))


def at_level0(cells: np.ndarray) -> np.ndarray:
    return np.kron(cells, np.ones((CELL, CELL), cells.dtype))


@pytest.mark.parametrize("composition", [
    Composition(), Composition(0.35, 0.1, 0.22, 0.25, 0.02), Composition(0.02, 0.08, 0.0, 0.01, 0.0),
])  # fmt: skip
def test_the_map_has_the_shares_that_were_asked_for(composition):
    found = shares(draw_map(np.random.default_rng(5), 200, 256, composition))
    for kind in ("high_grade", "low_grade", "necrosis", "lymphocytes", "fat"):
        assert found[kind] == pytest.approx(getattr(composition, kind), abs=5e-4), kind
    assert sum(found.values()) == pytest.approx(1)


def test_more_tissue_than_there_is_is_refused():
    with pytest.raises(ValueError, match="5 %"):
        Composition(0.5, 0.3, 0.1, 0.1, 0.1)


def test_the_same_recipe_gives_the_same_slide_and_another_seed_another(drawn):
    image, kinds, flaws = drawn
    again = draw_slide(SlideRecipe((1, 2, 3), side=SIDE, variation=0))
    assert np.array_equal(image, again[0]) and np.array_equal(kinds, again[1]) and not flaws.any()
    other = draw_slide(SlideRecipe((1, 2, 4), side=SIDE, variation=0))
    assert other[0].shape != image.shape or not np.array_equal(image, other[0])
    assert image.shape[:2] == (kinds.shape[0] * CELL, kinds.shape[1] * CELL)


def test_tissue_is_coloured_and_glass_is_not(drawn):
    """Otsu's threshold on saturation, the mask of CLAM and others, finds the tissue (fat is mostly empty)."""
    image, kinds, _ = drawn
    small = image.reshape(kinds.shape[0], CELL, kinds.shape[1], CELL, 3).mean(axis=(1, 3))
    saturation = 1 - small.min(axis=2) / small.max(axis=2)
    found = saturation > threshold_otsu(saturation)
    solid = (kinds > 0) & (kinds != KINDS.index("fat"))
    assert found[solid].mean() > 0.8
    assert found[kinds == 0].mean() < 0.04


def test_macenko_finds_the_stains_again(drawn):
    """Macenko et al. 2009: the extreme directions in the plane of the optical densities are the two stains."""
    density = -np.log((drawn[0].reshape(-1, 3).astype(float) + 1) / 244)
    density = density[(density > 0.15).all(axis=1)]
    plane = np.linalg.eigh(np.cov(density.T))[1][:, [2, 1]]
    plane *= np.where(plane[0] < 0, -1, 1)
    angle = np.arctan2(density @ plane[:, 1], density @ plane[:, 0])
    ends = [plane @ [np.cos(a), np.sin(a)] for a in np.percentile(angle, [1, 99])]
    hematoxylin, eosin = sorted(ends, key=lambda v: -v[0])
    assert hematoxylin @ HAEMATOXYLIN > 0.98 and eosin @ EOSIN > 0.98


def test_nuclei_have_the_sizes_of_their_kind(drawn):
    """Haematoxylin tells the kinds apart: lymphocytes and high grade are dark, stroma and necrosis are not."""
    image, kinds, _ = drawn
    red = image[..., 0].astype(float)
    cells = at_level0(kinds)
    dark = {k: float((red[cells == KINDS.index(k)] < 130).mean()) for k in KINDS[1:]}
    assert dark["lymphocytes"] > 2 * dark["stroma"] and dark["high_grade"] > 2 * dark["stroma"]
    assert dark["necrosis"] < 0.5 * dark["low_grade"] and dark["fat"] < 0.05


def test_laboratories_stain_differently():
    colours = []
    for site in range(5):
        image, kinds, _ = draw_slide(SlideRecipe((1, 2, 3), side=512, site_seed=(site,)))
        colours.append(image[at_level0(kinds) > 0].mean(axis=0))
    assert np.ptp(colours, axis=0).max() > 8  # of 255, with the same tissue below
    reference = Stain.of(np.random.default_rng(0), 0)
    np.testing.assert_allclose(np.linalg.norm(reference.vectors, axis=1), 1, rtol=1e-5)


def test_flaws_lie_where_the_map_says():
    plain = draw_slide(SlideRecipe((4,), side=SIDE, flaws=()))
    for name, bit in (("pen", 1), ("fold", 2), ("blur", 4)):
        image, kinds, places = draw_slide(SlideRecipe((4,), side=SIDE, flaws=(name,)))
        assert set(np.unique(places)) == {0, bit}
        # A fold is drawn before the scanner, so noise is another one outside; what changes most is inside the map.
        change = np.abs(image.astype(int) - plain[0]).max(axis=2) if image.shape == plain[0].shape else None
        assert np.array_equal(kinds, plain[1]) and change is not None
        inside = at_level0(places) > 0
        assert change[inside].mean() > 3 * change[~inside].mean(), name


def test_the_file_is_a_pyramid_that_says_its_resolution(drawn, tmp_path):
    path = tmp_path / "한글 slide.tif"
    write_slide(path, drawn[0])
    height, width = drawn[0].shape[:2]
    with openslide.OpenSlide(path) as slide:
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.5)
        assert slide.level_dimensions[0] == (width, height) and slide.level_count == 3
        assert slide.level_dimensions[2] == (width // 16, height // 16)
        read = np.asarray(slide.read_region((256, 256), 0, (256, 256)).convert("RGB")).astype(int)
    assert np.abs(read - drawn[0][256:512, 256:512]).mean() < 4  # JPEG
    with tifffile.TiffFile(path) as file:
        assert [p.is_tiled for p in file.pages] == [True] * 3
        assert [p.compression.name for p in file.pages] == ["JPEG"] * 3


def test_maps_survive_their_file(drawn, tmp_path):
    flaws = (drawn[1] == 2).astype(np.uint8) * 5
    write_maps(tmp_path / "m.png", drawn[1], flaws)
    kinds, again = read_maps(tmp_path / "m.png")
    assert np.array_equal(kinds, drawn[1]) and np.array_equal(again, flaws)
