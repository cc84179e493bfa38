"""Findings for other systems: DICOM (images, segmentation, structured report) and FHIR R4B.

codes.py   codes, units, identifiers, the laterality check
opt.py     B-scans as DICOM OPT, where the input was none
seg.py     membrane and layers as DICOM SEG
sr.py      findings as DICOM SR, TID 1500
fhir.py    findings as a FHIR bundle
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clarion.errors import UsageError
from clarion.oct.export.codes import Segmented, check_laterality

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from clarion.oct.export.opt import Source
    from clarion.oct.study import Study

logger = logging.getLogger(__name__)
KINDS = ("dicom", "fhir")

__all__ = ["KINDS", "check_laterality", "export_all"]


def export_all(
    study: Study,
    out_dir: Path,
    kinds: Collection[str] = KINDS,
    source: Path | None = None,
) -> list[Path]:
    """Write the study for other systems into out_dir and return the files' paths.

    kinds: "dicom" (opt_H.dcm, opt_V.dcm, seg_H.dcm, seg_V.dcm, sr.dcm), "fhir" (fhir.json). source: the DICOM OPT
    file or folder the volume was read from; segmentations (seg_1.dcm, ...) then refer to it (its UIDs are kept, the
    patient is not) and no images are written. With both kinds the bundle refers to the segmentations. Identifiers
    derive from the study and times from the findings, so a second export is the same. UsageError on an unknown kind or
    a missing library; DataError on a laterality mismatch, before anything is written.
    """
    unknown = sorted(set(kinds) - set(KINDS))
    if unknown:
        raise UsageError(f"Export {unknown[0]!r} does not exist: choose from {', '.join(KINDS)}.")
    check_laterality(study.document, study.volume.laterality)
    out_dir = Path(out_dir)
    given = _library(lambda: _source(source, study)) if source is not None else None
    written, segmentations = [], []
    if "dicom" in kinds:
        files, segmentations = _library(lambda: _dicom(study, given))
        for name, data in files.items():
            out_dir.mkdir(parents=True, exist_ok=True)
            partial = out_dir / f".{name}.partial"
            data.save_as(partial, enforce_file_format=True)
            written.append(partial.replace(out_dir / name))
    if "fhir" in kinds:
        written.append(_library(lambda: _fhir(study, out_dir / "fhir.json", given, segmentations)))
    return written


def _library(work: Callable[[], Any]) -> Any:
    """The work's result; a missing library is a sentence, not a trace."""
    try:
        return work()
    except ModuleNotFoundError as error:
        package = {"highdicom": "highdicom", "pydicom": "pydicom", "fhir": "fhir.resources"}.get(
            (error.name or "").split(".")[0]
        )
        if package is None:
            raise
        raise UsageError(f"The export needs {package}, which is not installed: pip install {package}") from None


def _source(path: Path, study: Study) -> list[Source] | None:
    from clarion.oct.export.opt import read_source

    found = read_source(path, study)
    if found is None:
        logger.warning("The input is no DICOM image whose frames are the scans: the export refers to its own images.")
    return found


def _dicom(study: Study, given: list[Source] | None) -> tuple[dict[str, Dataset], list[Segmented]]:
    """Name -> dataset, in the order in which they are to be sent; and which of them segment which scans."""
    from clarion.oct.export.opt import write_opt
    from clarion.oct.export.seg import write_seg
    from clarion.oct.export.sr import Frame, write_sr

    volume = study.volume
    files, images, segmentations, frames, segmented = {}, {}, {}, {}, []
    if given is None:
        parts = [(direction, None, volume.of(direction)) for direction in volume.directions]
    else:
        parts = [(str(n), source.image, source.scans) for n, source in enumerate(given, 1)]
    for number, (name, image, order) in enumerate(parts, 1):
        if image is None:
            image = files[f"opt_{name}.dcm"] = write_opt(study, name)
        images[name] = image
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # highdicom doubts pseudonyms as names
            segmentation = write_seg(study, image, name, order, 10 + number)
        if segmentation is None:
            logger.warning("No layer was found in the scans of image %s: no segmentation of it is written.", name)
        else:
            segmentations[name] = files[f"seg_{name}.dcm"] = segmentation
            shown = tuple(volume.scans[k].scan_id for k in order)
            segmented.append(Segmented(f"seg_{name}.dcm", segmentation, shown))
        frames.update({volume.scans[k].scan_id: Frame(image, n + 1) for n, k in enumerate(order)})
    files["sr.dcm"] = write_sr(study, images, segmentations, frames)
    return files, segmented


def _fhir(study: Study, path: Path, given: list[Source] | None, segmentations: list[Segmented]) -> Path:
    from clarion.oct.export.fhir import write_bundle

    return write_bundle(study, path, [source.image for source in given] if given else None, segmentations)
