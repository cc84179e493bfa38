"""One corpus over all readers: bad input ends in a named error or is counted and listed; nothing else happens.

Each case damages a copy of something sound and says what is then expected: the words of the one error, or, for input
that is odd but legal, a function of the result. Whatever the case, nothing is executed and nothing outside the folder
that was named is opened.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
from pathlib import Path

import cv2
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from children import draw_plates
from hostile import Watch, bmp, encoded, grey, hostile_pickle, png, torch_file
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, OphthalmicTomographyImageStorage, generate_uid

from clarion import config, launch, run
from clarion.cancer.datasets import OmicsData
from clarion.data.detection import DetectionData
from clarion.errors import ClarionError
from clarion.llm.instruct import InstructData
from clarion.oct.datasets import HeyexExport
from clarion.oct.readers import read_volume
from clarion.oct.stages import BscanStages
from clarion.preflight import preflight

CASES: dict[str, tuple] = {}
WATCH = Watch()
SECRET = "Anna Mueller, born 1961"


class Place:
    """Where a case works: `root` (a folder to fill), `marker` (must never appear), `outside` (must never be read)."""

    def __init__(self, folder: Path, sound: Path):
        self.root, self.marker, self.outside, self.sound = folder / "data", folder / "owned", folder / "outside", sound
        self.outside.mkdir()
        (self.outside / "secret.txt").write_text(SECRET, encoding="utf-8")
        (self.outside / "picture.png").write_bytes(encoded(grey(seed=9), "PNG"))
        (self.outside / "scan.vol").write_bytes(b"HSF-OCT-103" + bytes(3000))
        (self.outside / "train.jsonl").write_text('{"question": "x", "answer": "y"}\n' * 3, encoding="utf-8")
        (self.outside / "cohort.csv").write_text(cohort_table(), encoding="utf-8")

    def plates(self) -> Path:
        shutil.copytree(self.sound, self.root)
        return self.root

    def folder(self, **files: str | bytes) -> Path:
        """A new folder with these files; `__` in a name is a folder, the last `_` its dot."""
        for name, content in files.items():
            path = self.root / ".".join(name.replace("__", "/").rsplit("_", 1))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        self.root.mkdir(exist_ok=True)
        return self.root


def case(expected):
    """expected: a regular expression of the error's text, or a function of what the case returns."""

    def register(work):
        assert work.__name__ not in CASES
        CASES[work.__name__] = (work, expected)
        return work

    return register


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    return draw_plates(tmp_path_factory.mktemp("sound") / "data", train=3, val=1, test=1)


@pytest.mark.parametrize("name", CASES)
def test_bad_input(name, tmp_path, sound, monkeypatch, capfd):
    monkeypatch.setenv("CLARION_CACHE", str(tmp_path / "cache"))
    work, expected = CASES[name]
    place = Place(tmp_path, sound)
    WATCH.start(place.outside)
    try:
        if callable(expected):
            assert expected(work(place))
        else:
            with pytest.raises(ClarionError, match=expected) as raised:
                work(place)
            text = str(raised.value)
            assert "Traceback" not in text and len(text) < 3000 and text.strip()
            assert SECRET not in text and SECRET not in str(getattr(raised.value, "recorded", ""))
    finally:
        seen = WATCH.stop()
    assert seen == []
    assert not place.marker.exists()
    assert SECRET not in "".join(capfd.readouterr())


def test_the_corpus_is_as_large_as_it_claims():
    assert len(CASES) >= 40


# ---- a YOLO folder -------------------------------------------------------------------------------------------


def detection(root: Path, **options):
    """Prepare and check, as a run does before its first step; returns (the data, its report)."""
    data = DetectionData("yolo_folder", root=str(root), **{"class_names": ["plate"], **options})
    data.prepare()
    return data, data.check()


def picture_of(root: Path) -> Path:
    return root / "images" / "train" / "train001.png"


def with_picture(place: Place, content: bytes, suffix: str = ".png"):
    root = place.plates()
    picture_of(root).unlink()
    picture_of(root).with_suffix(suffix).write_bytes(content)
    return detection(root)


def with_label(place: Place, content: str | bytes):
    root = place.plates()
    label = root / "labels" / "train" / "train001.txt"
    label.write_bytes(content if isinstance(content, bytes) else content.encode())
    return detection(root)


def with_yaml(place: Place, text: str):
    root = place.plates()
    (root / "data.yaml").write_text(text, encoding="utf-8")
    return detection(root, class_names=None)


UNUSABLE = r"(?s)cannot be used.*train001\.(png|tif|jpg|bmp)"
BOX = "0 .5 .5 .4 .4"


@case(UNUSABLE + " cannot be decoded")
def truncated_png(place):
    return with_picture(place, encoded(grey(), "PNG")[:900])


@case(UNUSABLE + " cannot be decoded")
def truncated_tiff(place):
    return with_picture(place, encoded(grey(), "TIFF")[:700], ".tif")


@case(UNUSABLE + " cannot be decoded")
def truncated_jpeg(place):
    return with_picture(place, encoded(grey(), "JPEG")[:500], ".jpg")


@case(UNUSABLE + r" is empty \(0 bytes\)")
def picture_of_no_bytes(place):
    return with_picture(place, b"")


@case(UNUSABLE + " cannot be decoded")
def picture_of_0_x_0(place):
    return with_picture(place, png(0, 0))


@case(UNUSABLE + " is 30000x30000 pixels, above the limit")
def decompression_bomb(place):
    return with_picture(place, png(30_000, 30_000))


@case(UNUSABLE + " is 30000x30000 pixels, above the limit")
def bomb_in_a_bmp(place):
    return with_picture(place, bmp(30_000, 30_000), ".bmp")


@case(UNUSABLE + " cannot be decoded")
def five_channels(place):
    ok, content = cv2.imencodemulti(".tiff", [np.zeros((40, 40, 3), np.uint8)])
    assert ok
    tag = struct_of_samples(content.tobytes())
    return with_picture(place, tag, ".tif")


def struct_of_samples(tiff: bytes) -> bytes:
    """The same TIFF, saying that it has five samples a pixel (tag 277)."""
    place = tiff.index((277).to_bytes(2, "little") + (3).to_bytes(2, "little"))
    return tiff[: place + 8] + (5).to_bytes(2, "little") + tiff[place + 10 :]


@case(UNUSABLE + " holds 3 frames")
def several_frames(place):
    frames = [grey(seed=k) for k in range(3)]
    return with_picture(place, encoded(frames[0], "TIFF", save_all=True, append_images=frames[1:]), ".tif")


@case(UNUSABLE + r" cannot be decoded \(not a PNG")
def pickle_posing_as_picture(place):
    return with_picture(place, hostile_pickle(place.marker))


@case(lambda found: found[1].counts["images_without_box"] == 1 and found[1].ok)
def label_of_no_bytes(place):
    return with_label(place, b"")


@case("boxes hold NaN or infinity.*train001.png line 1")
def nan_box(place):
    return with_label(place, "0 nan .5 .4 .4")


@case("boxes hold NaN or infinity.*line 2")
def infinite_box(place):
    return with_label(place, f"{BOX}\n0 .5 .5 inf .4")


@case("reach outside their image")
def box_outside(place):
    return with_label(place, "0 .9 .5 .6 .4")


@case("have no width or no height")
def box_of_negative_width(place):
    return with_label(place, "0 .5 .5 -.2 .4")


@case(r"classes lie outside 0\.\.0 \(plate\).*class 7")
def class_out_of_range(place):
    return with_label(place, "7 .5 .5 .4 .4")


@case("(?s)labels cannot be read.*label file is not text")
def binary_label(place):
    return with_label(place, b"\xff\xfe\x00\x01" * 20)


@case("(?s)labels cannot be read.*not `class cx cy w h`")
def label_of_words(place):
    return with_label(place, "plate upper left")


@case("(?s)labels cannot be read.*not `class cx cy w h`")
def class_number_beyond_any_integer(place):
    return with_label(place, "1e400 .5 .5 .4 .4")


@case("(?s)labels cannot be read.*larger than 8 MiB")
def label_of_9_megabytes(place):
    return with_label(place, (BOX + "\n") * 700_000)


@case("link")
def link_to_itself(place):
    root = place.plates()
    os.symlink("loop.png", root / "images" / "train" / "loop.png")
    return detection(root)


@case(lambda found: len(found[0].splits["train"]) == 3)
def folder_that_links_to_its_parent(place):
    root = place.plates()
    os.symlink(root / "images" / "train", root / "images" / "train" / "again", target_is_directory=True)
    return detection(root)


@case("link out of data.root")
def link_to_a_picture_elsewhere(place):
    root = place.plates()
    os.symlink(place.outside / "picture.png", root / "images" / "train" / "x.png")
    return detection(root)


@case("link out of data.root")
def link_to_a_folder_elsewhere(place):
    root = place.plates()
    os.symlink(place.outside, root / "images" / "train" / "more", target_is_directory=True)
    return detection(root)


@case("link out of data.root")
def label_that_links_elsewhere(place):
    root = place.plates()
    label = root / "labels" / "train" / "train001.txt"
    label.unlink()
    os.symlink(place.outside / "secret.txt", label)
    return detection(root)


@case("no regular file")
def named_pipe_posing_as_picture(place):
    root = place.plates()
    os.mkfifo(root / "images" / "train" / "pipe.png")
    return detection(root)


@case(lambda found: found[0].yolo_yaml().is_file() and len(found[0].splits["train"]) == 6)
def names_with_spaces_korean_and_newlines(place):
    root = place.plates()
    for k, name in enumerate(("left eye 1", "왼쪽 눈", "two\nlines")):
        (root / "images" / "train" / f"{name}.png").write_bytes(encoded(grey(seed=10 + k), "PNG"))
        (root / "labels" / "train" / f"{name}.txt").write_text(BOX, encoding="utf-8")
    return detection(root)


@case("lies outside data.root")
def yaml_that_climbs_out(place):
    return with_yaml(place, "train: ../outside\nval: images/val\nnames: [plate]\n")


@case("lies outside data.root")
def yaml_with_an_absolute_path(place):
    return with_yaml(place, f"path: {place.outside}\ntrain: .\nval: .\nnames: [plate]\n")


@case("lies outside data.root")
def list_of_pictures_that_climbs_out(place):
    root = place.plates()
    (root / "train.txt").write_text("images/train/train000.png\n../outside/picture.png\n", encoding="utf-8")
    (root / "data.yaml").write_text("train: train.txt\nval: images/val\nnames: [plate]\n", encoding="utf-8")
    return detection(root, class_names=None)


@case("null byte|not valid UTF-8 YAML")
def yaml_with_a_null_byte(place):
    return with_yaml(place, 'train: "images\\0train"\nval: images/val\nnames: [plate]\n')


@case("not valid UTF-8 YAML")
def yaml_that_calls_python(place):
    return with_yaml(place, f"names: !!python/object/apply:os.mkdir ['{place.marker}']\n")


@case("names")
def yaml_that_doubles_thirty_times(place):
    lines = ["a0: &a0 [lol, lol]", *(f"a{k}: &a{k} [*a{k - 1}, *a{k - 1}]" for k in range(1, 31))]
    return with_yaml(place, "\n".join(lines) + "\nnames: [*a30]\n")


@case("count 0, 1, 2")
def yaml_names_with_gaps(place):
    return with_yaml(place, "names: {0: plate, 7: cup}\n")


@case("count 0, 1, 2")
def yaml_names_of_two_kinds(place):
    return with_yaml(place, "names: {0: plate, cup: 1}\n")


@case("path must be a folder")
def yaml_with_a_list_for_its_path(place):
    return with_yaml(place, "path: [a, [b]]\ntrain: images/train\nval: images/val\nnames: [plate]\n")


@case("the same image is in two splits")
def picture_in_two_splits(place):
    root = place.plates()
    shutil.copy(picture_of(root), root / "images" / "test" / "copy.png")
    shutil.copy(root / "labels" / "train" / "train001.txt", root / "labels" / "test" / "copy.txt")
    return detection(root)


@case("the same patient is in two splits")
def patient_in_two_splits(place):
    root = place.plates()
    names = sorted(p.stem for p in root.rglob("*.png"))
    pd.DataFrame({"sample_id": names, "patient_id": ["p1"] * len(names)}).to_csv(root / "samples.csv", index=False)
    return detection(root)


@case("samples.csv")
def table_that_is_a_pickle(place):
    root = place.plates()
    (root / "samples.csv").write_bytes(hostile_pickle(place.marker))
    return detection(root)


@case(lambda found: found[0].yolo_yaml().is_file())
def pickle_posing_as_ultralytics_cache(place):
    root = place.plates()
    (root / "labels" / "train.cache").write_bytes(hostile_pickle(place.marker))
    return detection(root)


# ---- COCO ----------------------------------------------------------------------------------------------------


def coco(place: Place, text: str | None = None, **changes):
    root = place.folder(annotations__instances_json=text or "")
    (root / "images").mkdir()
    document = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "plate"}]}
    for k in range(6):  # each its own patient: enough for three splits
        (root / "images" / f"{k}.png").write_bytes(encoded(grey(seed=k), "PNG"))
        document["images"].append({"id": k, "file_name": f"{k}.png", "width": 80, "height": 64})
        box = {"id": k, "image_id": k, "category_id": 1, "bbox": [5, 5, 20, 20]}
        document["annotations"].append(box)
    for key, change in changes.items():
        document[key][0] |= change
    if text is None:
        (root / "annotations" / "instances.json").write_text(json.dumps(document), encoding="utf-8")
    return detection(root, format="coco", class_names=None)


@case("not valid UTF-8 JSON")
def coco_cut_short(place):
    return coco(place, '{"images": [{"id": 1, "file_na')


@case("not valid UTF-8 JSON")
def coco_nested_100000_deep(place):
    return coco(place, "[" * 100_000)


@case("lies outside data.root")
def coco_that_climbs_out(place):
    return coco(place, images={"file_name": "../../outside/picture.png"})


@case("lies outside data.root")
def coco_with_an_absolute_path(place):
    return coco(place, images={"file_name": str(place.outside / "picture.png")})


@case("boxes hold NaN")
def coco_nan_box(place):
    return coco(place, annotations={"bbox": [float("nan"), 5, 20, 20]})


@case("category_id 9 is not among the categories")
def coco_unknown_category(place):
    return coco(place, annotations={"category_id": 9})


@case("an image lacks its id or file_name")
def coco_with_a_list_for_a_name(place):
    return coco(place, images={"file_name": ["a.png"]})


@case("its labels say 9999x64")
def coco_of_another_size(place):
    return coco(place, images={"width": 9999})


# ---- classified B-scans --------------------------------------------------------------------------------------


def stages(place: Place, content: bytes, folder: str = "early"):
    for split, count in (("train", 4), ("test", 2)):
        for k in range(count):
            for number, name in enumerate(("normal", "early", "advanced")):
                path = place.root / split / name / f"p{split}{k}{name}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(encoded(grey(seed=100 * k + number + (50 if split == "test" else 0)), "PNG"))
    bad = place.root / "train" / folder / "bad.png"
    bad.parent.mkdir(exist_ok=True)
    bad.write_bytes(content)
    data = BscanStages("bscan_stages", root=str(place.root))
    data.prepare()
    return data, data.check()


@case(r"(?s)cannot be used.*bad.png cannot be decoded")
def stages_truncated_png(place):
    return stages(place, encoded(grey(seed=77), "PNG")[:600])


@case(r"(?s)cannot be used.*bad.png is 30000x30000")
def stages_decompression_bomb(place):
    return stages(place, png(30_000, 30_000))


@case("(?s)moderate")
def stages_unknown_class(place):
    return stages(place, encoded(grey(seed=77), "PNG"), "moderate")


# ---- HEYEX exports and the scans of `clarion quantify` ---------------------------------------------------------


def heyex(place: Place, **files: bytes):
    data = HeyexExport("heyex", root=str(place.folder(**files)))
    data.prepare()
    return data.check()


@case("(?s)0001_H|picture|damaged|cut")
def heyex_truncated_bmp(place):
    return heyex(place, Horizontal__0001_H_bmp=encoded(grey(496), "BMP")[:3000])


@case("(?s)pixels|large|limit|damaged")
def heyex_decompression_bomb(place):
    return heyex(place, Horizontal__0001_H_bmp=bmp(30_000, 30_000))


@case("(?s)damaged|cannot|0001_H")
def heyex_of_0_x_0(place):
    return heyex(place, Horizontal__0001_H_bmp=bmp(0, 0))


@case("No picture")
def heyex_empty(place):
    return heyex(place)


def opt(rows: int, columns: int, frames: int, pixels: bytes) -> Dataset:
    scan = Dataset()
    scan.file_meta = FileMetaDataset()
    scan.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    scan.file_meta.MediaStorageSOPClassUID = scan.SOPClassUID = OphthalmicTomographyImageStorage
    scan.file_meta.MediaStorageSOPInstanceUID = scan.SOPInstanceUID = generate_uid()
    scan.Modality, scan.PatientName = "OPT", SECRET
    scan.Rows, scan.Columns, scan.NumberOfFrames, scan.SamplesPerPixel = rows, columns, frames, 1
    scan.PhotometricInterpretation, scan.BitsAllocated, scan.BitsStored, scan.HighBit = "MONOCHROME2", 8, 8, 7
    scan.PixelRepresentation, scan.PixelData = 0, pixels
    return scan


def dicom(place: Place, cut: int | None = None, rows: int = 64, columns: int = 64, frames: int = 2):
    path = place.folder() / "scan.dcm"
    opt(rows, columns, frames, bytes(64 * 64 * 2)).save_as(path, enforce_file_format=True)
    if cut:
        path.write_bytes(path.read_bytes()[:cut])
    return read_volume(path)


@case("impossible: export it again")
def truncated_dicom(place):
    return dicom(place, cut=400)


@case("(?s)limit|large|damaged|pixels|cut off|voxels")
def dicom_of_30000_x_30000(place):
    return dicom(place, rows=30_000, columns=30_000, frames=100)


@case("(?s)damaged|cut off|known format")
def truncated_vol(place):
    return read_volume(place.folder(scan_vol=b"HSF-OCT-103" + bytes(300)) / "scan.vol")


@case("(?s)damaged|cannot be read|known format")
def e2e_of_noise(place):
    noise = np.random.default_rng(0).bytes(5000)
    return read_volume(place.folder(scan_e2e=b"CMDb" + noise) / "scan.e2e")


@case("^[ -~]*cut off in its part[ -~]*export it again")
def fda_of_noise(place):
    return read_volume(place.folder(scan_fda=b"FOCTFDA" + np.random.default_rng(0).bytes(5000)) / "scan.fda")


@case("(?s)XML|damaged|entit|DTD")
def xml_that_reads_a_file(place):
    secret = (place.outside / "secret.txt").as_uri()
    text = f'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY e SYSTEM "{secret}">]><HEDX><BODY><a>&e;</a></BODY></HEDX>'
    return read_volume(place.folder(scan_xml=text) / "scan.xml")


@case("(?s)XML|damaged|entit|DTD")
def xml_that_laughs_a_billion_times(place):
    entities = '<!ENTITY a0 "lol">' + "".join(f'<!ENTITY a{k} "{f"&a{k - 1};" * 10}">' for k in range(1, 10))
    text = f'<?xml version="1.0"?><!DOCTYPE x [{entities}]><HEDX><BODY><a>&a9;</a></BODY></HEDX>'
    return read_volume(place.folder(scan_xml=text) / "scan.xml")


@case("more than any scan")
def nifti_that_unpacks_to_gigabytes(place):
    header = nib.Nifti1Header()
    header.set_data_shape((3000, 3000, 3000))
    header.set_data_dtype(np.uint8)
    return read_volume(place.folder(scan_nii_gz=b"") and _gzip(place.root / "scan.nii.gz", header.binaryblock))


def _gzip(path: Path, head: bytes) -> Path:
    with gzip.open(path, "wb") as file:
        file.write(head + bytes(10_000_000))
    return path


@case("links to files outside|out of")
def scan_that_links_elsewhere(place):
    os.symlink(place.outside / "scan.vol", place.folder() / "scan.vol")
    return read_volume(place.root)


@case("known format")
def pickle_posing_as_scan(place):
    return read_volume(place.folder(scan_bin=hostile_pickle(place.marker)) / "scan.bin")


# ---- questions and answers -----------------------------------------------------------------------------------


def questions(place: Place, content: str | bytes):
    good = "".join(json.dumps({"question": f"What is {k}?", "answer": f"It is {k}."}) + "\n" for k in range(12))
    data = InstructData("instruct_jsonl", root=str(place.folder(train_jsonl=content, test_jsonl=good)), kind="private")
    data.prepare()
    return data.check()


@case("train.jsonl line 1 is not a JSON object in UTF-8")
def pickle_posing_as_jsonl(place):
    return questions(place, hostile_pickle(place.marker))


@case("train.jsonl line 2 is not a JSON object")
def jsonl_cut_short(place):
    return questions(place, '{"question": "a", "answer": "b"}\n{"question": "c", "ans')


@case("train.jsonl line 1 is not a JSON object")
def jsonl_nested_100000_deep(place):
    return questions(place, "[" * 100_000)


@case("line 1 is longer than")
def jsonl_with_a_line_of_5_megabytes(place):
    return questions(place, json.dumps({"question": "a" * 5_000_000, "answer": "b"}))


@case("train.jsonl line 1 lacks answer")
def jsonl_without_answer(place):
    return questions(place, '{"question": "a"}')


@case("question is a list; write it as text")
def jsonl_with_a_list_for_a_question(place):
    return questions(place, '{"question": ["a"], "answer": "b"}')


@case("link|outside")
def jsonl_that_links_elsewhere(place):
    root = place.folder(test_jsonl='{"question": "a", "answer": "b"}')
    os.symlink(place.outside / "train.jsonl", root / "train.jsonl")
    data = InstructData("instruct_jsonl", root=str(root), kind="private")
    data.prepare()
    return data.check()


# ---- tables of cohorts ---------------------------------------------------------------------------------------


def cohort(root: Path, **options):
    data = OmicsData("cancer_omics", root=str(root), source="folder", kind="public", **options)
    data.prepare()
    return data.check()


def cohort_table(rows: int = 40, **columns) -> str:
    rng = np.random.default_rng(0)
    frame = {
        "patient_id": [f"P{k:03d}" for k in range(rows)],
        "time_months": rng.exponential(30, rows).round(2),
        "event": rng.integers(0, 2, rows),
        **{f"G{k}_rnaseq": rng.normal(0, 1, rows).round(3) for k in range(5)},
    }
    return pd.DataFrame(frame | columns).to_csv(index=False)


@case("(?s)cohort.parquet|parquet")
def truncated_parquet(place):
    root = place.folder()
    pd.DataFrame({"case_id": ["a"], "survival_months": [1.0], "censorship": [0]}).to_parquet(root / "tcga_x.parquet")
    (root / "tcga_x.parquet").write_bytes((root / "tcga_x.parquet").read_bytes()[:-200])
    return cohort(root)


@case("(?s).")
def pickle_posing_as_csv(place):
    return cohort(place.folder(cohort_csv=hostile_pickle(place.marker)))


@case("(?s)P000|twice|patient")
def patient_listed_twice(place):
    twice = ["P000", "P000", *(f"P{k:03d}" for k in range(2, 40))]
    return cohort(place.folder(cohort_csv=cohort_table(patient_id=twice)))


@case("(?s)time|negative|below")
def negative_survival_times(place):
    return cohort(place.folder(cohort_csv=cohort_table(time_months=[-5.0] * 40)))


@case("(?s)link|outside")
def cohort_that_links_elsewhere(place):
    os.symlink(place.outside / "cohort.csv", place.folder() / "cohort.csv")
    return cohort(place.root)


# ---- checkpoints ---------------------------------------------------------------------------------------------


@case("pickle that may run any code")
def pickle_posing_as_yolo_weights(place):
    from clarion.trainers import ultralytics_checkpoint, ultralytics_setup

    ultralytics_setup.prepare()
    (place.folder() / "yolo11n.pt").write_bytes(torch_file(place.marker))
    model = torch.nn.Linear(2, 2)
    return ultralytics_checkpoint.load_start_weights(model, str(place.root / "yolo11n.pt"))


def detector(place: Place, weights: bytes = b"", **structure):
    from clarion.trainers import ultralytics_checkpoint, ultralytics_setup

    ultralytics_setup.prepare()
    record = {"format": "clarion-detector/1", "structure": {"nc": 1, **structure}, "class_names": ["a"], "nc": 1}
    place.folder(network_json=json.dumps(record), weights_safetensors=weights)
    return ultralytics_checkpoint.load(place.root)


@case("not a plain torch.nn activation")
def detector_whose_activation_is_code(place):
    return detector(place, activation=f"__import__('os').mkdir('{place.marker}')")


@case("not of the form")
def detector_with_unknown_structure(place):
    return detector(place, surprise=1)


@case("network.json is missing")
def detector_without_its_description(place):
    from clarion.trainers import ultralytics_checkpoint

    return ultralytics_checkpoint.load(place.folder(weights_safetensors=b""))


@case(lambda state: state is None)
def pickle_posing_as_a_state_to_resume_from(place):
    from clarion.trainers import lightning_states, ultralytics_state

    root = place.folder()
    (root / "epoch-000002.ckpt").write_bytes(torch_file(place.marker))
    (root / "epoch-000001.safetensors").write_bytes(hostile_pickle(place.marker))
    return lightning_states.read_newest(root) or ultralytics_state.read_newest(root)


def classifier(place: Place, weights: bytes, **description):
    from clarion.trainers.lightning import LightningTrainer

    record = {"format": "clarion-lightning/1", "module": "os.system", "model": {}, "facts": {}, **description}
    place.folder(model_json=json.dumps(record), model_safetensors=weights)
    return LightningTrainer({"network": "resnet10t"}, 1, 4, "cpu").load(place.root)


@case("cannot be read as a checkpoint")
def pickle_posing_as_safetensors(place):
    return classifier(place, torch_file(place.marker))


@case("holds a os.system, the model config names")
def checkpoint_that_names_its_own_class(place):
    from safetensors.torch import save

    return classifier(place, save({"a": torch.zeros(2)}))


@case("only .safetensors is read")
def pickled_start_weights_of_a_classifier(place):
    from clarion.trainers.lightning_classification import ClassificationModule

    (place.folder() / "w.pth").write_bytes(torch_file(place.marker))
    ClassificationModule.load_start_weights(None, place.root / "w.pth")


def estimator(place: Place, content: bytes):
    from clarion.trainers.estimator import read

    place.folder(model_json=json.dumps({"format": "clarion-estimator/1", "scikit_learn": "0"}), model_skops=content)
    return read(place.root)


@case("cannot be read as a checkpoint")
def pickle_posing_as_skops(place):
    return estimator(place, hostile_pickle(place.marker))


@case("types that are not trusted")
def skops_that_holds_a_foreign_type(place):
    import zipfile

    node = {"__class__": "system", "__module__": "os", "__loader__": "TypeNode", "__id__": 1, "protocol": 2}
    node |= {"_skops_version": "0.13"}
    with zipfile.ZipFile(place.folder() / "x.zip", "w") as archive:
        archive.writestr("schema.json", json.dumps(node))
    return estimator(place, (place.root / "x.zip").read_bytes())


@case("no checkpoint of the sft trainer|clarion")
def language_model_without_its_record(place):
    from clarion.trainers.sft import SftTrainer

    place.folder(adapter_model_bin=torch_file(place.marker))
    return SftTrainer({"name": "x"}, 1, 1).load(place.root)


# ---- configurations and recorded runs ------------------------------------------------------------------------


def composed(*overrides: str):
    """What train.py does with a command line before and while it builds its objects."""
    cfg = config.compose_config(preflight(list(overrides)))
    return run.build(cfg.trainer, model=cfg.model, seed=0).check()


@case("not an admitted class")
def target_in_trainer_args(place):
    return composed(
        "model=swin_nano", f"+trainer.args.callbacks=[{{_target_: os.mkdir, path: {place.marker}}}]"
    )


@case("not an admitted class")
def target_in_an_estimator(place):
    path = f"+model.estimator.path={place.marker}"
    return composed("model=logreg_image_stats", "model.estimator._target_=os.mkdir", path)


@case("not an admitted class")
def target_of_the_trainer_itself(place):
    return composed("model=yolo11n", "trainer._target_=os.system")


@case("not an admitted class|not part of|admitted")
def module_that_is_no_module(place):
    return composed("model=swin_nano", "model.module=os.system")


@case("not an admitted class")
def target_in_a_tracker(place):
    from omegaconf import OmegaConf

    from clarion.tracking import trackers

    return trackers(OmegaConf.create({"_target_": "os.mkdir", "path": str(place.marker)}), place.folder(), "public")


def recorded(place: Place, overrides: list[str], checkpoint: str = "checkpoints/best"):
    """eval.py on a run directory from someone else."""
    place.folder(
        manifest_json=json.dumps({"status": "complete", "checkpoint": checkpoint, "run": "x"}),
        metrics_json="{}",
        overrides_yaml=json.dumps(overrides),
        checkpoints__best__model_json="{}",
    )
    cfg, *_ = launch.evaluation_setup([f"run={place.root}"])
    return run.build(cfg.trainer, model=cfg.model, seed=0).check()


@case("not an admitted class")
def run_directory_whose_overrides_name_a_target(place):
    target = f"+trainer.args.callbacks=[{{_target_: os.mkdir, path: {place.marker}}}]"
    return recorded(place, ["model=swin_nano", target])


@case("points outside the run directory")
def run_directory_whose_checkpoint_lies_elsewhere(place):
    return recorded(place, ["model=swin_nano"], checkpoint="../outside")


@case("is damaged")
def run_directory_with_half_a_manifest(place):
    from clarion.record import RunRecord

    return RunRecord.open(place.folder(manifest_json='{"status": "runn'), resume=True)


@case("no checkpoint below it|points outside|no such run|has no checkpoint")
def start_from_a_run_that_points_outside(place):
    root = place.folder(manifest_json=json.dumps({"checkpoint": "../outside"}))
    return run.start_checkpoint("weights", str(root))


@case(lambda picture: picture.size == (64, 64))
def sound_picture_beside_all_this(place):
    """The watch and the makers work: a sound PNG of the same maker is read."""
    path = place.folder() / "a.png"
    path.write_bytes(png(64, 64))
    return Image.open(path)
