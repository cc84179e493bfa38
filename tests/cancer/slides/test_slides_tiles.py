"""Grids at a target scale, their pixels, their places in HDF5, stains, and the command."""

from __future__ import annotations

import json
from dataclasses import replace

import cv2
import h5py
import numpy as np
import openslide
import pytest
from drawn_slides import smaller, tissue_picture, write_dicom, write_pyramid
from PIL import Image

from clarion.cancer.slides import store
from clarion.cancer.slides.command import Settings, tile_folder
from clarion.cancer.slides.reader import open_slide
from clarion.cancer.slides.stain import REFERENCE, Stains, estimate, estimate_slide, normalise, optical_density
from clarion.cancer.slides.tiles import draw_tiles, grid, read_tiles
from clarion.cancer.slides.tissue import find_tissue
from clarion.errors import DataError, UsageError


@pytest.fixture(scope="module")
def picture():
    return tissue_picture()


@pytest.fixture(scope="module")
def path(picture, tmp_path_factory):
    return write_pyramid(tmp_path_factory.mktemp("slides") / "a.tif", picture, (1, 2, 4))


@pytest.mark.parametrize(
    "mpp, level, read_size, read_mpp",
    [(0.5, 0, 64, 0.5), (0.51, 0, 64, 0.5), (0.75, 0, 96, 0.75), (1.0, 1, 64, 1.0), (1.03, 1, 64, 1.0),
     (1.5, 1, 96, 1.5), (1.98, 2, 64, 2.0), (4.05, 2, 128, 4.0), (5.0, 2, 160, 5.0)],
)  # fmt: skip
def test_the_nearest_finer_level_is_read(path, mpp, level, read_size, read_mpp):
    with open_slide(path) as slide:
        tiles = grid(slide, None, 64, mpp)
    assert (tiles.level, tiles.read_size, tiles.read_mpp) == (level, read_size, pytest.approx(read_mpp))
    assert tiles.side == pytest.approx(64 * read_mpp / 0.5)


def test_places_have_enough_tissue_and_sum_up(path):
    with open_slide(path) as slide:
        tissue = find_tissue(slide)
        tiles = grid(slide, tissue, 128, 0.5, overlap=32, min_tissue=0.6)
        everything = grid(slide, None, 128, 0.5, overlap=32)
    assert (tiles.tissue >= 0.6).all()
    assert set(map(tuple, tiles.xy.tolist())) < set(map(tuple, everything.xy.tolist()))
    assert tiles.counts["places"] == len(everything) == sum(v for k, v in tiles.counts.items() if k != "places")
    assert tiles.counts["kept"] == len(tiles) > 20
    assert (np.diff(np.unique(tiles.xy[:, 0])) == 96).all()
    center = tiles.xy + 64
    assert (center[:, 0] > 0.2 * 1280 - 64).all() and (center[:, 1] < 0.8 * 1024 + 64).all()


@pytest.mark.parametrize("mpp, overlap", [(0.5, 0), (0.5, 56), (1.0, 0), (0.75, 0), (3.0, 20)])
def test_pixels_are_openslides_then_the_mean(path, mpp, overlap):
    with open_slide(path) as slide, openslide.OpenSlide(path) as peer:
        tiles = grid(slide, find_tissue(slide), 256 if mpp < 3 else 64, mpp, overlap, min_tissue=0.2)
        got = np.concatenate(list(read_tiles(slide, tiles, batch=3)))
        assert got.shape == (len(tiles), tiles.patch, tiles.patch, 3)
        size = (tiles.read_size,) * 2
        for tile, (x, y) in zip(got, tiles.xy.tolist()):
            rgba = peer.read_region((x, y), tiles.level, size)
            white = Image.new("RGB", size, (255, 255, 255))
            white.paste(rgba, mask=rgba.split()[3])
            want = np.asarray(white)
            if size[0] != tiles.patch:
                want = cv2.resize(want, (tiles.patch,) * 2, interpolation=cv2.INTER_AREA)
            assert np.array_equal(tile, want)


def test_chosen_tiles_in_their_order(path):
    with open_slide(path) as slide:
        tiles = grid(slide, find_tissue(slide), 64, 0.5)
        everything = np.concatenate(list(read_tiles(slide, tiles)))
        some = np.concatenate(list(read_tiles(slide, tiles, [7, 2, 2], batch=2)))
    assert np.array_equal(some, everything[[7, 2, 2]])


def test_grids_that_cannot_be_are_refused(path):
    with open_slide(path) as slide:
        tissue = find_tissue(slide)
        with pytest.raises(UsageError, match="mpp=0.25 is finer than the slide's 0.5"):
            grid(slide, tissue, 256, 0.25)
        with pytest.raises(UsageError, match="0 <= overlap < patch"):
            grid(slide, tissue, 64, 0.5, overlap=64)
        with pytest.raises(DataError, match=r"a\.tif has no tile with 100% of tissue .*background"):
            grid(slide, tissue, 1024, 0.5, min_tissue=1)


def test_tiles_of_another_slide_are_refused(path, tmp_path, picture):
    other = write_pyramid(tmp_path / "b.tif", np.fliplr(picture))
    with open_slide(path) as first, open_slide(other) as second:
        tiles = grid(first, None, 256, 0.5)
        with pytest.raises(DataError, match=r"b\.tif is another slide"):
            next(read_tiles(second, tiles))


def test_hdf5_round_trip_and_attributes(path, tmp_path):
    with open_slide(path) as slide:
        tiles = grid(slide, find_tissue(slide), 64, 1.0, overlap=16)
    store.write(tmp_path / "t.h5", tiles, REFERENCE, {"mpp": 1.0})
    again = store.read(tmp_path / "t.h5")
    assert np.array_equal(again.xy, tiles.xy) and np.array_equal(again.tissue, tiles.tissue)
    assert replace(again, xy=None, tissue=None) == replace(tiles, xy=None, tissue=None)
    stains = store.read_stains(tmp_path / "t.h5")
    assert np.array_equal(stains.matrix, REFERENCE.matrix) and np.array_equal(stains.strongest, REFERENCE.strongest)
    with h5py.File(tmp_path / "t.h5") as file:
        a = dict(file["coords"].attrs)
    assert (a["patch_size"], a["patch_level"], a["patch_size_level0"], a["overlap"]) == (64, 1, 128, 16)
    assert (a["level0_magnification"], a["target_magnification"], a["level0_mpp"]) == (20, 10, 0.5)
    assert [p.name for p in tmp_path.iterdir()] == ["t.h5"]


def test_damaged_hdf5_is_named(tmp_path, path):
    (tmp_path / "a.h5").write_bytes(b"no HDF5")
    with pytest.raises(DataError, match=r"a\.h5 cannot be read as HDF5"):
        store.read(tmp_path / "a.h5")
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["coords"] = np.zeros((3, 2))
    with pytest.raises(DataError, match=r"b\.h5 holds no tiles"):
        store.read(tmp_path / "b.h5")


def test_thumbnail_shows_the_kept_tiles(path):
    with open_slide(path) as slide:
        tiles = grid(slide, find_tissue(slide), 128, 0.5)
        drawn, plain = draw_tiles(slide, tiles, 640), slide.thumbnail(640)
    changed = (drawn != plain).any(axis=2)
    x, y = (tiles.xy[0] * 640 / 1280).round().astype(int)
    assert changed[y, x : x + 60].all() and not changed[: y - 3].any()
    assert 0.01 < changed.mean() < 0.3


# -- stains


def stained(stains: Stains, n=40_000, seed=0):
    rng = np.random.default_rng(seed)
    amounts = rng.gamma(2.0, 0.35, (2, n)) * np.array([[1.0], [0.8]])
    amounts[:, : n // 4] *= np.array([[1.0], [0.02]])  # almost pure stains span the plane
    amounts[:, n // 4 : n // 2] *= np.array([[0.02], [1.0]])
    density = stains.matrix @ amounts
    return np.clip(241 * np.exp(-density) - 1, 0, 255).round().astype(np.uint8).T.reshape(200, -1, 3)


def test_macenko_finds_the_stains_it_was_mixed_of():
    vectors = np.array([[0.55, 0.76, 0.35], [0.12, 0.95, 0.28]]).T
    truth = Stains(vectors / np.linalg.norm(vectors, axis=0), np.ones(2))
    found = estimate(stained(truth))
    angles = np.degrees(np.arccos(np.clip((found.matrix * truth.matrix).sum(axis=0), -1, 1)))
    assert (angles < 4).all()


def test_two_laboratories_look_alike_after_normalising():
    def lab(h, e, strength, seed):
        vectors = np.array([h, e]).T
        return stained(Stains(vectors / np.linalg.norm(vectors, axis=0) * strength, np.ones(2)), seed=seed)

    first = lab((0.65, 0.70, 0.29), (0.07, 0.99, 0.11), 1.0, 0)
    second = lab((0.55, 0.76, 0.35), (0.15, 0.95, 0.25), 0.7, 0)
    before = np.abs(optical_density(first) - optical_density(second)).mean()
    after = np.abs(
        optical_density(normalise(first, estimate(first))) - optical_density(normalise(second, estimate(second)))
    ).mean()
    assert after < 0.35 * before
    batch = np.stack([first[:64, :64], second[:64, :64]])
    assert normalise(batch, REFERENCE).shape == batch.shape
    assert np.abs(normalise(first, REFERENCE).astype(int) - first).mean() < 3  # onto itself


def test_stains_of_nothing_are_refused(path):
    with pytest.raises(DataError, match="0 stained pixels"):
        estimate(np.full((64, 64, 3), 240, np.uint8))
    with pytest.raises(DataError, match="one colour"):
        estimate(np.full((64, 64, 3), 120, np.uint8))
    with open_slide(path) as slide:
        found = estimate_slide(slide, grid(slide, find_tissue(slide), 64, 0.5))
    assert (found.matrix >= 0).all() and np.linalg.norm(found.matrix, axis=0) == pytest.approx(1)


# -- the command


@pytest.fixture(scope="module")
def folder(picture, tmp_path_factory):
    root = tmp_path_factory.mktemp("folder")
    write_pyramid(root / "김철수 1234567.tif", picture)
    write_dicom(root / "dicom", np.flipud(picture))
    return root


def test_a_folder_in_processes_then_resumed(folder, tmp_path, command):
    asked = ["slides", "tile", str(folder), "--out", str(tmp_path / "out"), "--patch", "128", "--jobs", "2"]
    done = command("clarion", *asked, "--stain", "macenko")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["tiled"], said["kept"], said["failed"], len(said["slides"])) == (2, 0, 0, 2)
    for name, row in said["slides"].items():
        tiles = store.read(tmp_path / "out" / f"{name}.h5")
        assert len(tiles) == row["tiles"] > 10 and tiles.sha == row["slide"]["sha"]
        assert store.read_stains(tmp_path / "out" / f"{name}.h5") is not None
        assert cv2.imread(str(tmp_path / "out" / f"{name}.jpg")).shape == (1024, 1280, 3)
    written = " ".join(p.name for p in (tmp_path / "out").iterdir()) + done.stdout + done.stderr
    written += (tmp_path / "out" / "tiles.json").read_text(encoding="utf-8")
    assert "김철수" not in written and "1234567" not in written and "Hong" not in written

    first, second = sorted((tmp_path / "out").glob("*.h5"))
    first.unlink()
    before = second.stat().st_mtime_ns
    settings = Settings(patch=128, stain="macenko")
    again = tile_folder(folder, tmp_path / "out", settings)
    assert (again["tiled"], again["kept"]) == (1, 1) and second.stat().st_mtime_ns == before
    assert tile_folder(folder, tmp_path / "out", replace(settings, patch=64))["tiled"] == 2  # other settings


def test_single_slides_into_one_folder_add_up(tmp_path, picture):
    """As a cluster's tasks do it, one slide each."""
    for k, image in enumerate((picture, np.fliplr(picture))):
        path = write_pyramid(tmp_path / f"{k}.tif", image)
        summary = tile_folder(path, tmp_path / "out", Settings(patch=128))
        assert summary["tiled"] == k + 1
    assert len(json.loads((tmp_path / "out" / "tiles.json").read_text(encoding="utf-8"))["slides"]) == 2


def test_one_bad_slide_does_not_stop_the_others(tmp_path, picture):
    root = tmp_path / "slides"
    root.mkdir()
    write_pyramid(root / "good.tif", picture)
    write_pyramid(root / "no scale.tif", picture, mpp=None)
    (root / "empty.svs").touch()
    with pytest.raises(DataError) as caught:
        tile_folder(root, tmp_path / "out", Settings(patch=128))
    assert "2 of 3 slides" in str(caught.value)
    assert "no scale.tif does not say" in str(caught.value) and "empty.svs is empty" in str(caught.value)
    assert "scale.tif" not in caught.value.recorded and "empty.svs" not in caught.value.recorded
    kept = json.loads((tmp_path / "out" / "tiles.json").read_text(encoding="utf-8"))
    assert (kept["tiled"], kept["failed"]) == (1, 2)
    assert "empty.svs" not in json.dumps(kept)


def test_wrong_usage_is_one_sentence(tmp_path, command):
    done = command("clarion", "slides", "tile", str(tmp_path / "none"), "--out", str(tmp_path / "out"))
    assert (done.returncode, done.stdout) == (2, "") and "does not exist; give a slide" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    with pytest.raises(UsageError, match="holds no slides"):
        tile_folder(tmp_path, tmp_path / "out", Settings())


def test_slide_scale_by_option(tmp_path, picture):
    path = write_pyramid(tmp_path / "a.tif", smaller(picture, 2), mpp=None)
    summary = tile_folder(path, tmp_path / "out", Settings(patch=64, mpp=1.0, slide_mpp=1.0))
    (row,) = summary["slides"].values()
    assert row["slide"]["mpp_source"] == "given" and row["tiles"] > 10


def test_benchmark_runs_small_and_pixels_agree(command):
    done = command("benchmarks/tiling.py", "--side", "1024", "--repeats", "1")
    assert done.returncode == 0, done.stderr
    line = json.loads(done.stdout.splitlines()[-1])
    assert {"name", "ratio", "peer", "n"} <= line.keys() and line["n"] == 16
    assert line["max_difference"] == {"aligned": 0, "misaligned": 0, "resized": 0}
    assert line["peak_mb"] < 1000
