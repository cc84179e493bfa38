"""read_volume: which format a path is, by its content first and its name second, and the reader of that format."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

from clarion.errors import DataError, UsageError
from clarion.findings import KINDS
from clarion.oct import heyex
from clarion.oct.volume import LATERALITIES, Volume

from . import (
    dicom_opt,
    heidelberg_e2e,
    heidelberg_vol,
    heidelberg_xml,
    heyex_screen,
    nifti,
    phantom_eye,
    picture_folder,
    topcon,
)
from .common import Asked, Spacing, bad_file, parse_spacing

FORMATS = (
    "HEYEX screen export (folders of BMP or PNG), Heidelberg .vol, .e2e and XML, Topcon .fda and .fds, DICOM OPT, "
    "NIfTI, a folder of B-scans with --spacing, or phantom[:SEED[:STAGE[:GROWTH]]]"
)
_BY_CONTENT: tuple[tuple[Callable[[bytes], bool], ModuleType], ...] = (
    (heidelberg_vol.is_vol, heidelberg_vol),
    (heidelberg_e2e.is_e2e, heidelberg_e2e),
    (topcon.is_topcon, topcon),
    (dicom_opt.is_dicom, dicom_opt),
    (heidelberg_xml.is_xml, heidelberg_xml),
)
_SUFFIXES = {
    ".vol": heidelberg_vol, ".e2e": heidelberg_e2e, ".fda": topcon, ".fds": topcon, ".dcm": dicom_opt,
    ".xml": heidelberg_xml,
}  # fmt: skip
_HEAD_BYTES = 4096
_MAX_FILES = 20_000


def read_volume(
    path: Path | str,
    *,
    spacing: str | Sequence[float] | Spacing | None = None,
    laterality: str | None = None,
    data_kind: str = "private",
    line_spacing_um: float | None = None,
) -> Volume:
    """One eye's scan from any of FORMATS.

    path: a file, a folder, or "phantom[:SEED[:STAGE[:GROWTH]]]" (GROWTH: um by which the membrane's edge moved until a
    later visit); spacing: "AXIAL,LATERAL[,LINE]" in um, which overrides the file's scale; laterality: "OD" or "OS",
    refused where the file says otherwise; data_kind: "public" or "private" (a phantom is always "phantom");
    line_spacing_um: stands for LINE. What the user must know beside the numbers is in `Volume.flags`. UsageError for
    wrong arguments, DataError for input that cannot or must not be measured; no message holds anything of the
    patient.
    """
    if laterality is not None and laterality not in LATERALITIES:
        raise UsageError(f"--laterality {laterality!r} is not OD (right) or OS (left).")
    if data_kind not in KINDS:
        raise UsageError(f"data_kind {data_kind!r} is not one of {', '.join(KINDS)}.")
    asked = Asked(parse_spacing(spacing, line_spacing_um), laterality, data_kind)
    if phantom_eye.is_phantom(path):
        return phantom_eye.read(path, asked)
    root = Path(path).expanduser()
    if not root.exists():
        error = DataError(f"{root.name} does not exist: give {FORMATS}.")
        error.recorded = f"The input does not exist: give {FORMATS}."
        raise error
    return _read_folder(root, asked) if root.is_dir() else _read_file(root, asked)


def _read_file(file: Path, asked: Asked) -> Volume:
    reader = _format(file)
    if reader is not None:
        return reader.read(file, asked)
    if heyex.is_picture(file):
        try:
            return heyex_screen.read(file, asked)
        except DataError as error:
            if "no HEYEX screen export" not in str(error):
                raise
        return picture_folder.read(file, asked)
    raise bad_file(file, "is of no known format", f"give {FORMATS}")


def _format(file: Path) -> ModuleType | None:
    """The reader of a file, or None for pictures and what is unknown."""
    if nifti.is_nifti(file):
        return nifti
    try:
        with open(file, "rb") as stream:
            head = stream.read(_HEAD_BYTES)
    except OSError as error:
        raise bad_file(file, f"cannot be read ({error.strerror})", "check its name and permissions") from None
    for is_format, reader in _BY_CONTENT:
        if is_format(head):
            return reader
    return _SUFFIXES.get(file.suffix.lower())  # damaged at its beginning: the reader says so


def _read_folder(folder: Path, asked: Asked) -> Volume:
    """The one scan in a folder: DICOM files together, else one file of another format, else pictures."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith("."))
    if not files:
        raise DataError(f"The folder is empty: give {FORMATS}.")
    if len(files) > _MAX_FILES:
        raise DataError(f"The folder holds {len(files)} files: give the folder of one eye's scan.")
    if any(not p.resolve().is_relative_to(folder.resolve()) for p in files):  # before any of them is opened
        raise DataError("The folder holds links to files outside it: copy them into it.")
    pictures = [p for p in files if heyex.is_picture(p)]
    known = {p: reader for p in files if p.suffix.lower() not in heyex.SUFFIXES and (reader := _format(p))}
    if any(reader is dicom_opt for reader in known.values()):
        others = {r for r in known.values() if r is not dicom_opt}
        if others:
            raise DataError("The folder mixes DICOM with other OCT formats: give one scan of one eye.")
        return dicom_opt.read(folder, asked)
    if len(known) > 1:
        kinds = ", ".join(sorted(p.suffix.lower() for p in known))
        raise DataError(f"The folder holds {len(known)} scans ({kinds}): give one of the files.")
    if known:
        ((file, reader),) = known.items()
        return reader.read(file, asked)
    if not pictures:
        raise DataError(f"The folder holds no file of a known format: give {FORMATS}.")
    if _looks_like_export(pictures):
        return heyex_screen.read(folder, asked)
    return picture_folder.read(folder, asked)


def _looks_like_export(pictures: list[Path]) -> bool:
    """Whether the first readable pictures show an infrared image beside a B-scan, or names say so."""
    if any(heyex.is_named_scan(p) for p in pictures):
        return True
    for picture in pictures[:3]:
        try:
            heyex.find_seam(heyex.read_picture(picture))
            return True
        except DataError:
            continue
    return False
