"""Every check is provoked by a planted fault in a folder that is sound otherwise."""

from __future__ import annotations

import io
import os
import shutil
import struct
import zlib

import numpy as np
import pytest
from detection_folders import picture
from PIL import Image

from clarion.data.detection import DetectionData
from clarion.data.images import difference_hash, inspect_image, near_duplicates
from clarion.errors import DataError


def errors(root, **options) -> dict[str, str]:
    """code -> wording for the screen, of all errors; also through check(), which must raise."""
    data = DetectionData("scans", root=str(root), **options)
    with pytest.raises(DataError) as caught:
        data.check()
    report = data._report
    assert all(f.text(private=True) in str(caught.value) for f in report.errors)
    return {f.code: f.text(private=True) for f in report.errors}


def warnings(root, **options) -> dict[str, str]:
    report = DetectionData("scans", root=str(root), **options).check()
    return {f.code: f.text(private=True) for f in report.warnings}


def test_a_sound_folder_passes_and_empty_labels_are_counted(folder):
    report = DetectionData("scans", root=str(folder)).check()
    assert report.ok and report.warnings == []
    assert report.counts["images"] == 22 and report.counts["images_without_box"] == 11
    assert report.counts["train_patients"] == 6 and report.counts["test_samples"] == 6


def test_a_patient_in_two_splits_is_refused_by_name_on_screen_and_by_pseudonym_in_records(folder):
    table = folder / "samples.csv"
    table.write_text(table.read_text().replace("test-eye1", "train-eye0"))
    data = DetectionData("scans", root=str(folder))
    with pytest.raises(DataError, match="train-eye0 in train and test") as caught:
        data.check()
    assert "P-" in caught.value.recorded and "eye" not in caught.value.recorded
    assert "train-eye0" not in str(data._report.to_dict())


def test_the_same_image_in_two_splits_also_in_another_container(folder):
    source = folder / "images" / "train" / "train0_0.png"
    shutil.copy(source, folder / "images" / "test" / "test0_0.png")
    Image.open(source).save(folder / "images" / "val" / "val0_0.bmp")
    (folder / "images" / "val" / "val0_0.png").unlink()
    found = errors(folder)["duplicate_across_splits"]
    assert "(2)" in found and "train0_0.png = images/test/test0_0.png (train / test)" in found and "val0_0.bmp" in found


def test_a_duplicate_inside_a_split_does_not_hide_one_across(folder):
    for name in ("train/train0_1", "test/test0_0"):
        shutil.copy(folder / "images/train/train0_0.png", folder / f"images/{name}.png")
    assert "(1)" in errors(folder)["duplicate_across_splits"]


def test_duplicates_and_look_alikes_inside_a_split_are_warnings(folder):
    images = folder / "images" / "train"
    shutil.copy(images / "train0_0.png", images / "train1_0.png")
    found = warnings(folder)
    assert "train0_0.png = images/train/train1_0.png" in found["duplicate"]
    brighter = np.asarray(Image.open(images / "train2_0.png")).astype(float) * 0.8 + 20
    Image.fromarray(brighter.astype(np.uint8)).save(folder / "images" / "test" / "test0_0.png")
    found = warnings(folder)
    assert (
        "train2_0.png" in found["near_duplicate_across_splits"] and "test0_0" in found["near_duplicate_across_splits"]
    )


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("0 nan 0.5 0.1 0.1", "box_nan"),
        ("0 inf 0.5 0.1 0.1", "box_nan"),
        ("0 0.9 0.5 0.4 0.1", "box_outside"),
        ("0 1.5 0.5 0.1 0.1", "box_outside"),
        ("0 320 240 60 60", "box_outside"),
        ("0 0.5 0.5 0.0 0.1", "box_without_area"),
        ("0 0.5 0.5 -0.2 0.1", "box_without_area"),
        ("1 0.5 0.5 0.1 0.1", "class_out_of_range"),
        ("-1 0.5 0.5 0.1 0.1", "class_out_of_range"),
        ("0.5 0.5 0.5 0.1 0.1", "label_unreadable"),
        ("0 0.5 0.5 0.1", "label_unreadable"),
        ("0 0.5 0.5 0.1 0.1 0.9", "label_unreadable"),
        ("erm 0.5 0.5 0.1 0.1", "label_unreadable"),
        ("nan 0.5 0.5 0.1 0.1", "label_unreadable"),
        ("99999999999999999999 0.5 0.5 0.1 0.1", "label_unreadable"),
    ],
)
def test_faulty_label_lines(folder, line, code):
    (folder / "labels" / "train" / "train0_0.txt").write_text("0 0.5 0.5 0.1 0.1\n\n" + line + "\n")
    found = errors(folder)
    assert set(found) == {code}
    assert "train0_0" in found[code] and "line 3" in found[code]


def test_a_box_on_the_rim_is_clipped_and_a_doubled_one_kept_once(folder):
    text = "0 0.05 0.5 0.11 0.5\n" + 2 * "0 0.5 0.5 0.25 0.25\n"
    (folder / "labels" / "test" / "test0_0.txt").write_text(text)
    data = DetectionData("scans", root=str(folder), pseudonyms=False)
    truth = data.truth("test").set_index("sample_id")
    assert truth.loc["test0_0", "boxes"][0][0] == 0.0
    assert len(truth.loc["test0_0", "boxes"]) == len(truth.loc["test0_0", "labels"]) == 2
    assert "box_doubled" in {w.code for w in data.check().warnings}


def test_a_polygon_becomes_its_box(folder):
    (folder / "labels" / "test" / "test0_0.txt").write_text("0 0.25 0.25 0.5 0.25 0.5 0.75 0.25 0.5\n")
    truth = DetectionData("scans", root=str(folder), pseudonyms=False).truth("test").set_index("sample_id")
    assert truth.loc["test0_0", "boxes"] == [[16.0, 12.0, 32.0, 36.0]]


def test_binary_label_file_is_refused(folder):
    (folder / "labels" / "train" / "train0_0.txt").write_bytes(b"\xff\xfe\x00\x01")
    assert "not text" in errors(folder)["label_unreadable"]


def test_truncated_empty_false_and_many_framed_images(folder):
    images = folder / "images" / "train"
    whole = (images / "train0_0.png").read_bytes()
    (images / "train0_0.png").write_bytes(whole[: len(whole) // 2])
    (images / "train1_0.png").write_bytes(b"")
    (images / "train2_0.png").write_text("<html>404</html>")
    frames = [picture(k) for k in (1, 2)]
    frames[0].save(images / "train3_0.tif", save_all=True, append_images=frames[1:])
    (images / "train3_0.png").unlink()
    found = errors(folder)["image_unusable"]
    assert "(4)" in found
    for part in ("train0_0.png cannot be decoded", "train1_0.png is empty", "not a PNG", "holds 2 frames"):
        assert part in found


def test_corrupt_pixels_are_found_though_a_library_allows_truncated_files(folder, monkeypatch):
    from PIL import ImageFile

    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    path = folder / "images" / "train" / "train0_0.png"
    path.write_bytes(path.read_bytes()[:-60])
    assert "train0_0" in errors(folder)["image_unusable"]
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


def test_a_decompression_bomb_is_refused_without_decoding():
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 10_000, 10_000, 8, 0, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    assert "above the limit" in inspect_image(bomb).error


def test_a_tiny_image_and_mixed_sizes(folder):
    Image.new("L", (8, 8), 3).save(folder / "images" / "train" / "train0_0.png")
    assert "8x8" in errors(folder)["image_too_small"]
    picture(3, 80, 48).save(folder / "images" / "train" / "train0_0.png")
    assert "1 x 80x48" in warnings(folder)["sizes_differ"]


def test_exif_rotation_gives_the_size_as_displayed():
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(1, 64, 48).save(buffer, "JPEG", exif=exif)
    facts = inspect_image(buffer.getvalue())
    assert (facts.width, facts.height) == (48, 64)


def test_labels_without_image_and_images_without_labels_are_listed(folder):
    (folder / "images" / "train" / "train0_0.png").unlink()
    (folder / "labels" / "test" / "test0_0.txt").unlink()
    found = warnings(folder)
    assert "labels/train/train0_0.txt" in found["image_missing"]
    assert "images/test/test0_0.png" in found["label_missing"]
    assert "train0_0" in found["row_unmatched"]


def test_no_label_at_all_is_an_error(folder):
    shutil.rmtree(folder / "labels")
    assert "labels_missing" in errors(folder)


def test_two_images_with_one_label_file(folder):
    picture(77).save(folder / "images" / "train" / "train0_0.bmp")
    with pytest.raises(DataError, match="shares its label file|no row"):
        DetectionData("scans", root=str(folder)).check()


def test_an_image_without_patient_is_refused(folder):
    table = folder / "samples.csv"
    table.write_text("\n".join(line for line in table.read_text().splitlines() if "train0_0" not in line))
    assert "train0_0" in errors(folder)["patient_missing"]


def test_all_errors_come_at_once_with_ten_names_and_the_total(folder):
    for path in (folder / "labels" / "train").iterdir():
        path.write_text("7 0.5 0.5 0.1 0.1\n0 0.5 2.5 0.1 0.1\n")
    found = errors(folder)
    assert set(found) == {"class_out_of_range", "box_outside"}
    assert "(12)" in found["box_outside"] and "and 2 more" in found["box_outside"]


def test_a_link_out_of_the_root_is_refused_and_one_inside_is_followed(folder, tmp_path):
    outside = tmp_path / "elsewhere.png"
    picture(9).save(outside)
    link = folder / "images" / "train" / "train0_0.png"
    link.unlink()
    os.symlink(outside, link)
    with pytest.raises(DataError, match="link out of data.root"):
        DetectionData("scans", root=str(folder)).check()
    link.unlink()
    (folder / "store").mkdir()
    picture(9).save(folder / "store" / "x.png")
    os.symlink("../../store/x.png", link)
    assert DetectionData("scans", root=str(folder)).check().ok


def test_a_linked_folder_out_of_the_root_is_refused(folder, tmp_path):
    (folder / "images" / "train").rename(tmp_path / "train")
    os.symlink(tmp_path / "train", folder / "images" / "train")
    with pytest.raises(DataError, match="link out of data.root"):
        DetectionData("scans", root=str(folder)).check()


def test_second_check_reads_no_image_and_a_changed_one_is_read_again(folder, monkeypatch):
    old = 1_000_000_000
    for path in folder.rglob("*.png"):
        os.utime(path, (old, old))
    DetectionData("scans", root=str(folder)).check()
    looked = []
    import clarion.data.images as images

    look = images._look
    monkeypatch.setattr(images, "_look", lambda path: looked.append(path.name) or look(path))
    assert DetectionData("scans", root=str(folder)).check().ok
    assert looked == []
    path = folder / "images" / "train" / "train0_0.png"
    path.write_bytes(path.read_bytes()[:50])
    assert "train0_0" in errors(folder)["image_unusable"]
    assert looked == ["train0_0.png"]


def test_a_damaged_cache_costs_time_only(folder, own_cache):
    (own_cache / "files.sqlite").write_bytes(b"no database at all, but long enough to be taken for one" * 20)
    data = DetectionData("scans", root=str(folder))
    assert data.check().ok and len(data.fingerprint()) == 32


def test_near_duplicates_find_exactly_the_pairs_within_the_distance():
    rng = np.random.default_rng(0)
    base = rng.integers(0, 256, 32, dtype=np.uint8)
    close, far = base.copy(), base.copy()
    close[0] ^= 0b00001111
    far[:2] ^= 0b11111111
    hashes = [base.tobytes().hex(), "", far.tobytes().hex(), close.tobytes().hex(), rng.bytes(32).hex()]
    assert near_duplicates(hashes) == [(0, 3, 4), (2, 3, 12)]


def test_difference_hash_ignores_scale_and_brightness_and_is_empty_for_flat():
    first = np.asarray(picture(5, 320, 240))
    again = np.asarray(Image.fromarray((first * 0.7 + 10).astype(np.uint8)).resize((160, 120)))
    a, b = (np.frombuffer(bytes.fromhex(difference_hash(x)), np.uint8) for x in (first, again))
    assert np.bitwise_count(a ^ b).sum() <= 12
    assert difference_hash(np.zeros((50, 50), np.uint8)) == difference_hash(first[:10]) == ""
