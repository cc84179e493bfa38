"""The built-in phantom as an input: "phantom[:SEED[:STAGE[:GROWTH]]]"; GROWTH (um): the same eye at a later visit."""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from clarion.errors import UsageError
from clarion.oct.phantom import PHANTOM_VERSION, make_eye
from clarion.oct.phantom.eye import Eye
from clarion.oct.phantom.geometry import DIRECTIONS
from clarion.oct.phantom.localiser import draw_localiser
from clarion.oct.phantom.revisit import revisit
from clarion.oct.volume import Localiser, Volume

from .common import Asked, rescale, scan_from, settle_laterality, study_id

DEMO_SEED, DEMO_STAGE = 4, 3
_PATTERN = re.compile(r"phantom(?::(\d{1,9})(?::([0-4])(?::(\d{1,3}))?)?)?")


def is_phantom(path: str | Path) -> bool:
    """Whether the path asks for the phantom and is no folder of that name."""
    return str(path).split(":")[0] == "phantom" and not Path(path).exists()


def read(path: str | Path, asked: Asked) -> Volume:
    """The phantom eye that the path names. UsageError if it names none.

    With GROWTH the patient came again: another pose, other noise, the membrane's edge that many um further out.
    """
    match = _PATTERN.fullmatch(str(path))
    if match is None:
        raise UsageError(
            f"{path} is no phantom: write phantom, phantom:SEED, phantom:SEED:STAGE or phantom:SEED:STAGE:GROWTH with "
            "a seed of 0 or more, a stage 0-4 and a growth of 0-999 um."
        )
    seed, stage, growth = match.groups()
    if seed is None:
        eye = make_eye(DEMO_SEED, DEMO_STAGE)
    else:
        eye = make_eye(int(seed), None if stage is None else int(stage))
    if growth is not None:
        eye = revisit(eye, 1 + int(growth), growth_mm=int(growth) / 1000)
    volume = phantom_volume(eye)
    settle_laterality([volume.laterality], asked.laterality)
    return volume if asked.spacing is None else rescale(volume, asked.spacing)


def phantom_volume(eye: Eye, visit: int = 0) -> Volume:
    """Every line of both directions of a phantom eye, with its infrared picture; `truth` is the eye.

    visit: another visit draws other speckle, noise and motion (0: that of the eye itself); a change of the eye between
    visits is planted with clarion.oct.phantom.revisit.
    """
    if visit:
        eye = replace(eye, visit=visit)
    geometry = eye.geometry
    half = geometry.extent_mm / 2
    lines = [(direction, line) for direction in DIRECTIONS for line in range(geometry.lines)]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        images = pool.map(lambda which: eye.bscan(*which).image, lines)
    scans = []
    for (direction, line), image in zip(lines, images, strict=True):
        at = geometry.line_position_mm(line)
        start, end = ((-half, at), (half, at)) if direction == "H" else ((at, half), (at, -half))
        scans.append(scan_from(image, line, start, end))
    image = draw_localiser(eye)
    step = geometry.extent_mm / image.shape[1]
    recipe = f"phantom {PHANTOM_VERSION} {eye.seed} {eye.stage} {geometry} {eye.visit}"
    return Volume(
        scans=tuple(scans),
        axial_um=geometry.axial_um,
        laterality=eye.laterality,
        patient_id=eye.eye_id,
        study_id=study_id(recipe.encode(), scans[0].image.tobytes(), scans[-1].image.tobytes()),
        device=f"phantom {PHANTOM_VERSION} ({geometry.name})",
        source="phantom",
        data_kind="phantom",
        localiser=Localiser(image, (step, step), (-half, -half)),
        truth=eye,
    )
