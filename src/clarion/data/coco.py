"""Reading COCO detection json files: categories, images, annotations with bbox = [x, y, width, height] in pixels."""

from __future__ import annotations

import json
import math
from pathlib import Path, PurePosixPath
from typing import Any

from clarion.data.layout import EXPECTED_LAYOUT, SPLIT_NAMES, Folder, Item, inner_name, split_name
from clarion.data.paths import inside, nfc
from clarion.errors import DataError, UsageError

_MAX_JSON = 2 * 2**30


def coco_files(root: Path) -> dict[Path, str | None]:
    """json files of a COCO folder and the split each stands for; empty when there are none."""
    found: list[Path] = []
    for pattern in ("annotations/*.json", "*.json", "*/_annotations.coco.json"):
        found = sorted(p for p in root.glob(pattern) if not p.name.startswith("."))
        if pattern == "*.json":  # other tables may lie at the root
            known = ("instances", "annotations", "coco")
            found = [p for p in found if split_name(p.stem) or p.stem.lower().startswith(known)]
        instances = [p for p in found if p.name.startswith("instances")]
        if found := instances or found:
            break  # captions_*.json and person_keypoints_*.json may lie beside instances_*.json
    files = {inside(root, p, "data.root"): split_name(p.stem) or SPLIT_NAMES.get(p.parent.name.lower()) for p in found}
    if len(files) > 1:
        names = list(files.values())
        if None in names or len(set(names)) < len(names):
            listed = ", ".join(f"{p.name} ({split or 'no split'})" for p, split in files.items())
            raise DataError(f"each COCO json needs its own split in its name (train, val or test), found: {listed}.")
    return files


def read_coco(root: Path) -> Folder:
    """root: resolved folder. Crowd regions (iscrowd=1) are left out of the boxes and counted.

    Class indices follow the order of category ids. Raises UsageError without a json, DataError on a file
    that is not COCO or names a path out of the root."""
    files = coco_files(root)
    if not files:
        raise UsageError(f"no COCO json was found below data.root. {EXPECTED_LAYOUT}")
    items: dict[str, Item] = {}
    problems: list[str] = []
    categories: dict[int, str] | None = None
    for path, split in files.items():
        document = _load(path)
        own = _categories(document, path.name)
        if categories is not None and own != categories:
            first = next(iter(files)).name
            raise DataError(f"{path.name} has other categories than {first}; export them with one list.")
        categories = own
        _read_document(root, path, split, document, categories, items, problems)
    names = [categories[k] for k in sorted(categories)]
    return Folder(list(items.values()), names, list(files), problems=problems, format="coco")


def _load(path: Path) -> dict:
    if path.stat().st_size > _MAX_JSON:
        raise DataError(f"{path.name} is larger than {_MAX_JSON >> 30} GiB; split it.")
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path.name} is not valid UTF-8 JSON ({str(error)[:100]}); export it again.") from None
    lists = ("images", "annotations", "categories")
    if not isinstance(document, dict) or any(not isinstance(document.get(k), list) for k in lists):
        raise DataError(f"{path.name} is not a COCO file: it needs the lists images, annotations and categories.")
    if any(not isinstance(entry, dict) for k in lists for entry in document[k]):
        raise DataError(f"{path.name} is not a COCO file: images, annotations and categories must hold objects.")
    return document


def _categories(document: dict, name: str) -> dict[int, str]:
    found: dict[int, str] = {}
    for entry in document["categories"]:
        if not isinstance(entry.get("id"), int) or "name" not in entry or entry["id"] in found:
            raise DataError(f"{name}: every category needs an integer id of its own and a name.")
        found[entry["id"]] = str(entry["name"])
    if not found:
        raise DataError(f"{name} lists no category; add at least one.")
    return found


def _read_document(
    root: Path,
    source: Path,
    split: str | None,
    document: dict,
    categories: dict[int, str],
    items: dict[str, Item],
    problems: list[str],
) -> None:
    index = {category: k for k, category in enumerate(sorted(categories))}
    by_id: dict[Any, Item] = {}
    for entry in document["images"]:
        image_id, file_name = entry.get("id"), entry.get("file_name")
        if not isinstance(image_id, int | str) or not isinstance(file_name, str):
            problems.append(f"{source.name}: an image lacks its id or file_name")
            continue
        path = _image_path(root, source, split, file_name)
        relative = PurePosixPath(path.relative_to(root).as_posix())
        item = Item(nfc(relative.as_posix()), nfc(inner_name(relative)), path, split, label=source)
        if _is_size(entry.get("width")) and _is_size(entry.get("height")):
            item.size = (int(entry["width"]), int(entry["height"]))
        if image_id in by_id:
            problems.append(f"{source.name}: image id {image_id} is used twice")
        elif item.key in items:
            other = items[item.key]
            where = "twice" if other.split == split else f"in {other.split} and in {split}"
            other.problems.append(f"is listed {where}")
            by_id[image_id] = other
        else:
            items[item.key] = by_id[image_id] = item
    rows: dict[str, list] = {}
    for number, entry in enumerate(document["annotations"]):
        name = f"annotation {entry.get('id', number)}"
        item = by_id.get(entry.get("image_id")) if isinstance(entry.get("image_id"), int | str) else None
        if item is None:
            problems.append(f"{source.name}: {name} belongs to no image of the file")
            continue
        if entry.get("iscrowd"):
            item.ignored += 1
            continue
        box = entry.get("bbox")
        if not isinstance(box, list) or len(box) != 4 or not all(isinstance(v, int | float) for v in box):
            item.problems.append(f"{name}: bbox is not [x, y, width, height]")
        elif entry.get("category_id") not in index:
            item.problems.append(f"{name}: category_id {entry.get('category_id')!r} is not among the categories")
        else:
            x, y, w, h = map(float, box)
            corners = [x, y, x + w, y + h] if all(map(math.isfinite, (x, y, w, h))) else [math.nan] * 4
            rows.setdefault(item.key, []).append((index[entry["category_id"]], corners, name))
    for key, found in rows.items():
        items[key].set_boxes(found)


def _is_size(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and value > 0


def _image_path(root: Path, source: Path, split: str | None, file_name: str) -> Path:
    """file_name is relative to the root, to images/, to the split's folder, or to the json; the first that exists."""
    split_folders = [name for name, meaning in SPLIT_NAMES.items() if meaning == split]
    folders = [root, root / "images", source.parent]
    folders += [root / top / name for top in ("images", "") for name in [*split_folders, source.stem.split("_")[-1]]]
    first = inside(root, file_name, source.name)
    for folder in folders:
        path = inside(root, folder / file_name, source.name)
        if path.is_file():
            return path
    return first
