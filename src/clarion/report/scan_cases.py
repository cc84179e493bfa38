"""Which B-scans to show where a value is predicted at every A-scan: retinal surfaces, presence of a membrane."""

from __future__ import annotations

from typing import Any

import numpy

from clarion.report.cases import Case, Cases, joined
from clarion.report.files import RunFiles, as_dict

OFF_UM = 40.0  # a surface this far off on average (about ten pixels of an OCT) counts as missed
MEASURED = 0.5  # share of a surface's A-scans below which it counts as missed
LEAST = 0.02  # share of a scan under a membrane from which it must be found
FOUND = 0.1  # share of the A-scans under a membrane below which the membrane counts as missed


def surface_cases(run: RunFiles, each: int = 4) -> Cases:
    """B-scans by the mean absolute error of their surfaces, um: smallest, largest, every one that lost a surface."""
    table = joined(run)
    if not {"surfaces", "surfaces_true", "axial_um"} <= set(table.columns):
        return Cases()
    names = run.class_names
    scored = []
    for row in table.to_dict("records"):
        guess, true = (_rows(row[key]) for key in ("surfaces", "surfaces_true"))
        if guess is None or true is None or guess.shape != true.shape:
            continue
        known, off = numpy.isfinite(true), numpy.abs(guess - true) * float(row["axial_um"])
        use = numpy.isfinite(off)
        error = numpy.array([off[k][use[k]].mean() if use[k].any() else numpy.inf for k in range(len(true))])
        share = use.sum(1) / numpy.maximum(known.sum(1), 1)
        lost = known.any(1) & ((share < MEASURED) | (error > OFF_UM))
        measured = numpy.isfinite(error) & known.any(1)
        mean = float(error[measured].mean()) if measured.any() else numpy.inf
        note = f"mean error {mean:.1f} µm" if numpy.isfinite(mean) else "nothing measured"
        if lost.any():
            which = [names[k] if k < len(names) else f"surface {k + 1}" for k in numpy.flatnonzero(lost)]
            note += f"; lost: {', '.join(which)}"
        elif measured.any():
            worst = int(numpy.where(measured, error, -1).argmax())
            note += f", most at {names[worst] if worst < len(names) else worst + 1} ({error[worst]:.1f} µm)"
        scored.append((mean, bool(lost.any()), str(row["sample_id"]), note, (true, guess)))
    scored.sort(key=lambda entry: entry[0])
    kept, missed = [e for e in scored if not e[1]], [e for e in scored if e[1]]
    best = kept[:each]
    groups = (("best", best), ("worst", kept[len(best) :][-each:][::-1]), ("missed", missed[::-1]))
    cases = [Case(e[2], group, e[3], surfaces=e[4]) for group, entries in groups for e in entries]
    told = (
        f"By the mean absolute error over the surfaces. Missed: a surface that is more than {OFF_UM:g} µm off on "
        f"average, or measured at fewer than {MEASURED:.0%} of its A-scans."
    )
    return Cases(cases, [e[2] for e in missed], len(scored), kind="surfaces", told=told)


def presence_cases(run: RunFiles, each: int = 4) -> Cases:
    """B-scans by their Dice along the scan line: highest, lowest, and every membrane that was not found."""
    table = joined(run)
    if not {"presence", "presence_true"} <= set(table.columns):
        return Cases()
    threshold = presence_threshold(run)
    scored = []
    for row in table.to_dict("records"):
        said, true = (numpy.asarray(row[key], dtype=float).ravel() for key in ("presence", "presence_true"))
        if said.shape != true.shape or not said.size:
            continue
        use = numpy.isfinite(true)
        under, called = use & (true >= 0.5), use & (numpy.nan_to_num(said) >= threshold)
        both, n = int((under & called).sum()), max(1, int(use.sum()))
        dice = 2 * both / max(1, int(under.sum()) + int(called.sum()))
        if under.any():
            note = f"{both / under.sum():.0%} of {under.sum() / n:.0%} membrane found, Dice {dice:.2f}"
        else:
            note = f"no membrane, {called.sum() / n:.0%} called membrane"
        missed = under.sum() >= LEAST * n and both < FOUND * under.sum()
        flaw = int((under != called).sum())
        scored.append((dice, flaw, bool(under.any()), missed, str(row["sample_id"]), note, (true, said)))
    missed = [e for e in scored if e[3]]
    best = sorted((e for e in scored if e[2] and not e[3]), key=lambda e: -e[0])[:each]
    taken = {e[4] for e in [*best, *missed]}
    worst = sorted((e for e in scored if e[1] and e[4] not in taken), key=lambda e: -e[1])[:each]
    groups = (("best", best), ("worst", worst), ("missed", missed))
    cases = [Case(e[4], group, e[5], presence=e[6]) for group, entries in groups for e in entries]
    told = (
        f"Called membrane: probability of {threshold:.3f} and above. Best: highest Dice along the scan line. Worst: "
        f"most A-scans called wrongly. Missed: of a membrane, less than {FOUND:.0%} was found."
    )
    return Cases(cases, [e[4] for e in missed], len(scored), threshold, "presence", told)


def presence_threshold(run: RunFiles) -> float:
    """The probability that the evaluator chose, from which an A-scan is called membrane; else 0.5."""
    for result in run.evaluators.values():
        value = as_dict(as_dict(result.get("metrics")).get("threshold")).get("value")
        if isinstance(value, (int, float)) and 0 <= value <= 1:
            return float(value)
    return 0.5


def _rows(cell: Any) -> numpy.ndarray | None:
    """Nested lists or arrays of equal length -> float [k, width]; None for anything else."""
    try:
        rows = numpy.stack([numpy.asarray(row, dtype=float) for row in cell])
    except (TypeError, ValueError):
        return None
    return rows if rows.ndim == 2 else None
