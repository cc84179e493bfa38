"""B-scans as evidence: which ones a reader should look at, and each with its layers, boxes and membrane."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup, escape

from clarion.oct.volume import SURFACES
from clarion.report import study_pictures as pictures

if TYPE_CHECKING:
    from clarion.oct.study import Study
    from clarion.oct.volume import Scan

MOST = 10  # scans shown large; all are shown small
_STRIP, _GAP = 12, 4  # height of the membrane's bar above the scan, px


def evidence(study: Study) -> list[tuple[int, list[str]]]:
    """Scans worth a look with the reasons, the strongest first: largest membrane, through the fovea, what findings
    of few scans cite, worst quality, least certain layers."""
    chosen: dict[int, list[str]] = {}
    scans = study.volume.scans
    extents = membrane_extents_mm(study)
    if extents is not None and extents.max() > 0:
        widest = int(np.argmax(extents))
        chosen.setdefault(widest, []).append(f"largest extent of membrane, {extents[widest]:.2f} mm")
    if study.fovea is not None:
        place = "fovea" if study.fovea.confident else "assumed place of the fovea"
        for direction, words in (("H", "horizontal"), ("V", "vertical")):
            order = study.volume.of(direction)
            if order:
                away = [_distance_mm(scans[k], study.fovea.x_mm, study.fovea.y_mm) for k in order]
                nearest = order[int(np.argmin(away))]
                reason = f"{words} scan nearest to the {place}, {1000 * min(away):.0f} µm away"
                chosen.setdefault(nearest, []).append(reason)
    for k, names in _cited(study).items():
        if k in chosen or len(chosen) < MOST - 1:
            chosen.setdefault(k, []).append(f"evidence of: {', '.join(names)}")
    graded = [(scan.quality, k) for k, scan in enumerate(scans) if scan.quality is not None]
    if graded and min(graded)[0] < max(graded)[0]:
        quality, worst = min(graded)
        chosen.setdefault(worst, []).append(f"lowest image quality, {quality:.0f} dB")
    doubts = [float(np.nanmedian(sd)) if np.isfinite(sd).any() else 0.0 for sd in study.surfaces_sd]
    if doubts and max(doubts) > 1.05 * min(doubts):
        k = int(np.argmax(doubts))
        chosen.setdefault(k, []).append(f"least certain layers, median SD {doubts[k] * study.volume.axial_um:.1f} µm")
    return list(chosen.items())


def _cited(study: Study) -> dict[int, list[str]]:
    """Scan -> names of the findings that were measured on it and at most one other."""
    index = {scan.scan_id: k for k, scan in enumerate(study.volume.scans)}
    found: dict[int, list[str]] = {}
    for finding in study.document.findings:
        cited = [index[name] for name in finding.derived_from if name in index]
        for k in cited if len(cited) <= 2 else ():
            found.setdefault(k, []).append(finding.name)
    return found


def membrane_extents_mm(study: Study, least: float = 0.5) -> np.ndarray | None:
    """Length of each scan's line under the membrane, mm [scans]; None where presence was not measured."""
    if study.presence is None:
        return None
    return np.array(
        [
            np.count_nonzero(np.asarray(p) >= least) * scan.length_mm / scan.width
            for p, scan in zip(study.presence, study.volume.scans, strict=True)
        ]
    )


def bscan_figure(study: Study, k: int) -> Markup:
    """One B-scan, cut to the retina: surfaces as lines, boxes, the membrane's bar on top, 200 um bars, the fovea."""
    scan = study.volume.scans[k]
    surfaces = study.surfaces[k] if k < len(study.surfaces) else None
    top, bottom = _rows_shown(scan, surfaces, study.volume.axial_um)
    width, height = scan.width, bottom - top
    head = _STRIP + _GAP
    parts = [
        f'<image href="{pictures.webp(scan.image[top:bottom])}" y="{head}" width="{width}" height="{height}" '
        'preserveAspectRatio="none"/>',
        _presence_strip(study, k, width),
    ]
    if surfaces is not None:
        for row, name in zip(surfaces, SURFACES, strict=True):
            path = _path(row - top + head)
            if path:
                parts.append(f'<path class="surface {_css(name)}" d="{path}"><title>{escape(name)}</title></path>')
    for x1, y1, x2, y2, score in _boxes(study, k):
        shape = f'x="{x1:.1f}" y="{y1 - top + head:.1f}" width="{x2 - x1:.1f}" height="{y2 - y1:.1f}"'
        parts.append(f'<rect class="box predicted" {shape}><title>detected, score {score:.2f}</title></rect>')
    parts.append(_fovea_line(study, scan, head, height))
    parts.append(_scale(scan, study.volume.axial_um, width, head + height))
    label = f"B-scan {scan.scan_id} with its layers and the membrane found in it."
    return Markup(
        f'<svg class="overlay bscan" viewBox="0 0 {width} {head + height}" role="img" aria-label="{escape(label)}">'
        f"{''.join(parts)}</svg>"
    )


def bscan_small(study: Study, k: int) -> Markup:
    """The whole B-scan, small, with only the membrane's bar."""
    scan = study.volume.scans[k]
    depth, width = scan.image.shape
    head = _STRIP * 2 + _GAP
    strip = _presence_strip(study, k, width, _STRIP * 2)
    image = pictures.webp(scan.image, 300, 60)
    return Markup(
        f'<svg class="overlay" viewBox="0 0 {width} {depth + head}" role="img" '
        f'aria-label="{escape(f"B-scan {scan.scan_id}")}">{strip}<image href="{image}" y="{head}" width="{width}" '
        f'height="{depth}" preserveAspectRatio="none"/></svg>'
    )


def legend() -> Markup:
    """What the lines of a B-scan mean."""
    keys = [
        f'<li><svg class="key" viewBox="0 0 34 12" aria-hidden="true"><line class="surface {_css(name)}" x1="2" y1="6" '
        f'x2="32" y2="6"/></svg>{escape(name)}</li>'
        for name in SURFACES
    ]
    keys.append(
        '<li><svg class="key" viewBox="0 0 34 12" aria-hidden="true"><rect x="2" y="2" width="30" height="8" '
        f'fill="rgb{pictures.MEMBRANE}"/></svg>membrane, the fuller the more probable</li>'
    )
    keys.append(
        '<li><svg class="key" viewBox="0 0 34 12" aria-hidden="true"><rect class="box predicted" x="3" y="2" '
        'width="28" height="8"/></svg>box of the detector</li>'
    )
    return Markup(f'<ul class="legend">{"".join(keys)}</ul>')


def _css(name: str) -> str:
    return "surface-" + name.lower().replace("/", "-")


def _rows_shown(scan: Scan, surfaces: np.ndarray | None, axial_um: float) -> tuple[int, int]:
    """From 250 um above the ILM to 250 um below BM; everything where there are no surfaces."""
    depth = scan.image.shape[0]
    if surfaces is None or not np.isfinite(surfaces[0]).any() or not np.isfinite(surfaces[-1]).any():
        return 0, depth
    margin = 250 / axial_um
    top = int(max(np.nanmin(surfaces[0]) - margin, 0))
    bottom = int(min(np.nanmax(surfaces[-1]) + margin, depth))
    return (top, bottom) if bottom - top > 20 else (0, depth)


def _presence_strip(study: Study, k: int, width: int, height: int = _STRIP) -> str:
    """The probability along the scan as a bar; nothing where it was not measured."""
    if study.presence is None:
        return ""
    row = pictures.tint(np.asarray(study.presence[k], float)[None], strongest=1.0)
    back = f'<rect class="strip" width="{width}" height="{height}"/>'
    return f'{back}<image href="{pictures.png(row)}" width="{width}" height="{height}" preserveAspectRatio="none"/>'


def _path(row: np.ndarray, step: int = 2) -> str:
    """An SVG path through a surface, broken where it was not measured."""
    pieces, pen = [], "M"
    columns = np.arange(0, row.size, step)
    if columns[-1] != row.size - 1:
        columns = np.append(columns, row.size - 1)
    for x in columns:
        if np.isfinite(row[x]):
            pieces.append(f"{pen}{x + 0.5:.1f} {row[x]:.1f}")
            pen = "L"
        else:
            pen = "M"
    return "".join(pieces)


def _boxes(study: Study, k: int) -> np.ndarray:
    boxes = None if study.boxes is None else study.boxes[k]
    return np.zeros((0, 5)) if boxes is None else np.reshape(boxes, (-1, 5))


def _fovea_line(study: Study, scan: Scan, y: float, height: float) -> str:
    """A dashed line where the scan passes the fovea, if it passes within 0.2 mm."""
    if study.fovea is None or _distance_mm(scan, study.fovea.x_mm, study.fovea.y_mm) > 0.2:
        return ""
    along = _along(scan, study.fovea.x_mm, study.fovea.y_mm) * scan.width
    return (
        f'<line class="fovea" x1="{along:.1f}" y1="{y}" x2="{along:.1f}" y2="{y + height}"><title>Fovea</title></line>'
    )


def _scale(scan: Scan, axial_um: float, width: int, bottom: float) -> str:
    """200 um across and deep, at the lower left."""
    across = 0.2 / scan.length_mm * width
    deep = 200 / axial_um
    x, y, size = 0.02 * width, bottom - 0.02 * width, 0.028 * width
    return (
        f'<path class="bar" d="M{x:.1f} {y - deep:.1f}V{y:.1f}H{x + across:.1f}"/>'
        f'<text class="bar-text" style="font-size:{size:.1f}px" x="{x + size / 2:.1f}" y="{y - size / 2:.1f}">'
        "200 µm</text>"
    )


def _along(scan: Scan, x: float, y: float) -> float:
    """Where the point's foot on the scan line lies, 0 at its start and 1 at its end."""
    a, b = np.array(scan.start_mm), np.array(scan.end_mm)
    return float(np.clip((np.array([x, y]) - a) @ (b - a) / scan.length_mm**2, 0, 1))


def _distance_mm(scan: Scan, x: float, y: float) -> float:
    a, b = np.array(scan.start_mm), np.array(scan.end_mm)
    return float(np.hypot(*(a + (b - a) * _along(scan, x, y) - (x, y))))
