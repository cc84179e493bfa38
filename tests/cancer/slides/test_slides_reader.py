"""One surface over OpenSlide's formats, TIFF and DICOM: same pixels as OpenSlide, levels, scale, no identifiers."""

from __future__ import annotations

import json
import pickle
import shutil

import numpy as np
import openslide
import pytest
import tifffile
from drawn_slides import smaller, tissue_picture, write_dicom, write_pyramid
from PIL import Image

from clarion.cancer.slides.reader import open_slide
from clarion.errors import DataError, UsageError


@pytest.fixture(scope="module")
def picture():
    return tissue_picture()


def by_openslide(path, x, y, level, width, height):
    with openslide.OpenSlide(path) as slide:
        region = slide.read_region((x, y), level, (width, height))
    white = Image.new("RGB", region.size, (255, 255, 255))
    white.paste(region, mask=region.split()[3])
    return np.asarray(white)


REGIONS = [
    (0, 0, 0, 256, 256),  # a tile of the file
    (512, 256, 0, 256, 256),
    (100, 77, 0, 300, 200),  # across tiles
    (-40, -30, 0, 128, 128),  # beyond the upper left
    (1200, 960, 0, 256, 256),  # beyond the lower right
    (5000, 5000, 0, 64, 64),  # outside
    (400, 200, 1, 100, 80),  # of the smaller level
]


@pytest.mark.parametrize("subsampling", [(1, 1), (2, 2)])
@pytest.mark.parametrize("region", REGIONS)
def test_pixels_are_those_of_openslide(tmp_path, picture, region, subsampling):
    path = write_pyramid(tmp_path / "a.tif", picture, subsampling=subsampling)
    with open_slide(path) as slide:
        assert slide.card()["direct_jpeg"]
        assert np.array_equal(slide.read(*region), by_openslide(path, *region))


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "lzw", "compressionargs": None},
        {"compression": "deflate", "compressionargs": None, "predictor": True},
        {"compression": None, "compressionargs": None, "tile": None},
        {"compression": "lzw", "compressionargs": None, "tile": None, "rowsperstrip": 64},
        {"compression": "lzw", "compressionargs": None, "subifds": True},
    ],
    ids=["lzw", "deflate-predictor", "strips", "lzw-strips", "subifds"],
)
def test_lossless_tiffs_give_the_pixels_back(tmp_path, picture, options):
    path = write_pyramid(tmp_path / "a.tif", picture, **options)
    with open_slide(path) as slide:
        assert slide.dimensions == (1280, 1024)
        assert [level[2] for level in slide.levels] == [1, 4]
        assert np.array_equal(slide.read(300, 200, 0, 500, 400), picture[200:600, 300:800])
        assert np.array_equal(slide.read(0, 0, 1, 320, 256), smaller(picture, 4))


@pytest.mark.parametrize("planar", ["interleaved", "planes", "pages"])
def test_ome_tiff_by_its_own_scale_and_sublevels(tmp_path, picture, planar):
    path = tmp_path / "a.ome.tif"
    meta = {"PhysicalSizeX": 250.0, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 0.25, "PhysicalSizeYUnit": "µm"}
    options = {"tile": (256, 256), "compression": "deflate"}
    if planar == "interleaved":
        levels, options["photometric"], meta["axes"] = [picture, smaller(picture, 2)], "rgb", "YXS"
    else:
        levels = [np.moveaxis(p, -1, 0) for p in (picture, smaller(picture, 2))]
        options["photometric"] = "rgb" if planar == "planes" else "minisblack"
        meta["axes"] = "SYX" if planar == "planes" else "CYX"
        if planar == "planes":
            options["planarconfig"] = "separate"
    with tifffile.TiffWriter(path, ome=True) as file:
        file.write(levels[0], subifds=1, metadata=meta, **options)
        file.write(levels[1], subfiletype=1, **options)
    with open_slide(path) as slide:
        assert (slide.format, slide.mpp, slide.magnification) == ("ome-tiff", 0.25, 40)
        assert [level[:2] for level in slide.levels] == [(1280, 1024), (640, 512)]
        assert np.array_equal(slide.read(100, 120, 0, 300, 200), picture[120:320, 100:400])
        assert np.array_equal(slide.read(200, 240, 1, 64, 64), smaller(picture, 2)[120:184, 100:164])


def test_dicom_instance_or_its_folder(tmp_path, picture):
    folder = write_dicom(tmp_path / "series", picture)
    with open_slide(folder) as slide, open_slide(folder / "instance.dcm") as same:
        assert (slide.format, slide.dimensions, slide.mpp, slide.magnification) == ("dicom", (1280, 1024), 0.5, 20)
        assert slide.sha == same.sha
        got = slide.read(300, 300, 0, 200, 200).astype(int)
        assert np.abs(got - picture[300:500, 300:500]).mean() < 6  # JPEG with halved colours
        assert (slide.read(1270, 0, 0, 20, 8)[:, 10:] == 255).all()
        said = json.dumps(slide.card())
    assert "Hong" not in said and "1234567" not in said


def test_grey_pictures_become_rgb(tmp_path):
    grey = tissue_picture(256, 256).mean(axis=2).astype(np.uint8)
    options = {"photometric": "minisblack", "compression": "deflate", "compressionargs": None}
    path = write_pyramid(tmp_path / "g.tif", grey, (1,), **options)
    with open_slide(path) as slide:
        assert np.array_equal(slide.read(0, 0, 0, 256, 256), np.repeat(grey[..., None], 3, axis=2))


def test_levels_are_chosen_from_the_finer_side(tmp_path, picture):
    with open_slide(write_pyramid(tmp_path / "a.tif", picture, (1, 2, 4))) as slide:
        assert [slide.level_for(d) for d in (0.5, 1, 1.9, 1.95, 2, 3.8, 4, 100)] == [0, 0, 0, 1, 1, 1, 2, 2]
        with pytest.raises(UsageError, match="levels 0 to 2"):
            slide.read(0, 0, 3, 10, 10)


def test_thumbnail_is_the_mean_and_pieces_make_the_whole(tmp_path, picture, monkeypatch):
    path = write_pyramid(tmp_path / "a.tif", picture, (1,), compression="deflate", compressionargs=None)
    monkeypatch.setattr("clarion.cancer.slides.reader._STRIP", 100_000)  # many pieces
    with open_slide(path) as slide:
        assert slide.thumbnail(320).shape == (256, 320, 3)
        assert np.array_equal(slide.shrink(4), smaller(picture, 4))
        assert np.array_equal(slide.thumbnail(9999), picture)


def test_a_worker_opens_the_slide_anew(tmp_path, picture):
    with open_slide(write_pyramid(tmp_path / "a.tif", picture), mpp=0.25) as slide:
        with pickle.loads(pickle.dumps(slide)) as copy:
            assert copy.mpp == 0.25
            assert np.array_equal(copy.read(*REGIONS[2]), slide.read(*REGIONS[2]))


def test_scale_given_overrides_and_nonsense_is_refused(tmp_path, picture):
    path = write_pyramid(tmp_path / "a.tif", picture, (1,))
    with open_slide(path, mpp=0.25) as slide:
        assert (slide.mpp, slide.card()["mpp_source"]) == (0.25, "given")
    with pytest.raises(UsageError, match="mpp=250"):
        open_slide(path, mpp=250)
    with open_slide(write_pyramid(tmp_path / "dpi.tif", picture, (1,), mpp=25400 / 72)) as slide:
        with pytest.raises(DataError, match=r"dpi\.tif does not say its scale: give mpp="):  # 72 dpi says nothing
            _ = slide.mpp


def test_identity_is_of_the_content(tmp_path, picture):
    first = write_pyramid(tmp_path / "a.tif", picture, (1,))
    shutil.copy(first, tmp_path / "renamed.tif")
    second = write_pyramid(tmp_path / "b.tif", np.flipud(picture), (1,))
    shas = []
    for path in (first, tmp_path / "renamed.tif", second):
        with open_slide(path) as slide:
            shas.append(slide.sha)
    assert shas[0] == shas[1] != shas[2]


def test_real_slides_read_and_their_cards_name_nobody(real_data):
    folder = real_data / "cancer" / "wsi"
    with open_slide(folder / "CMU-1-Small-Region.svs") as slide:
        assert (slide.format, slide.dimensions, slide.mpp, slide.magnification) == ("aperio", (2220, 2967), 0.499, 20)
        assert slide.card()["direct_jpeg"]
        for region in (
            (0, 0, 0, 240, 240),
            (480, 720, 0, 240, 240),
            (333, 555, 0, 256, 256),
            (2100, 2900, 0, 256, 256),
        ):
            assert np.array_equal(slide.read(*region), by_openslide(slide.path, *region))
        said = json.dumps(slide.card())
    with openslide.OpenSlide(folder / "CMU-1-Small-Region.svs") as raw:
        for name in ("aperio.Filename", "aperio.User", "aperio.ImageID", "aperio.ScanScope ID", "aperio.Date"):
            assert raw.properties[name] not in said
    with open_slide(folder / "openslide_small.svs") as slide:
        assert slide.dimensions == (16, 16)
        assert np.array_equal(slide.read(-8, -8, 0, 40, 40), by_openslide(slide.path, -8, -8, 0, 40, 40))
    with open_slide(folder / "openslide_boxes.tiff") as slide:
        assert [level[:2] for level in slide.levels] == [(300, 250), (150, 125), (75, 62), (37, 31)]
        assert np.array_equal(slide.read(50, 60, 1, 60, 50), by_openslide(slide.path, 50, 60, 1, 60, 50))
        with pytest.raises(DataError, match="mpp="):
            _ = slide.mpp
