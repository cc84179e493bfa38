"""Lines of a page in the order in which one reads them: a recursive cut along columns and bands of white.

After Nagy & Seth 1984 (X-Y cut), with columns tried before bands, so that paragraphs that happen to end at one height
in both columns do not interleave.
"""

from __future__ import annotations

from dataclasses import dataclass

GUTTER = 0.012  # narrowest white between columns, of the page's width
NARROWEST = 0.18  # narrowest column, of the page's width: cells of a table are no columns
MIN_LINES = 3  # of each column


@dataclass(frozen=True)
class Line:
    """One line of text; coordinates in points, y downwards. block: the number that MuPDF gave its block."""

    x0: float
    y0: float
    x1: float
    y1: float
    text: str
    size: float
    block: int
    page: int


def reading_order(lines: list[Line], width: float) -> list[list[Line]]:
    """Lines of one page -> regions (a column, or a band across the page), each top to bottom, in reading order.

    width: of the page, in points."""
    if len(lines) < 2 * MIN_LINES:
        return [_downwards(lines)] if lines else []
    if (cut := _gutter(lines, width)) is not None:
        left = [line for line in lines if (line.x0 + line.x1) / 2 < cut]
        right = [line for line in lines if (line.x0 + line.x1) / 2 >= cut]
        return reading_order(left, width) + reading_order(right, width)
    groups = _groups(_bands(lines), width)
    if len(groups) == 1:
        return [_downwards(lines)]
    regions: list[list[Line]] = []
    for group, columns in groups:
        if columns:
            regions += reading_order(group, width)
        elif regions and not groups_are_columns(regions):
            regions[-1] += _downwards(group)
        else:
            regions.append(_downwards(group))
    return regions


def groups_are_columns(regions: list[list[Line]]) -> bool:
    """Whether the last region is one of two columns side by side: a band below must not be joined to it."""
    if len(regions) < 2:
        return False
    last, before = regions[-1], regions[-2]
    return min(line.y0 for line in last) < max(line.y1 for line in before)


def _downwards(lines: list[Line]) -> list[Line]:
    """Top to bottom; lines at one height (cells, a split line) left to right."""
    ordered = sorted(lines, key=lambda line: (line.y0, line.x0))
    rows: list[list[Line]] = []
    for line in ordered:
        if rows and line.y0 < rows[-1][0].y0 + 0.5 * (rows[-1][0].y1 - rows[-1][0].y0):
            rows[-1].append(line)
        else:
            rows.append([line])
    return [line for row in rows for line in sorted(row, key=lambda line: line.x0)]


def _gutter(lines: list[Line], width: float) -> float | None:
    """x of the widest vertical white that no line crosses and that has a column of text on both sides."""
    spans = sorted((line.x0, line.x1) for line in lines)
    best, reach = None, spans[0][1]
    for x0, x1 in spans[1:]:
        white = x0 - reach
        if white >= GUTTER * width and (best is None or white > best[0]):
            centre = (x0 + reach) / 2
            sides = [[l for l in lines if l.x1 <= centre], [l for l in lines if l.x0 >= centre]]
            if all(_is_column(side, width) for side in sides) and _side_by_side(*sides):
                best = (white, centre)
        reach = max(reach, x1)
    return best[1] if best else None


def _is_column(lines: list[Line], width: float) -> bool:
    if len(lines) < MIN_LINES:
        return False
    extent = max(line.x1 for line in lines) - min(line.x0 for line in lines)
    widths = sorted(line.x1 - line.x0 for line in lines)
    return extent >= NARROWEST * width and widths[len(widths) // 2] >= 0.5 * NARROWEST * width


def _side_by_side(left: list[Line], right: list[Line]) -> bool:
    tops = [min(line.y0 for line in side) for side in (left, right)]
    ends = [max(line.y1 for line in side) for side in (left, right)]
    shared = min(ends) - max(tops)
    return shared >= 0.3 * min(e - t for e, t in zip(ends, tops, strict=True))


def _bands(lines: list[Line]) -> list[list[Line]]:
    """Groups of lines separated by white across the whole region, from top to bottom."""
    bands: list[list[Line]] = []
    reach = -1.0
    for line in sorted(lines, key=lambda line: line.y0):
        if bands and line.y0 < reach - 0.2 * (line.y1 - line.y0):
            bands[-1].append(line)
        else:
            bands.append([line])
        reach = max(reach, line.y1)
    return bands


def _groups(bands: list[list[Line]], width: float) -> list[tuple[list[Line], bool]]:
    """Consecutive bands that one gutter divides become one group (True: it has columns)."""
    groups: list[tuple[list[Line], bool]] = []
    start = 0
    while start < len(bands):
        best = start
        union: list[Line] = []
        for end in range(start, len(bands)):
            union = union + bands[end]
            if _gutter(union, width) is not None:
                best = end + 1
            elif _crosses(bands[end], width) and end > start:
                break
        if best > start:
            groups.append(([line for band in bands[start:best] for line in band], True))
            start = best
        else:
            groups.append((bands[start], False))
            start += 1
    return groups


def _crosses(band: list[Line], width: float) -> bool:
    """A band of one long line cannot belong to a column: looking further is in vain."""
    return any(line.x1 - line.x0 > 0.6 * width for line in band)
