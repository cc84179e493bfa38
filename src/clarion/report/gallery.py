"""The chosen cases of a run as groups of drawn pictures; long groups are folded, none of their cases is left out."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from clarion.report.cases import Case, Cases, find_cases
from clarion.report.files import RunFiles
from clarion.report.overlays import overlay_svg

TITLES = {
    "boxes": {"best": "Best", "worst": "Worst: false or poor boxes", "missed": "Missed: no true box found"},
    "classes": {"best": "Right with the highest probability", "mistake": "Most confident mistakes"},
    "surfaces": {"best": "Smallest error", "worst": "Largest error", "missed": "Missed: a surface lost or far off"},
    "presence": {"best": "Best", "worst": "Most A-scans called wrongly", "missed": "Missed: membrane not found"},
}
OPEN = 8  # cases of a group that are seen without unfolding
FOLD = 24  # cases a fold holds
# Longest side of a picture, px, by how many there are in all: a page of any run stays below some 10 MB.
SIZES = ((40, 640), (120, 400), (500, 240), (10**9, 144))


def gallery_view(run: RunFiles) -> dict[str, Any]:
    """{"cases", "groups": [{key, title, total, items, folds: [{title, items}]}]}; items are (case, picture or None).

    Private data: no pictures unless the run was told that they may be shown; the notes stay."""
    cases = find_cases(run)
    size = next(size for most, size in SIZES if len(cases.shown) <= most)
    groups: dict[str, list[Case]] = {}
    for case in cases.shown:
        groups.setdefault(case.group, []).append(case)
    return {"cases": cases, "groups": [_group(run, cases, key, items, size) for key, items in groups.items()]}


def _group(run: RunFiles, cases: Cases, key: str, items: list[Case], size: int) -> dict[str, Any]:
    drawn = [(case, _picture(run, case, size)) for case in items]
    folds = []
    for start in range(OPEN, len(drawn), FOLD):
        end = min(start + FOLD, len(drawn))
        folds.append({"title": f"{start + 1} to {end} of {len(drawn)}", "items": drawn[start:end]})
    return {"key": key, "title": TITLES[cases.kind][key], "total": len(drawn), "items": drawn[:OPEN], "folds": folds}


def _picture(run: RunFiles, case: Case, size: int) -> Markup | None:
    return overlay_svg(case, run.images.get(case.sample_id), size) if run.shows_samples else None
