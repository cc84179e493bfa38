"""What the association of membrane and thickness says, as rows and a dose-response chart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup, escape

from clarion.report.charts import Chart, number

if TYPE_CHECKING:
    from clarion.evaluators.bootstrap import Interval
    from clarion.oct.association import Association, DoseBin
    from clarion.oct.study import Study

_ROWS = (
    ("inside_um", "Thickness under the membrane", "µm"),
    ("outside_um", "Thickness outside the membrane", "µm"),
    ("difference_um", "Difference, whatever the eccentricity", "µm"),
    ("adjusted_difference_um", "Difference at equal eccentricity and direction", "µm"),
    ("away_from_edge_um", "The same, away from the membrane's edge", "µm"),
    ("spearman", "Rank correlation of coverage and thickness", ""),
    ("adjusted_spearman", "Rank correlation at equal eccentricity and direction", ""),
)
_NULLS = {"spin": "turned about the fovea", "torus": "shifted on a torus"}
_WIDTH, _HEIGHT = 420, 290
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 14, 26, 50


def association_view(study: Study) -> dict[str, Any] | None:
    """Rows, charts and notes of the association; None where it was not measured."""
    found = study.association
    if found is None:
        return None
    rows = [row for name, words, unit in _ROWS if (row := _row(getattr(found, name, None), words, unit)) is not None]
    if found.p_value is not None:
        rows.append({"name": "p of no association (moved membranes)", "value": number(found.p_value), "unit": "",
                     "interval": ""})  # fmt: skip
    charts = [dose_chart(found.dose_response)] if found.dose_response else []
    return {"rows": rows, "charts": charts, "notes": _notes(found)}


def _row(measured: Interval | float | None, name: str, unit: str) -> dict[str, str] | None:
    """A line of the table; None where there is no value. Means of a map come without an interval."""
    value = getattr(measured, "value", measured)
    if not _finite(value):
        return None
    low, high = getattr(measured, "low", None), getattr(measured, "high", None)
    digits = 1 if unit else 2
    between = f"{_text(low, digits)} to {_text(high, digits)} (95 %)" if _finite(low) and _finite(high) else ""
    return {"name": name, "value": _text(value, digits), "unit": unit, "interval": between}


def dose_chart(bins: Sequence[DoseBin]) -> Chart:
    """Excess thickness over signed distance to the membrane's edge, with 95 % intervals; shaded under the membrane."""
    ends = [v for b in bins for v in (b.excess_um.low, b.excess_um.high, b.excess_um.value) if _finite(v)] + [0.0]
    ticks = _ticks(min(ends), max(ends))
    outside = sum(b.to_mm <= 0 for b in bins)  # bins before the edge; all are drawn equally wide

    def at(x: float, y: float) -> tuple[float, float]:
        return (
            _LEFT + x / len(bins) * (_WIDTH - _LEFT - _RIGHT),
            _HEIGHT - _BOTTOM - (y - ticks[0]) / (ticks[-1] - ticks[0]) * (_HEIGHT - _TOP - _BOTTOM),
        )

    (edge, bottom), (right, top) = at(outside, ticks[0]), at(len(bins), ticks[-1])
    parts = [
        f'<rect class="under" x="{edge:.1f}" y="{top:.1f}" width="{right - edge:.1f}" height="{bottom - top:.1f}"/>',
        f'<text x="{edge + 6:.1f}" y="{top - 8:.1f}">under the membrane</text>',
        f'<text x="{edge - 6:.1f}" y="{top - 8:.1f}" text-anchor="end">outside</text>',
    ]
    for tick in ticks:
        _, y = at(0, tick)
        kind = "reference" if tick == 0 else "grid"
        parts.append(f'<line class="{kind}" x1="{_LEFT}" y1="{y:.1f}" x2="{_WIDTH - _RIGHT}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 7}" y="{y + 4.5:.1f}" text-anchor="end">{_text(tick, 0)}</text>')
    for k, b in enumerate(bins):
        for place, border in ((k, b.from_mm), (k + 1, b.to_mm)):
            if math.isfinite(border) and (place > k or k == 0):  # each border once
                px, _ = at(place, ticks[0])
                parts.append(f'<text x="{px:.1f}" y="{bottom + 19:.1f}" text-anchor="middle">{_text(border, 2)}</text>')
    said = []
    for k, b in enumerate(bins):
        if not _finite(b.excess_um.value):
            continue
        x, y = at(k + 0.5, b.excess_um.value)
        text = f"{_text(b.excess_um.value, 0)} µm at {_where(b)}"
        said.append(text)
        if _finite(b.excess_um.low) and _finite(b.excess_um.high):
            (_, low), (_, high) = at(0, b.excess_um.low), at(0, b.excess_um.high)
            parts.append(f'<line class="whisker s0" x1="{x:.1f}" y1="{low:.1f}" x2="{x:.1f}" y2="{high:.1f}"/>')
        parts.append(f'<circle class="dot s0" cx="{x:.1f}" cy="{y:.1f}" r="5"><title>{text}</title></circle>')
    parts.append(
        f'<text class="axis" x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{_HEIGHT - 6}" text-anchor="middle">'
        "distance inside the membrane's edge, mm</text>"
    )
    y = (_TOP + _HEIGHT - _BOTTOM) / 2
    parts.append(
        f'<text class="axis" x="13" y="{y}" text-anchor="middle" transform="rotate(-90 13 {y})">excess, µm</text>'
    )
    title = "Thickness by distance to the membrane's edge"
    label = f"{title}, over the farthest bin: {'; '.join(said)}."
    svg = (
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(label)}">'
        f"{''.join(parts)}</svg>"
    )
    return Chart(title, Markup(svg), [])  # every text in it is a number or a word of this module


def _where(b: DoseBin) -> str:
    if math.isinf(b.from_mm):
        return f"{_text(b.to_mm, 2)} mm and farther outside"
    if math.isinf(b.to_mm):
        return f"{_text(b.from_mm, 2)} mm and farther inside"
    return f"{_text(b.from_mm, 2)} to {_text(b.to_mm, 2)} mm"


def _notes(found: Association) -> list[str]:
    notes = []
    if found.permutations:
        null = _NULLS.get(found.null, found.null)
        notes.append(f"p: share of {found.permutations} membranes {null} that show as much.")
    if found.n_cells:
        effective = "" if found.n_effective is None else f", worth {found.n_effective:.0f} independent ones"
        notes.append(f"{found.n_cells} cells of retina within reach of the fovea{effective}; neighbours are alike, "
                     "which the intervals allow for.")  # fmt: skip
    notes += [f"Not given, {name.replace('_', ' ')}: {why}." for name, why in found.omitted.items()]
    return notes


def _ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round values that cover [low, high]."""
    raw = max(high - low, 1.0) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    return [float(v) * step for v in np.arange(math.floor(low / step), math.ceil(high / step) + 1)] or [0.0, step]


def _text(value: float, digits: int) -> str:
    if not _finite(value):
        return "—"
    text = f"{value:.{digits}f}"
    text = text.rstrip("0").rstrip(".") if digits == 2 and "." in text else text
    return "0" if text in ("-0", "0") else text.replace("-", "−")


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
