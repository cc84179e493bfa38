"""RUN/look of a slide model or a fused one -> pointing game, faithfulness and links to the zoomable pages."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clarion.report.charts import estimate, ranked_chart, signed
from clarion.report.files import RunFiles, as_dict

LOOKING = "clarion-looking/1"
WAYS = ("deletion", "insertion")
MAPS = {"combined": "where it looked (mil × window)", "mil": "attention over tiles",
        "window": "window attention inside tiles", "gradcam": "what moved the risk (Grad-CAM)",
        "effect": "the risk without each tile"}  # fmt: skip


def looking_view(run: RunFiles) -> dict[str, Any] | None:
    """RUN/look/looking.json as tables with links to the pages below it; for a slide model without one, the command that
    makes it; None for other models."""
    model = as_dict(run.config.get("model"))
    slides = bool(model.get("tiles")) or "slide" in (as_dict(model.get("fusion")).get("modalities") or [])
    found = _looking(run.directory / "look" / "looking.json")
    if found is None:
        hint = f"clarion look {run.name} --out {run.name}/look"
        return {"hint": hint} if slides and run.status == "complete" else None
    return {
        "hint": "",
        "told": f"{len(found['patients'])} patients"
        + (f" of the {found['split']} split" if found.get("split") else "")
        + f", through {found['model']}; stages of the Swin merged by {found['operator']}.",
        "pointing": _pointing(as_dict(found.get("pointing"))),
        "faithful": _faithful(as_dict(found.get("faithfulness"))),
        "pages": _pages(run, found["patients"]) if run.shows_samples else [],
        "notes": [str(note) for note in found.get("notes") or []],
    }


def _looking(path: Path) -> dict[str, Any] | None:
    try:
        found = as_dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None
    return found if found.get("format") == LOOKING else None


def _pointing(found: Mapping) -> dict[str, Any] | None:
    if not found:
        return None
    chart = ranked_chart(
        "Pointing game: peaks on planted tissue",
        [(name, *_ends(m["hits"]), 0) for name, m in found["maps"].items()] + [("chance", *_ends(found["chance"]), 5)],
        "share of slides",
    )
    return {
        "told": "Does the peak of a map lie on tissue that was planted to drive the survival? "
        f"{found['slides']} slides of {found['patients']} patients; by chance {estimate(*_ends(found['chance']))}.",
        "chart": chart,
        "head": ["Map", "Peak on planted tissue", "Share of the map on it"],
        "rows": [[_map(name), estimate(*_ends(m["hits"])), estimate(*_ends(m["mass"]))]
                 for name, m in found["maps"].items()],
    }  # fmt: skip


def _faithful(found: Mapping) -> dict[str, Any] | None:
    if not found:
        return None
    gains = [name for name, m in found["deletion"].items() if "gain" in m]
    return {
        "told": "Tiles taken away (deletion) or kept alone (insertion) in the order of a map, against "
        f"{found['draws']} random orders, over {found['n']} patients. Above 0: truer than chance.",
        "head": ["Order", "Deletion gain", "Insertion gain"],
        "rows": [[_map(name), *(signed(*_ends(found[way][name]["gain"])) for way in WAYS)] for name in gains],
    }  # fmt: skip


def _pages(run: RunFiles, patients: Sequence[Mapping]) -> list[dict[str, Any]]:
    """Links relative to the run directory; only to files that lie below its folder look."""
    folder, found = (run.directory / "look").resolve(), []
    for row in patients:
        own = [str(f) for f in row.get("files") or [] if str(f).endswith(".html")]
        links = [f"look/{f}" for f in own if folder in (folder / f).resolve().parents and (folder / f).is_file()]
        if links:
            found.append({"sample_id": str(row["sample_id"]), "risk": f"{row['risk']:+.2f}", "links": links})
    return sorted(found, key=lambda one: -float(one["risk"]))


def _map(name: str) -> str:
    return f"{name}: {MAPS[name]}" if name in MAPS else name


def _ends(entry: Mapping) -> tuple[Any, Any, Any]:
    return entry["value"], entry["low"], entry["high"]
