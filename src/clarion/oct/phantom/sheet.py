"""A contact sheet: normal eye and stages 1-4, horizontal and vertical, boxes and presence drawn, real scan beside."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from .eye import BScan, make_eye

_ROWS = 300  # rows of a B-scan shown
_YELLOW, _GREEN, _WHITE = (0, 220, 255), (80, 220, 80), (235, 235, 235)


def contact_sheet(path: Path | str, seed: int = 0, real: list[np.ndarray] | None = None, overlay: bool = True) -> None:
    """Write a picture with one row per stage 0-4 at its fovea: horizontal | vertical | a real scan where given.

    Args:
        path: of the PNG to write. seed: of the first eye.
        real: up to five uint8 B-scans [depth, width] to stand beside, one a row.
        overlay: draw boxes (yellow) and per-A-scan presence (green, along the lower edge).
    """
    rows = []
    for stage in range(5):
        eye = make_eye(seed + stage, stage)
        near = [min(range(eye.geometry.lines), key=lambda n: abs(eye.geometry.line_position_mm(n) - at))
                for at in (eye.fovea.y_mm, eye.fovea.x_mm)]  # fmt: skip
        title = f"stage {stage}  {eye.erm_area_mm2:.1f} mm2  {eye.central_thickness_um:.0f} um"
        tiles = [_tile(eye.bscan(d, n), f"{title}  {d}{n}", overlay) for d, n in zip("HV", near, strict=True)]
        if real:
            tiles.append(_real_tile(real[stage]) if stage < len(real) else np.zeros_like(tiles[0]))
        rows.append(np.hstack(tiles))
    _, data = cv2.imencode(".png", np.vstack(rows))
    Path(path).write_bytes(data.tobytes())


def _tile(scan: BScan, title: str, overlay: bool) -> np.ndarray:
    picture = cv2.cvtColor(scan.image, cv2.COLOR_GRAY2BGR)
    if overlay:
        for x1, y1, x2, y2 in scan.boxes.round().astype(int).tolist():
            cv2.rectangle(picture, (x1, y1), (x2 - 1, y2 - 1), _YELLOW, 1)
    picture = _window(picture, float(np.median(scan.surfaces["EZ"])))
    if overlay:
        picture[-4:, scan.presence] = _GREEN
    return _titled(picture, title)


def _real_tile(scan: np.ndarray) -> np.ndarray:
    weight = cv2.GaussianBlur(scan, (0, 0), 3).astype(float).sum(axis=1) ** 2
    middle = float((weight * np.arange(weight.size)).sum() / max(weight.sum(), 1.0))
    return _titled(_window(cv2.cvtColor(scan, cv2.COLOR_GRAY2BGR), middle), "real")


def _window(picture: np.ndarray, centre: float) -> np.ndarray:
    top = int(np.clip(centre - 0.6 * _ROWS, 0, picture.shape[0] - _ROWS))
    return picture[top : top + _ROWS].copy()


def _titled(picture: np.ndarray, title: str) -> np.ndarray:
    cv2.putText(picture, title, (8, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.5, _WHITE, 1, cv2.LINE_AA)
    return picture
