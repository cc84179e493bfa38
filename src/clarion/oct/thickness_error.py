"""How far a thickness is off, measured on phantom eyes with known truth (thickness_error.json)."""

from __future__ import annotations

import json
from functools import cache
from importlib import resources


def thickness_sd_um(sector: str, layers_hash: str) -> float | None:
    """Root mean square error, um, of a sector's mean thickness with the shipped layer network; None: not measured.

    sector: as in clarion.oct.etdrs ("CSF", "inner_nasal", ...), or "centre_point". The
    four sectors of a ring share one figure. layers_hash: of the network that was used; the figures hold for the one
    that they were measured with alone.
    """
    if _shipped().get("made", {}).get("models", {}).get("layers") != layers_hash:
        return None
    ring = sector if sector in ("CSF", "centre_point") else sector.split("_")[0]
    return _shipped().get("rmse_um", {}).get(ring)


@cache
def _shipped() -> dict:
    file = resources.files("clarion.oct").joinpath("thickness_error.json")
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
