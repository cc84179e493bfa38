"""Small charts as inline SVG: no script, colours from the page's CSS (so dark mode works), text selectable."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, HEIGHT = 420, 290
LEFT, RIGHT, TOP, BOTTOM = 70, 16, 12, 48
SERIES = 6  # distinct colours and dashes in the style sheet: .s0 to .s5


@dataclass(frozen=True)
class Series:
    """x and y of one line; points with None or NaN are left out. low, high: a band about y."""

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    scatter: bool = False  # points, not a line
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()


@dataclass(frozen=True)
class Chart:
    """A drawn chart; `legend` names series by their index (empty for one series)."""

    title: str
    svg: Markup
    legend: list[str]


def line_chart(
    title: str, series: Sequence[Series], x_label: str, y_label: str, diagonal: bool = False, whole_x: bool = False
) -> Chart | None:
    """Lines over a common pair of axes; None when no series has a finite point.

    `diagonal`: a thin y = x line (chance of a ROC curve, perfect calibration). `whole_x`: integer ticks (epochs).
    A square [0, 1] frame is used when all values lie in it and span at least half of it.
    """
    lines, bands = [], []
    for s in series:
        points = [(float(x), float(y)) for x, y in zip(s.x, s.y, strict=False) if _finite(x) and _finite(y)]
        if points:
            lines.append((s.name, points, s.scatter))
            ends = [ends for ends in zip(s.x, s.low, s.high, strict=False) if all(map(_finite, ends))]
            bands.append([tuple(map(float, each)) for each in ends])
    lines = lines[:SERIES]
    if not lines:
        return None
    xs = [x for _, points, _ in lines for x, _ in points]
    ys = [y for _, points, _ in lines for _, y in points]
    x_ticks = _ticks(min(xs), max(xs), 6, whole=whole_x, unit=not whole_x)
    y_ticks = _ticks(min(ys), max(ys), 5, unit=True)
    x_low, x_high = (min(xs), max(xs)) if whole_x else (min(x_ticks[0], min(xs)), max(x_ticks[-1], max(xs)))
    if x_low == x_high:
        x_low, x_high = x_low - 0.5, x_high + 0.5
    y_low, y_high = min(y_ticks[0], min(ys)), max(y_ticks[-1], max(ys))

    def at(x: float, y: float) -> tuple[float, float]:
        return (
            LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - (y - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM),
        )

    parts = [_frame(x_ticks, y_ticks, at, (x_low, x_high), x_label, y_label)]
    if diagonal:
        low, high = max(x_low, y_low), min(x_high, y_high)
        (x1, y1), (x2, y2) = at(low, low), at(high, high)
        parts.append(f'<line class="reference" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>')
    for index, band in enumerate(bands[: len(lines)]):
        if len(band) > 1:
            edge = [at(x, min(b, y_high)) for x, _, b in band] + [at(x, max(a, y_low)) for x, a, _ in reversed(band)]
            parts.append(f'<polygon class="band s{index}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in edge)}"/>')
    for index, (name, points, scatter) in enumerate(lines):
        pixels = [at(x, y) for x, y in points]
        if len(pixels) > 1 and not scatter:
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in pixels)
            parts.append(f'<polyline class="line s{index}" points="{path}"/>')
        if len(pixels) <= 25 or scatter:  # each point tells its value on hover
            for (x, y), (px, py) in zip(points, pixels, strict=True):
                parts.append(
                    f'<circle class="dot s{index}" cx="{px:.1f}" cy="{py:.1f}" r="2.6">'
                    f"<title>{escape(name)}: {number(y)} at {number(x)}</title></circle>"
                )
    described = "; ".join(f"{name} from {number(points[0][1])} to {number(points[-1][1])}" for name, points, _ in lines)
    svg = _svg(f"{title}: {y_label} over {x_label}. {described}.", WIDTH, HEIGHT, parts)
    return Chart(title, svg, [name for name, *_ in lines] if len(lines) > 1 else [])


def interval_chart(title: str, rows: Sequence[tuple[str, float | None, float | None, float | None]]) -> Chart | None:
    """Points with intervals, one row a run: (label, value, low, high)."""
    rows = [row for row in rows if _finite(row[1])]
    if not rows:
        return None
    ends = [float(v) for _, value, low, high in rows for v in (value, low, high) if _finite(v)]
    ticks = _ticks(min(ends), max(ends), 5, unit=False)
    low_end, high_end = min(ticks[0], min(ends)), max(ticks[-1], max(ends))
    step, top = 26, 8
    height = top + step * len(rows) + 30
    left, right = 4, 26

    def at(value: float) -> float:
        return left + 34 + (value - low_end) / (high_end - low_end) * (WIDTH - left - right - 34)

    parts = []
    for tick in ticks:
        parts.append(f'<line class="grid" x1="{at(tick):.1f}" y1="{top}" x2="{at(tick):.1f}" y2="{height - 28}"/>')
        parts.append(f'<text x="{at(tick):.1f}" y="{height - 10}" text-anchor="middle">{_tick(tick, ticks)}</text>')
    for index, (label, value, low, high) in enumerate(rows):
        y = top + step * (index + 0.5)
        parts.append(f'<text x="{left}" y="{y + 4.5:.1f}" class="strong">{escape(label)}</text>')
        if _finite(low) and _finite(high):
            ends = f'x1="{at(low):.1f}" y1="{y:.1f}" x2="{at(high):.1f}" y2="{y:.1f}"'
            parts.append(f'<line class="whisker s{index % SERIES}" {ends}/>')
        parts.append(
            f'<circle class="dot s{index % SERIES}" cx="{at(value):.1f}" cy="{y:.1f}" r="5">'
            f"<title>{escape(label)}: {estimate(value, low, high)}</title></circle>"
        )
    described = "; ".join(f"{label} {estimate(value, low, high)}" for label, value, low, high in rows)
    return Chart(title, _svg(f"{title}: {described}", WIDTH, height, parts), [])


def ranked_chart(
    title: str, rows: Sequence[tuple[str, float | None, float | None, float | None, int]], x_label: str
) -> Chart | None:
    """Horizontal bars from 0 with whiskers: (label, value, low, high, colour 0 to 5), in the order given."""
    rows = [row for row in rows if _finite(row[1])]
    if not rows:
        return None
    ends = [float(v) for _, *values, _ in rows for v in values if _finite(v)]
    ticks = _ticks(min(0.0, *ends), max(ends), 4, unit=False)
    low_end, high_end = min(ticks[0], 0.0, *ends), max(ticks[-1], *ends)
    step, top = 20, 6
    left, right = 12 + 9.6 * min(20, max(len(label) for label, *_ in rows)), 26
    height = top + step * len(rows) + 46

    def at(value: float) -> float:
        return left + (value - low_end) / ((high_end - low_end) or 1.0) * (WIDTH - left - right)

    parts = []
    for tick in ticks:
        line = f'x1="{at(tick):.1f}" y1="{top}" x2="{at(tick):.1f}" y2="{height - 42}"'
        parts.append(f'<line class="grid" {line}/><text x="{at(tick):.1f}" y="{height - 24}" text-anchor="middle">')
        parts.append(f"{_tick(tick, ticks)}</text>")
    for index, (label, value, low, high, colour) in enumerate(rows):
        y, start, end = top + step * index, *sorted((at(0.0), at(value)))
        shown = label if len(label) <= 20 else label[:19] + "…"
        told = f"<title>{escape(label)}: {estimate(value, low, high)}</title>"
        parts.append(f'<text x="{left - 6:.1f}" y="{y + 14.5:.1f}" text-anchor="end">{escape(shown)}</text>')
        parts.append(f'<rect class="bar s{colour}" x="{start:.1f}" y="{y + 3}" width="{end - start:.1f}" height="13">')
        parts.append(f"{told}</rect>")
        if _finite(low) and _finite(high):
            whisker = f'x1="{at(low):.1f}" y1="{y + 9.5}" x2="{at(high):.1f}" y2="{y + 9.5}"'
            parts.append(f'<line class="error" {whisker}/>')
    middle = (left + WIDTH - right) / 2
    parts.append(f'<text class="axis" x="{middle:.1f}" y="{height - 5}" text-anchor="middle">{escape(x_label)}</text>')
    described = "; ".join(f"{label} {estimate(value, low, high)}" for label, value, low, high, _ in rows)
    return Chart(title, _svg(f"{title}: {described}", WIDTH, height, parts), [])


def number(value: float | int | None, digits: int = 3) -> str:
    """A figure for a reader: fixed digits around 1, four significant ones beyond; — for missing."""
    if not _finite(value):
        return "—"
    value = float(value)
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value)}"
    if 0.001 <= abs(value) < 100:
        return f"{value:.{digits}f}".rstrip("0").rstrip(".") if digits > 3 else f"{value:.{digits}f}"
    return f"{value:.1f}" if 100 <= abs(value) < 1e5 else f"{value:.2e}"


def p_value(p: float | None) -> str:
    """0.034, or 1.4e-07 for small ones."""
    return "—" if not _finite(p) else f"{p:.1e}" if 0 < p < 0.001 else f"{p:.3f}"


def estimate(value: float | None, low: float | None = None, high: float | None = None) -> str:
    """0.723 [0.661, 0.780]"""
    if _finite(low) and _finite(high):
        return f"{score(value)} [{score(low)}, {score(high)}]"
    return score(value)


def signed(value: float | None, low: float | None = None, high: float | None = None) -> str:
    """A difference: +0.031 [-0.012, +0.074]"""
    if not _finite(value):
        return "—"
    return f"{value:+.3f} [{low:+.3f}, {high:+.3f}]" if _finite(low) and _finite(high) else f"{value:+.3f}"


def score(value: float | None) -> str:
    """Like `number`, but 0 and 1 keep their digits (0.000, 1.000), as scores stand in columns."""
    return f"{float(value):.3f}" if _finite(value) and abs(float(value)) <= 1 else number(value)


def _finite(value) -> bool:
    try:
        return value is not None and math.isfinite(float(value))
    except (TypeError, ValueError):
        return False


def _ticks(low: float, high: float, about: int, whole: bool = False, unit: bool = False) -> list[float]:
    """Round tick values that cover [low, high]; the unit interval is shown whole when values span half of it."""
    if unit and low >= 0 and high <= 1 and high - low >= 0.5:
        return [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    if low == high:
        pad = abs(low) * 0.1 or 0.5
        low, high = (low - pad, high + pad) if not whole else (low, high)
    raw = (high - low) / about or 1.0
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    if whole:
        step = max(1.0, round(step))
        first, last = math.ceil(low / step), math.floor(high / step)
    else:
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(k * step, 12) for k in range(first, last + 1)]


def _frame(x_ticks, y_ticks, at, x_range, x_label: str, y_label: str) -> str:
    parts = []
    for tick in y_ticks:
        _, y = at(x_range[0], tick)
        parts.append(f'<line class="grid" x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 7}" y="{y + 4.5:.1f}" text-anchor="end">{_tick(tick, y_ticks)}</text>')
    for tick in x_ticks:
        x, _ = at(tick, y_ticks[0])
        parts.append(
            f'<line class="grid" x1="{x:.1f}" y1="{HEIGHT - BOTTOM}" x2="{x:.1f}" y2="{HEIGHT - BOTTOM + 4}"/>'
        )
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 19}" text-anchor="middle">{_tick(tick, x_ticks)}</text>')
    middle_x, middle_y = (LEFT + WIDTH - RIGHT) / 2, (TOP + HEIGHT - BOTTOM) / 2
    below = f'class="axis" x="{middle_x}" y="{HEIGHT - 6}" text-anchor="middle"'
    parts.append(f"<text {below}>{_fitting(x_label, 44)}</text>")
    parts.append(
        f'<text class="axis" x="13" y="{middle_y}" text-anchor="middle" transform="rotate(-90 13 {middle_y})">'
        f"{_fitting(y_label, 32)}</text>"
    )
    return "".join(parts)


def _fitting(label: str, most: int) -> Markup:
    """An axis label that fits its axis; a longer one is cut and told whole on hover."""
    if len(label) <= most:
        return escape(label)
    return Markup("{}…<title>{}</title>").format(label[: most - 1], label)


def _tick(value: float, ticks: Sequence[float]) -> str:
    step = abs(ticks[1] - ticks[0]) if len(ticks) > 1 else 1.0
    if step >= 1e5 or (step < 1e-4 and step > 0):
        return f"{value:.1e}"
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    digits += round(step * 10**digits, 6) != round(step * 10**digits)  # steps of 2.5
    return f"{value:.{digits}f}"


def _svg(description: str, width: float, height: float, parts: Sequence[str]) -> Markup:
    body = "".join(str(part) for part in parts)
    return Markup(  # every text in `parts` is escaped where it is made
        f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(description)}">{body}</svg>'
    )
