"""Reading a YOLO-format folder: images/ beside labels/, with split folders, a data.yaml, or neither."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import yaml

from clarion.data.images import IMAGE_SUFFIXES
from clarion.data.layout import EXPECTED_LAYOUT, SPLIT_NAMES, Folder, Item, inner_name
from clarion.data.paths import inside, named_error, nfc, walk
from clarion.errors import DataError, UsageError

_MAX_TEXT = 8 * 2**20  # bytes of one label file or yaml: 100,000 boxes; more is not a label file


def read_yolo(root: Path) -> Folder:
    """root: resolved folder. Splits come from data.yaml, else from folder names, else stay None.

    Raises UsageError when the layout is not recognised, DataError when a path leaves the root."""
    config_file = _find_yaml(root)
    config = _read_yaml(config_file) if config_file else {}
    if any(config.get(key) for key in SPLIT_NAMES):
        images = _images_of_yaml(root, config, config_file.name)
    else:
        images = _images_of_folders(root)
    labels = _label_files(root, images)
    items, used = [], set()
    for path, split in images.items():
        relative = PurePosixPath(path.relative_to(root).as_posix())
        item = Item(nfc(relative.as_posix()), nfc(inner_name(relative)), path, split, normalised=True)
        key = nfc(label_path(relative).as_posix())
        if key in labels:
            item.label = labels[key]
            if key in used:
                item.problems.append("shares its label file with another image (same name, other suffix)")
            used.add(key)
            _read_labels(item)
        items.append(item)
    files = list(labels.values()) + ([config_file] if config_file else [])
    names = _class_names(root, config, config_file)
    if (root / "classes.txt").is_file():
        files.append(root / "classes.txt")
    return Folder(items, names, files, sorted(set(labels) - used), format="yolo")


def label_path(relative: PurePosixPath) -> PurePosixPath:
    """Where YOLO keeps an image's labels: the last folder named images becomes labels, else beside the image."""
    parts = list(relative.parts)
    if "images" in parts[:-1]:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    return PurePosixPath(*parts).with_suffix(".txt")


def _find_yaml(root: Path) -> Path | None:
    found = sorted(p for pattern in ("*.yaml", "*.yml") for p in root.glob(pattern) if not p.name.startswith("."))
    preferred = [p for p in found if p.stem.lower() in ("data", "dataset")]
    if not preferred and len(found) > 1:
        return None
    chosen = (preferred or found or [None])[0]
    return inside(root, chosen, "data.root") if chosen else None


def _read_yaml(path: Path) -> dict:
    if path.stat().st_size > _MAX_TEXT:
        raise DataError(f"{path.name} exceeds {_MAX_TEXT >> 20} MiB; it should list splits and class names only.")
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{path.name} is not valid UTF-8 YAML ({str(error).splitlines()[0]}); correct it.") from None
    return config if isinstance(config, dict) else {}


def _images_of_yaml(root: Path, config: dict, source: str) -> dict[Path, str | None]:
    if not isinstance(config.get("path"), str | None):
        raise DataError(f"{source}: path must be a folder.")
    base = inside(root, config.get("path") or ".", f"{source} (path)")
    images: dict[Path, str | None] = {}
    for key, split in SPLIT_NAMES.items():
        entries = config.get(key)
        for entry in [entries] if isinstance(entries, str) else entries or []:
            if not isinstance(entry, str):
                raise DataError(f"{source}: {key} must be a folder, a .txt list of images, or a list of those.")
            place = inside(root, base / entry, f"{source} ({key})")
            if not place.exists():
                raise DataError(f"{source}: {key}={entry!r} does not exist below data.root; correct the path.")
            files = _listed(root, place, base) if place.is_file() else walk(root, place, IMAGE_SUFFIXES)
            for path in files:
                if images.setdefault(path, split) != split:
                    raise named_error(
                        "{source} puts {name} into both {first} and {second}; list it once.",
                        {"name": path.relative_to(root).as_posix()},
                        source=source,
                        first=images[path],
                        second=split,
                    )
    return images


def _listed(root: Path, listing: Path, base: Path) -> Iterable[Path]:
    """Images of a .txt list; "./" means the list's own folder, as ultralytics reads it."""
    for line in listing.read_text(encoding="utf-8").splitlines():
        if text := line.strip():
            start = listing.parent if text.startswith("./") else base
            yield inside(root, start / text, listing.name)


def _images_of_folders(root: Path) -> dict[Path, str | None]:
    top = root / "images"
    if top.is_dir():
        inside(root, top, "data.root")
        children = sorted(p for p in top.iterdir() if p.is_dir() and not p.name.startswith("."))
        named = {p: SPLIT_NAMES[p.name.lower()] for p in children if p.name.lower() in SPLIT_NAMES}
        if not named:
            return dict.fromkeys(walk(root, top, IMAGE_SUFFIXES))
        others = [p.name for p in children if p not in named]
        others += [p.name for p in top.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES]
        if others:
            raise named_error(
                "images/ holds split folders ({splits}) and also {others}; move those into a split folder.",
                {"others": ", ".join(others[:5])},
                splits=", ".join(p.name for p in named),
            )
        folders = named
    else:
        folders = {root / name / "images": split for name, split in SPLIT_NAMES.items()}
        folders = {path: split for path, split in folders.items() if path.is_dir()}
    if not folders:
        raise UsageError(f"no images were found below data.root. {EXPECTED_LAYOUT}")
    for folder in folders:
        inside(root, folder, "data.root")
    return {path: split for folder, split in folders.items() for path in walk(root, folder, IMAGE_SUFFIXES)}


def _label_files(root: Path, images: Iterable[Path]) -> dict[str, Path]:
    """composed relative name -> label file, from every folder where an image's labels would lie."""
    folders = {label_path(PurePosixPath(p.relative_to(root).as_posix())).parent for p in images}
    tops = {PurePosixPath(*f.parts[: f.parts.index("labels") + 1]) if "labels" in f.parts else f for f in folders}
    found: dict[str, Path] = {}
    for top in sorted(tops):
        if (root / top).is_dir():
            inside(root, root / top, "data.root")
            beside_images = "labels" not in top.parts
            for path in walk(root, root / top, frozenset({".txt"})):
                if path.name == "classes.txt" or (beside_images and path.parent == root):
                    continue
                found[nfc(path.relative_to(root).as_posix())] = path
    return found


def _read_labels(item: Item) -> None:
    if item.label.stat().st_size > _MAX_TEXT:
        item.problems.append(f"label file is larger than {_MAX_TEXT >> 20} MiB")
        return
    try:
        text = item.label.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        item.problems.append("label file is not text")
        return
    rows = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not (tokens := line.split()):
            continue
        try:
            values = [float(t) for t in tokens]
            if values[0] != int(values[0]) or abs(values[0]) > 1e6:
                raise ValueError
            box = _corners(values[1:])
        except (ValueError, OverflowError):
            item.problems.append(f"line {number} is {line.strip()[:40]!r}, not `class cx cy w h`")
            continue
        rows.append((int(values[0]), box, f"line {number}"))
    item.set_boxes(rows)


def _corners(values: list[float]) -> list[float]:
    """cx cy w h -> x1 y1 x2 y2; a polygon x1 y1 x2 y2 x3 y3 ... -> its bounding box (all in 0..1)."""
    if len(values) == 4:
        cx, cy, w, h = values
        return [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]
    if len(values) >= 6 and len(values) % 2 == 0:
        xs, ys = values[0::2], values[1::2]
        return [min(xs), min(ys), max(xs), max(ys)]
    raise ValueError


def _class_names(root: Path, config: dict, config_file: Path | None) -> list[str] | None:
    names = config.get("names")
    if isinstance(names, dict):
        if set(names) != set(range(len(names))):
            found = sorted(map(str, names))[:10]
            raise DataError(f"{config_file.name}: names must count 0, 1, 2, ... without gaps, got {', '.join(found)}.")
        names = [names[k] for k in range(len(names))]
    if isinstance(names, list) and names:
        if not all(isinstance(n, str | int | float) for n in names):  # a list in a list may unfold to gigabytes
            raise DataError(f"{config_file.name}: names must be texts, one a class.")
        return [str(n) for n in names]
    listing = root / "classes.txt"
    if listing.is_file():
        inside(root, listing, "data.root")
        return [line.strip() for line in listing.read_text(encoding="utf-8-sig").splitlines() if line.strip()] or None
    return None


def write_labels(path: Path, boxes, labels, width: int, height: int) -> None:
    """One YOLO label file. boxes: [n, 4] x1 y1 x2 y2 in pixels of a width x height image."""
    lines = []
    for c, (x1, y1, x2, y2) in zip(labels, boxes, strict=True):
        values = (x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height
        lines.append(" ".join([str(int(c)), *(f"{v:.8f}" for v in values)]))
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
