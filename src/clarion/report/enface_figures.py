"""En-face figures as SVG in millimetres: the projection, thickness maps with the ETDRS grid, the share by sector."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup, escape
from scipy.ndimage import gaussian_filter
from skimage.measure import find_contours

from clarion.report import study_pictures as pictures

if TYPE_CHECKING:
    from clarion.oct.enface import Grid
    from clarion.oct.volume import Localiser, Volume

PX_PER_MM = 64
OUTLINE_MM = 0.1
ETDRS_MM = (0.5, 1.5, 3.0)  # radii of the grid's circles
CHANGES = {"as before": pictures.MEMBRANE, "new": (222, 30, 110), "gone": (40, 140, 255)}
_PLACES = ("superior", "right", "inferior", "left")


@dataclass(frozen=True)
class Frame:
    """What part of the en-face plane a figure shows, mm; x to the right, y downwards."""

    x0: float
    y0: float
    x1: float
    y1: float

    @property
    def size(self) -> tuple[float, float]:
        return (self.x1 - self.x0) * PX_PER_MM, (self.y1 - self.y0) * PX_PER_MM

    def at(self, x, y):
        return (np.asarray(x) - self.x0) * PX_PER_MM, (np.asarray(y) - self.y0) * PX_PER_MM


def frame_of(volume: Volume, grid: Grid) -> Frame:
    """The grid and, where there is one, the whole localiser."""
    x0, y0 = grid.x0_mm, grid.y0_mm
    x1, y1 = x0 + grid.columns * grid.step_mm, y0 + grid.rows * grid.step_mm
    if volume.localiser is not None:
        left, top, right, bottom = localiser_box(volume.localiser)
        x0, y0, x1, y1 = min(x0, left), min(y0, top), max(x1, right), max(y1, bottom)
    return Frame(x0, y0, x1, y1)


def localiser_box(localiser: Localiser) -> tuple[float, float, float, float]:
    """Left, top, right, bottom in mm."""
    height, width = localiser.image.shape[:2]
    x, y = localiser.origin_mm
    return x, y, x + width * localiser.mm_per_px[0], y + height * localiser.mm_per_px[1]


def projection_figure(volume: Volume, grid: Grid, projection, fovea=None) -> Markup:
    """The membrane on the localiser: probability as tint, the mask's contour, scan lines, fovea, 1 mm bar."""
    frame = frame_of(volume, grid)
    parts = [_backdrop(volume, frame), _map(frame, grid, pictures.tint(projection.probability))]
    for scan in volume.scans:
        (x1, x2), (y1, y2) = frame.at(*zip(scan.start_mm, scan.end_mm, strict=True))
        parts.append(f'<line class="scan-line" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>')
    parts.append(contour(frame, grid, projection.mask, OUTLINE_MM))
    parts += [_fovea_mark(frame, fovea), _scale_bar(frame), _sides(frame, volume.laterality)]
    share = float(np.mean(projection.mask[projection.scanned])) if projection.scanned.any() else 0.0
    label = f"Epiretinal membrane on the localiser image: {100 * share:.0f} % of what was scanned."
    return _svg(frame, parts, label)


def map_figure(
    volume: Volume, grid: Grid, values: np.ndarray, limits: tuple[float, float], label: str,
    mask: np.ndarray | None = None, fovea=None, sectors: Mapping | None = None, colours: str = pictures.SEQUENTIAL,
    signed: bool = False,
) -> Markup:  # fmt: skip
    """A map in colours over the localiser; optionally the membrane's contour and the ETDRS grid with its values.

    sectors: name -> Sector, its means written into the grid centred on the fovea.
    """
    frame = frame_of(volume, grid)
    parts = [_backdrop(volume, frame, faint=True), _map(frame, grid, pictures.coloured(values, *limits, colours))]
    if mask is not None:
        parts.append(contour(frame, grid, mask, OUTLINE_MM))
    if sectors and fovea is not None:
        parts.append(_etdrs(frame, fovea, sectors, volume.laterality, signed))
    else:
        parts.append(_fovea_mark(frame, fovea))
    parts += [_scale_bar(frame), _sides(frame, volume.laterality)]
    return _svg(frame, parts, label)


def membrane_change_figure(
    volume: Volume, grid: Grid, before: np.ndarray, new: np.ndarray, lost: np.ndarray, common: np.ndarray
) -> Markup:
    """Where the membrane stayed, is new and is gone, on the first visit's localiser; dashed: what both scanned."""
    frame = frame_of(volume, grid)
    rgba = np.zeros((*new.shape, 4), np.uint8)
    for mask, colour in zip((before & common & ~lost, new, lost), CHANGES.values(), strict=True):
        rgba[mask] = (*colour, 150)
    parts = [_backdrop(volume, frame), _map(frame, grid, rgba)]
    parts.append(contour(frame, grid, common).replace('class="outline', 'class="outline common'))
    parts += [_scale_bar(frame), _sides(frame, volume.laterality)]
    said = ", ".join(f"{float(m.sum()) * grid.pixel_mm2:.2f} mm2 {w}" for m, w in ((new, "new"), (lost, "gone")))
    return _svg(frame, parts, f"Membrane of both visits in the first one's frame: {said}.")


def membrane_legend() -> Markup:
    """What the colours of a membrane's change mean."""
    keys = "".join(
        f'<li><svg class="key" viewBox="0 0 34 12" aria-hidden="true"><rect x="2" y="2" width="30" height="8" '
        f'fill="rgb{colour}"/></svg>{name}</li>'
        for name, colour in CHANGES.items()
    )
    return Markup(f'<ul class="legend">{keys}</ul>')


def share_wheel(sectors: Mapping, laterality: str | None) -> Markup:
    """The nine sectors, each tinted by and labelled with its share under the membrane (0-1)."""
    size = 2 * 3.25 * PX_PER_MM
    frame = Frame(-3.25, -3.25, 3.25, 3.25)
    parts, said = [], []
    for place, (inner, outer, start) in _segments().items():
        sector = sectors.get(_named(place, laterality))
        mean = float("nan") if sector is None else sector.mean
        opacity = 0 if not np.isfinite(mean) else 0.08 + 0.72 * min(max(mean, 0), 1)
        path = _segment_path(frame, inner, outer, start)
        parts.append(f'<path class="sector" style="fill-opacity:{opacity:.2f}" d="{path}"/>')
        text = f"{100 * mean:.0f}" if np.isfinite(mean) else "—"
        said.append(f"{_words(_named(place, laterality))} {text} %")
        x, y = frame.at(*_middle(inner, outer, start))
        parts.append(f'<text class="value dark" x="{x:.1f}" y="{y + 7:.1f}">{text}</text>')
    parts.append(_sides(frame, laterality, dark=True))
    label = "Share under the membrane by ETDRS sector: " + ", ".join(said)
    return Markup(
        f'<svg class="enface wheel" viewBox="0 0 {size:.0f} {size:.0f}" role="img" aria-label="{escape(label)}">'
        f"{''.join(parts)}</svg>"
    )


def colour_bar(limits: tuple[float, float], unit: str, colours: str = pictures.SEQUENTIAL) -> Markup:
    """The legend of a map: a bar and five values."""
    low, high = limits
    ticks = np.linspace(low, high, 5)
    labels = (
        "".join(f"<span>{_whole(tick)}</span>" for tick in ticks[:-1])
        + f"<span>{_whole(ticks[-1])} {escape(unit)}</span>"
    )
    return Markup(
        f'<div class="colour-bar"><img src="{pictures.bar(colours)}" alt="" width="300" height="12">'
        f'<div class="ticks">{labels}</div></div>'
    )


def contour(frame: Frame, grid: Grid, mask: np.ndarray, smooth_mm: float = 0.0) -> str:
    """The outline of a mask as one path with a dark halo.

    smooth_mm: SD of a blur before it is drawn. Where horizontal and vertical lines disagree each is right beside its
    own course, and the bare outline is a lattice that says nothing of the membrane.
    """
    padded = gaussian_filter(np.pad(mask.astype(float), 1), smooth_mm / grid.step_mm)
    pieces = []
    for line in find_contours(padded, 0.5):
        x, y = frame.at(grid.x0_mm + (line[:, 1] - 0.5) * grid.step_mm, grid.y0_mm + (line[:, 0] - 0.5) * grid.step_mm)
        if len(x) < 6:
            continue
        keep = slice(None, None, 2) if len(x) > 60 else slice(None)
        pieces.append("M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in zip(x[keep], y[keep], strict=True)) + "Z")
    path = "".join(pieces)
    return f'<path class="outline halo" d="{path}"/><path class="outline" d="{path}"/>' if path else ""


def _backdrop(volume: Volume, frame: Frame, faint: bool = False) -> str:
    if volume.localiser is None:
        return ""
    left, top, right, bottom = localiser_box(volume.localiser)
    (x1, x2), (y1, y2) = frame.at((left, right), (top, bottom))
    style = ' style="opacity:.45"' if faint else ""
    return _image(pictures.webp(volume.localiser.image, 768), x1, y1, x2 - x1, y2 - y1, style)


def _map(frame: Frame, grid: Grid, rgba: np.ndarray) -> str:
    x, y = frame.at(grid.x0_mm, grid.y0_mm)
    scale = grid.step_mm * PX_PER_MM
    return _image(pictures.png(rgba), x, y, grid.columns * scale, grid.rows * scale)


def _image(uri: str, x: float, y: float, width: float, height: float, style: str = "") -> str:
    return (
        f'<image href="{uri}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" '
        f'preserveAspectRatio="none"{style}/>'
    )


def _fovea_mark(frame: Frame, fovea) -> str:
    if fovea is None:
        return ""
    x, y = frame.at(fovea.x_mm, fovea.y_mm)
    path = f"M{x - 9:.1f} {y:.1f}h18M{x:.1f} {y - 9:.1f}v18"
    dashed = "" if fovea.confident else ' style="stroke-dasharray:3 3"'
    return f'<path class="mark halo" d="{path}"/><path class="mark" d="{path}"{dashed}><title>Fovea</title></path>'


def _scale_bar(frame: Frame) -> str:
    width, height = frame.size
    x, y = 14, height - 16
    bar = f'x1="{x}" y1="{y:.1f}" x2="{x + PX_PER_MM}" y2="{y:.1f}"'
    return (
        f'<line class="bar halo" {bar}/><line class="bar" {bar}/>'
        f'<text class="label" x="{x + PX_PER_MM / 2}" y="{y - 8:.1f}">1 mm</text>'
    )


def _sides(frame: Frame, laterality: str | None, dark: bool = False) -> str:
    """Which side is nasal: right of a right eye, left of a left one."""
    if laterality is None:
        return ""
    width, _ = frame.size
    left, right = ("temporal", "nasal") if laterality == "OD" else ("nasal", "temporal")
    y = 26
    kind = "label dark" if dark else "label"
    return (
        f'<text class="{kind}" style="text-anchor:start" x="8" y="{y:.1f}">{left}</text>'
        f'<text class="{kind}" style="text-anchor:end" x="{width - 8:.1f}" y="{y:.1f}">{right}</text>'
    )


def _segments() -> dict[str, tuple[float, float, float | None]]:
    """Sector -> inner and outer radius mm and the angle in degrees where it starts (clockwise from the right)."""
    found: dict[str, tuple[float, float, float | None]] = {"central": (0.0, ETDRS_MM[0], None)}
    starts = {"superior": 225.0, "right": 315.0, "inferior": 45.0, "left": 135.0}
    for ring, inner, outer in (("inner", *ETDRS_MM[:2]), ("outer", *ETDRS_MM[1:])):
        for place in _PLACES:
            found[f"{ring}_{place}"] = (inner, outer, starts[place])
    return found


def _named(place: str, laterality: str | None) -> str:
    """central -> CSF, inner_right -> inner_nasal in a right eye (names of clarion.oct.etdrs)."""
    if place == "central":
        return "CSF"
    words = {"OD": {"right": "nasal", "left": "temporal"}, "OS": {"right": "temporal", "left": "nasal"}}
    ring, side = place.split("_")
    return f"{ring}_{words.get(laterality or '', {}).get(side, side)}"


def _words(name: str) -> str:
    return "central subfield" if name == "CSF" else name.replace("_", " ")


def _middle(inner: float, outer: float, start: float | None) -> tuple[float, float]:
    if start is None:
        return 0.0, 0.0
    angle, r = np.deg2rad(start + 45), (inner + outer) / 2
    return r * np.cos(angle), r * np.sin(angle)


def _segment_path(frame: Frame, inner: float, outer: float, start: float | None, x: float = 0.0, y: float = 0.0) -> str:
    r_in, r_out = inner * PX_PER_MM, outer * PX_PER_MM
    cx, cy = frame.at(x, y)
    if start is None:
        return (
            f"M{cx - r_out:.1f} {cy:.1f}A{r_out:.1f} {r_out:.1f} 0 1 1 {cx + r_out:.1f} {cy:.1f}"
            f"A{r_out:.1f} {r_out:.1f} 0 1 1 {cx - r_out:.1f} {cy:.1f}Z"
        )
    (a, b) = np.deg2rad((start, start + 90))
    points = [(cx + r * np.cos(t), cy + r * np.sin(t)) for r, t in ((r_in, a), (r_out, a), (r_out, b), (r_in, b))]
    p = [f"{u:.1f} {v:.1f}" for u, v in points]
    return f"M{p[0]}L{p[1]}A{r_out:.1f} {r_out:.1f} 0 0 1 {p[2]}L{p[3]}A{r_in:.1f} {r_in:.1f} 0 0 0 {p[0]}Z"


def _etdrs(frame: Frame, fovea, sectors: Mapping, laterality: str | None, signed: bool) -> str:
    parts = []
    for inner, outer, start in _segments().values():
        path = _segment_path(frame, inner, outer, start, fovea.x_mm, fovea.y_mm)
        parts.append(f'<path class="ring halo" d="{path}"/><path class="ring" d="{path}"/>')
    for place, (inner, outer, start) in _segments().items():
        sector = sectors.get(_named(place, laterality))
        if sector is None:
            continue
        dx, dy = _middle(inner, outer, start)
        x, y = frame.at(fovea.x_mm + dx, fovea.y_mm + dy)
        text = _whole(sector.mean, signed)
        parts.append(f'<text class="value" x="{x:.1f}" y="{y + 7:.1f}">{text}</text>')
    return "".join(parts)


def _whole(value: float, signed: bool = False) -> str:
    """A whole number with a real minus, and a plus if asked for; — for NaN."""
    if not np.isfinite(value):
        return "—"
    text = f"{value:+.0f}" if signed else f"{value:.0f}"
    return "0" if text in ("-0", "+0") else text.replace("-", "−")


def _svg(frame: Frame, parts: list[str], label: str) -> Markup:
    width, height = frame.size
    return Markup(  # every text in `parts` is a number, one of this module's words, or escaped
        f'<svg class="enface" viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{escape(label)}">'
        f"{''.join(parts)}</svg>"
    )
