"""Everything measured in one visit of one eye, held together for the findings, the report and the exports."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from clarion.findings import Document
from clarion.oct.enface import Grid
from clarion.oct.volume import Volume

if TYPE_CHECKING:
    from clarion.oct.area import Area
    from clarion.oct.association import Association
    from clarion.oct.etdrs import Sector
    from clarion.oct.fovea import Fovea
    from clarion.oct.projection import Projection
    from clarion.oct.staging import Stage
    from clarion.oct.thickness import ThicknessMaps


@dataclass
class Study:
    """Per-scan lists are in the order of volume.scans. None: could not be measured, document.omitted says why."""

    volume: Volume
    document: Document
    grid: Grid
    surfaces: list[np.ndarray] = field(repr=False)  # float32 [8, width] rows; NaN where not measurable
    surfaces_sd: list[np.ndarray] = field(repr=False)  # px
    presence: list[np.ndarray] | None = field(default=None, repr=False)  # float32 [width], probability of ERM
    boxes: list[np.ndarray] | None = field(default=None, repr=False)  # [n, 5] x1, y1, x2, y2, score
    projection: Projection | None = None
    area: Area | None = None
    thickness: ThicknessMaps | None = None
    fovea: Fovea | None = None
    etdrs_um: dict[str, Sector] | None = None  # total thickness by sector
    etdrs_erm: dict[str, Sector] | None = None  # share of the sector under ERM, 0-1
    association: Association | None = None
    stage: Stage | None = None
    doubt: str = ""  # why every finding is flagged, where the whole scan is in doubt
    timings_s: dict[str, float] = field(default_factory=dict)
