"""Bad input: pictures, boxes and labels of detection and classification."""


import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import tifffile
from bad_cases import Place, case
from hostile import bmp, encoded, grey, hostile_pickle, png

from clarion.data.detection import DetectionData
from clarion.oct.stages import BscanStages

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
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, np.zeros((40, 40, 5), np.uint8), photometric="minisblack", planarconfig="contig")
    return with_picture(place, buffer.getvalue(), ".tif")


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
