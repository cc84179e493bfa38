"""What a path holds before any decoder sees it, and errors that name a slide without leaking its name into records."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from clarion.data.paths import named_error
from clarion.errors import DataError, UsageError

SUFFIXES = frozenset(
    ".svs .tif .tiff .ndpi .vms .vmu .scn .mrxs .svslide .bif .czi .dcm".split()
)  # what OpenSlide 4 and tifffile read
_OTHERS = (
    (b"\x89PNG\r\n\x1a\n", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"GIF8", "a GIF picture"),
    (b"BM", "a BMP picture"),
    (b"%PDF", "a PDF document"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\x89HDF", "an HDF5 file"),
)
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_WHOLE = 64 * 2**20  # files up to here are hashed whole
_BLOCKS, _BLOCK = 64, 2**20


def shown(path: Path) -> str:
    """A file name for the screen: control characters (a newline) escaped, Korean letters as they are."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in path.name)


def slide_error(path: Path, problem: str, detail: object = "") -> DataError:
    """DataError "NAME problem (detail)"; what a run directory records keeps neither the name nor the detail, for a
    decoder's own message may hold the path."""
    text = str(detail).splitlines()[0][:200] if str(detail) else ""
    template = "{name} " + problem.replace("{", "{{").replace("}", "}}")
    return named_error(template.replace("DETAIL", "{detail}"), names={"name": shown(path), "detail": text})


def resolve(path: str | os.PathLike) -> Path:
    """The file to open: a slide, or of a folder of DICOM instances one of them.

    Raises UsageError where nothing lies there, DataError for empty files, pictures, archives and documents."""
    path = Path(path).expanduser()
    if path.is_dir():
        instances = sorted(p for p in path.iterdir() if p.suffix.lower() == ".dcm" and p.is_file())
        if not instances:
            raise slide_error(path, "is a folder without .dcm files; name a slide, or a folder of DICOM instances.")
        return instances[0]
    if not path.exists():
        raise UsageError(f"{shown(path)} does not exist; give a slide file.")
    if not path.is_file():
        raise slide_error(path, "is no regular file but a pipe, socket or device; name a slide file.")
    head = first_bytes(path)
    if not head:
        raise slide_error(path, "is empty (0 bytes); copy it again.")
    for magic, kind in _OTHERS:
        if head.startswith(magic):
            raise slide_error(path, f"is {kind}, not a slide, whatever its name says; give the scanner's file.")
    return path


def first_bytes(path: Path, count: int = 16) -> bytes:
    """The first bytes of a file; DataError where it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(count)
    except OSError as error:
        raise slide_error(path, "cannot be read (DETAIL).", error.strerror) from error


def is_tiff(path: Path) -> bool:
    """Whether the file begins as a TIFF or BigTIFF."""
    return first_bytes(path, 4) in _TIFF


def parts(path: Path) -> list[Path]:
    """All files of a slide: the instances of a DICOM series in its folder, a .mrxs with its folder, else the file."""
    if path.suffix.lower() == ".mrxs" and path.with_suffix("").is_dir():
        return [path, *sorted(p for p in path.with_suffix("").rglob("*") if p.is_file())]
    if first_bytes(path, 132)[128:] == b"DICM":
        import pydicom

        def series(p: Path) -> str | None:
            if first_bytes(p, 132)[128:] != b"DICM":
                return None
            found = pydicom.dcmread(p, stop_before_pixels=True, specific_tags=["SeriesInstanceUID"])
            return str(found.get("SeriesInstanceUID", ""))

        own = series(path)
        return [p for p in sorted(path.parent.iterdir()) if p.is_file() and (p == path or series(p) == own)]
    return [path]


def identity(paths: list[Path]) -> str:
    """SHA-256 of sizes and contents, in order; names do not enter.

    A file above 64 MiB counts by 64 evenly spaced blocks of 1 MiB, its first and last among them: slides of gigabytes
    are told apart by them, and hashing them whole would read more than tiling does."""
    digest = hashlib.sha256()
    for path in paths:
        size = path.stat().st_size
        digest.update(size.to_bytes(8, "little"))
        with open(path, "rb") as file:
            if size <= _WHOLE:
                digest.update(file.read())
                continue
            for k in range(_BLOCKS):
                file.seek(k * (size - _BLOCK) // (_BLOCKS - 1))
                digest.update(file.read(_BLOCK))
    return digest.hexdigest()
