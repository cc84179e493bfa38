"""From per-A-scan presence to the boxes an annotator would draw."""

from __future__ import annotations

import numpy as np

BRIDGE_UM = 1000.0  # gaps an annotator draws over
SPECK_UM = 600.0  # runs nobody would box
MARGIN_PX = 14.0
DEFORMED_UM = 120.0  # inner retina shown inside the box: what the membrane pulls on


def runs(presence: np.ndarray, bridge: int = 0, shortest: int = 1) -> list[tuple[int, int]]:
    """Stretches [start, end) of True: gaps up to `bridge` A-scans closed, then stretches under `shortest` dropped."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], np.asarray(presence, np.int8), [0]])))
    merged: list[list[int]] = []
    for start, end in edges.reshape(-1, 2).tolist():
        if merged and start - merged[-1][1] <= bridge:
            merged[-1][1] = end
        else:
            merged.append([start, end])
    return [(start, end) for start, end in merged if end - start >= shortest]


def draw_boxes(presence: np.ndarray, membrane: np.ndarray, surfaces: np.ndarray, depth: int,
               axial_um: float, lateral_um: float) -> np.ndarray:  # fmt: skip
    """Boxes float32 [n, 4] x1, y1, x2, y2 in px, one per ERM run, inside the picture.

    Height: from the membrane to the inner retina it deforms (down to IPL/INL, at most DEFORMED_UM), plus MARGIN_PX.
    """
    deepest = np.minimum(surfaces[2], surfaces[0] + DEFORMED_UM / axial_um)
    boxes = []
    for start, end in runs(presence, round(BRIDGE_UM / lateral_um), round(SPECK_UM / lateral_um)):
        top, bottom = membrane[start:end].min() - MARGIN_PX, deepest[start:end].max() + MARGIN_PX
        top, bottom = max(top, 0.0), min(bottom, float(depth))
        if bottom - top >= 4:
            boxes.append((start, top, end, bottom))
    return np.asarray(boxes, np.float32).reshape(-1, 4)
