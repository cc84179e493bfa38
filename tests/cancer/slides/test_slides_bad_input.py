"""Bad slides end in one sentence that names the file and the fix, or read correctly."""

from __future__ import annotations

import shutil

import cv2
import numpy as np
import openslide
import pytest
import tifffile
from drawn_slides import smaller, tissue_picture, write_pyramid

from clarion.cancer.patients.folder import slide_files
from clarion.cancer.slides.command import find_slides
from clarion.cancer.slides.reader import open_slide
from clarion.cancer.slides.tiff import BlockCache, TiffLevel, check_extent
from clarion.cancer.slides.tiles import grid, read_tiles
from clarion.cancer.slides.tissue import find_tissue
from clarion.errors import DataError, UsageError


@pytest.fixture(scope="module")
def picture():
    return tissue_picture(512, 768)


def patched_tag(path, code, value):
    """Overwrite a number of the first directory of a TIFF."""
    with tifffile.TiffFile(path, mode="r+b") as file:
        file.pages[0].tags[code].overwrite(value)


@pytest.mark.parametrize("find", [find_slides, slide_files])
def test_a_format_that_nothing_here_reads_is_no_slide(tmp_path, find):
    """Philips' iSyntax: neither OpenSlide nor tifffile opens it."""
    (tmp_path / "slides").mkdir()
    (tmp_path / "slides" / "a.isyntax").write_bytes(b"x")
    with pytest.raises(UsageError, match="holds no slide") as caught:
        find(tmp_path)
    assert ".svs" in str(caught.value) and ".isyntax" not in str(caught.value)


def test_no_scale_is_named_and_can_be_given(tmp_path, picture):
    path = write_pyramid(tmp_path / "a.tif", picture, mpp=None)
    with open_slide(path) as slide:
        with pytest.raises(DataError, match=r"a\.tif does not say its scale: give mpp=") as caught:
            find_tissue(slide)
    assert "a.tif" not in caught.value.recorded  # a file's name may be a patient's
    with open_slide(path, mpp=0.5) as slide:
        assert len(grid(slide, find_tissue(slide), 128, 0.5))


def test_no_scale_of_an_svs_hints_at_its_objective(tmp_path, picture):
    path = tmp_path / "a.svs"
    text = "Aperio Image Library v1\n768x512 [0,0 768x512] (256x256) JPEG/RGB Q=80|AppMag = 40|Filename = KIM"
    with tifffile.TiffWriter(path) as file:
        options = {"compression": "jpeg", "photometric": "rgb", "metadata": None, "description": text}
        file.write(picture, tile=(256, 256), **options)
    with open_slide(path) as slide:
        assert slide.format == "aperio"
        with pytest.raises(DataError, match="40x objective usually means mpp=0.25"):
            _ = slide.mpp
        assert "KIM" not in str(slide.card())


def test_lzw_pyramid_reads(tmp_path, picture):
    path = write_pyramid(tmp_path / "a.tif", picture, compression="lzw", compressionargs=None)
    with open_slide(path) as slide:
        tiles = grid(slide, find_tissue(slide), 64, 0.5)
        got = np.concatenate(list(read_tiles(slide, tiles)))
        x, y = tiles.xy[3]
        assert np.array_equal(got[3], picture[y : y + 64, x : x + 64])


def test_single_level_in_strips_reads(tmp_path, picture):
    path = write_pyramid(tmp_path / "a.tif", picture, (1,), tile=None, compression="deflate", compressionargs=None)
    with open_slide(path) as slide:
        assert len(slide.levels) == 1
        tiles = grid(slide, find_tissue(slide), 64, 2.0)
        got = np.concatenate(list(read_tiles(slide, tiles)))
        x, y = tiles.xy[0]
        assert np.array_equal(got[0], smaller(picture[y : y + 256, x : x + 256], 4))


@pytest.mark.parametrize("side", [300_000, 2**31 - 1])
def test_huge_declared_dimensions_are_named(tmp_path, picture, side):
    path = write_pyramid(tmp_path / "a.tif", picture)
    patched_tag(path, "ImageWidth", side)
    with pytest.raises(DataError, match="declares .* its header is damaged"):
        open_slide(path)


@pytest.mark.parametrize("sizes", [1, 0])
def test_blocks_without_a_size_are_named(tmp_path, picture, sizes):
    """A scanner's TIFF is not decoded by us, and still not read past what its header says."""
    path = write_pyramid(tmp_path / "a.tif", picture, (1,))
    with tifffile.TiffFile(path) as file:
        level = TiffLevel(path, file.filehandle.fileno(), [file.pages[0]], BlockCache())
        level._counts = [level._counts[0][: len(level._counts[0]) - 2] if sizes else ()]
        with pytest.raises(DataError, match=r"a\.tif names the places of 6 blocks and the sizes of (4|0): its header"):
            check_extent(path, [level])


def test_one_block_of_the_whole_slide_is_named(tmp_path):
    path = tmp_path / "a.tif"
    flat = np.full((10_000, 9_000), 230, np.uint8)
    tifffile.imwrite(path, flat, compression="deflate", rowsperstrip=10_000, photometric="minisblack")
    with pytest.raises(DataError, match="cannot be read in parts; convert it to a tiled TIFF"):
        open_slide(path)


def test_tiles_beyond_the_edge_are_white_there(tmp_path, picture):
    cut = picture[:300, :500]  # 2 x 2 tiles of 256, cut
    path = write_pyramid(tmp_path / "a.tif", cut, (1,), compression="deflate", compressionargs=None)
    with open_slide(path) as slide:
        tiles = grid(slide, None, 256, 0.5)
        assert tiles.xy.tolist() == [[0, 0], [256, 0], [0, 256], [256, 256]]
        got = next(read_tiles(slide, tiles))
        assert np.array_equal(got[3][:44, :244], cut[256:, 256:])
        assert (got[3][44:] == 255).all() and (got[3][:, 244:] == 255).all()


def damaged_jpeg(path, picture, change):
    """Change the bytes of the JPEG tile at (256, 256); returns the slide's path."""
    write_pyramid(path, picture, (1,))
    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        offset, count = page.dataoffsets[4], page.databytecounts[4]
    content = bytearray(path.read_bytes())
    tile = change(bytearray(content[offset : offset + count]))
    assert len(tile) == count
    content[offset : offset + count] = tile
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    "change",
    [
        lambda t: bytearray(len(t)),
        lambda t: t[: len(t) // 2] + bytearray(len(t) - len(t) // 2),
        lambda t: t[:700] + bytearray(b"\xff\xd9" * 30) + t[760:],
        lambda t: t[:2] + t[40:] + t[2:40],
        lambda t: t.replace(b"\xff\xc0\x00\x11\x08\x01\x00\x01\x00", b"\xff\xc0\x00\x11\x08\xff\xff\xff\xff"),
    ],
    ids=["zeros", "second-half", "markers-within", "tables-moved", "declares 65535 x 65535"],
)
def test_corrupt_jpeg_tile_is_named_and_the_others_read(tmp_path, picture, change):
    path = damaged_jpeg(tmp_path / "a.tif", picture, change)
    with open_slide(path) as slide:
        assert slide.read(0, 0, 0, 256, 256).shape == (256, 256, 3)
        with pytest.raises(DataError, match=r"a\.tif is damaged: a tile of level 0 at or right below \(256, 256\)"):
            slide.read(256, 256, 0, 256, 256)
        with pytest.raises(DataError, match="is damaged"):
            slide.read(100, 100, 0, 300, 300)  # touches it


def test_whatever_openslide_refuses_is_refused(tmp_path, picture):
    """Random damage: libjpeg as OpenSlide calls it stops at warnings, as imagecodecs calls it it does not."""
    rng = np.random.default_rng(3)
    refused = 0
    for k in range(30):

        def change(tile, k=k):
            length = int(rng.choice([4, 40, 200]))
            at = int(rng.integers(650, len(tile) - length))
            tile[at : at + length] = rng.bytes(length) if k % 2 else bytes(length)
            return tile

        path = damaged_jpeg(tmp_path / f"{k}.tif", picture, change)
        with openslide.OpenSlide(path) as peer:
            try:
                theirs = np.asarray(peer.read_region((256, 256), 0, (256, 256)).convert("RGB"))
            except openslide.OpenSlideError:
                theirs, refused = None, refused + 1
        with open_slide(path) as slide:
            if theirs is None:
                with pytest.raises(DataError, match="is damaged"):
                    slide.read(256, 256, 0, 256, 256)
            else:  # no decoder can tell: then at least the same pixels, or the stricter answer
                try:
                    assert np.array_equal(slide.read(256, 256, 0, 256, 256), theirs)
                except DataError:
                    pass
    assert refused >= 8


def test_corrupt_tile_of_an_svs_is_named(tmp_path, real_data):
    path = tmp_path / "a.svs"
    shutil.copy(real_data / "cancer" / "wsi" / "CMU-1-Small-Region.svs", path)
    path.chmod(0o644)
    with tifffile.TiffFile(path) as file:
        offset = file.pages[0].dataoffsets[12]
    with open(path, "r+b") as file:
        file.seek(offset + 300)
        file.write(bytes(40))
    with open_slide(path) as slide:
        slide.read(0, 0, 0, 240, 240)
        with pytest.raises(DataError, match="is damaged"):
            slide.read(480, 240, 0, 240, 240)


def test_empty_file_and_nothing_there(tmp_path):
    (tmp_path / "a.svs").touch()
    with pytest.raises(DataError, match=r"a\.svs is empty \(0 bytes\)"):
        open_slide(tmp_path / "a.svs")
    with pytest.raises(UsageError, match="does not exist"):
        open_slide(tmp_path / "b.svs")
    with pytest.raises(DataError, match="folder without .dcm files"):
        open_slide(tmp_path)


def test_a_png_posing_as_svs(tmp_path, picture):
    (tmp_path / "a.svs").write_bytes(cv2.imencode(".png", picture)[1].tobytes())
    with pytest.raises(DataError, match=r"a\.svs is a PNG picture, not a slide"):
        open_slide(tmp_path / "a.svs")
    (tmp_path / "b.svs").write_bytes(b"no slide at all, but a text")
    with pytest.raises(DataError, match="no slide of a known format"):
        open_slide(tmp_path / "b.svs")


@pytest.mark.parametrize("share", [0.001, 0.3, 0.9, 0.999])
def test_truncated_files_are_named(tmp_path, picture, share):
    path = write_pyramid(tmp_path / "a.tif", picture)
    path.write_bytes(path.read_bytes()[: max(1, int(share * path.stat().st_size))])
    with pytest.raises(DataError, match="truncated|known format") as caught:
        open_slide(path)
    assert "a.tif" in str(caught.value) and "a.tif" not in caught.value.recorded


def test_truncated_svs_is_named_at_opening(tmp_path, real_data):
    whole = (real_data / "cancer" / "wsi" / "CMU-1-Small-Region.svs").read_bytes()
    path = tmp_path / "a.svs"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="truncated|known format|damaged"):
        open_slide(path)


@pytest.mark.parametrize(
    "array, options, problem",
    [
        (np.zeros((300, 300, 3), np.uint16), {"photometric": "rgb"}, "16-bit samples; convert it to 8-bit RGB"),
        (np.zeros((300, 300, 3), np.float32), {"photometric": "rgb"}, "32-bit samples"),
        (np.zeros((5, 300, 300), np.uint8), {"photometric": "minisblack", "planarconfig": "separate"}, "5 channels"),
    ],
)
def test_other_kinds_of_pixels_are_named(tmp_path, array, options, problem):
    tifffile.imwrite(tmp_path / "a.tif", array, tile=(256, 256), metadata=None, **options)
    with pytest.raises(DataError, match=problem):
        open_slide(tmp_path / "a.tif")


def test_links_out_of_the_folder_are_refused(tmp_path, picture):
    outside, root = tmp_path / "outside.tif", tmp_path / "slides"
    root.mkdir()
    write_pyramid(outside, picture)
    (root / "a.tif").symlink_to(outside)
    with pytest.raises(DataError, match="a.tif is a link out of"):
        find_slides(root)


@pytest.mark.parametrize("name", ["환자 슬라이드.tif", "two\nlines.tif", "quote' {brace}.tif"])
def test_odd_names_read_and_are_shown_in_one_line(tmp_path, picture, name):
    path = write_pyramid(tmp_path / name, picture, mpp=None)
    with open_slide(path) as slide:
        assert np.array_equal(slide.read(0, 0, 0, 64, 64), slide.read(0, 0, 0, 100, 100)[:64, :64])
        with pytest.raises(DataError) as caught:
            _ = slide.mpp
    assert "\n" not in str(caught.value)
    assert name.split("\n")[0].split(".")[0] in str(caught.value)


def test_no_tissue_is_named(tmp_path):
    rng = np.random.default_rng(0)
    glass = np.clip(rng.normal(240, 1.5, (512, 512, 3)), 0, 255).astype(np.uint8)
    with open_slide(write_pyramid(tmp_path / "a.tif", glass)) as slide:
        tissue = find_tissue(slide)
        assert tissue.counts["kept"] == 0
        with pytest.raises(DataError, match=r"a\.tif has no tissue"):
            grid(slide, tissue, 128, 0.5)
