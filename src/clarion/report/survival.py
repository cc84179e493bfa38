"""Curves of the survival evaluator -> Kaplan-Meier with numbers at risk, calibration at each horizon."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clarion.report.charts import Series, line_chart, number
from clarion.report.files import as_dict

KAPLAN_MEIER, CALIBRATION = "kaplan_meier_", "calibration_"


def survival_view(result: Mapping) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """(the view, the curves left for plain charts); None and all curves where no Kaplan-Meier is among them."""
    curves = as_dict(result.get("curves"))
    groups = {
        name.removeprefix(KAPLAN_MEIER): curve
        for name, curve in curves.items()
        if name.startswith(KAPLAN_MEIER) and as_dict(curve).get("numbers_at_risk")
    }
    if not groups:
        return None, curves
    first = next(iter(groups.values()))
    series = [
        Series(f"{name} risk (n {curve['n']})", curve["x"], curve["y"], low=curve["low"], high=curve["high"])
        for name, curve in groups.items()
    ]
    calibration = {name: curve for name, curve in curves.items() if name.startswith(CALIBRATION)}
    view = {
        "chart": line_chart("Share without event, with pointwise interval", series, first["x_label"], first["y_label"]),
        "unit": first["x_label"],
        "times": [number(t) for t in first["numbers_at_risk"]["time"]],
        "at_risk": [(name, curve["numbers_at_risk"]["n"], curve["events"]) for name, curve in groups.items()],
        "logrank": _logrank(result),
        "calibration": [chart for name, curve in calibration.items() if (chart := _calibration(name, curve))],
    }
    drawn = {KAPLAN_MEIER + name for name in groups} | set(calibration)
    return view, {name: curve for name, curve in curves.items() if name not in drawn}


def _calibration(name: str, curve: Mapping) -> Any:
    """Observed over predicted risk of one horizon; on hover each group tells its values."""
    horizon = name.removeprefix(CALIBRATION)
    title = f"Calibration at {horizon.rstrip('m')} months" if horizon.endswith("m") else f"Calibration at {horizon}"
    if counts := sorted(set(curve.get("n") or [])):
        title += f" (groups of {'–'.join(map(str, dict.fromkeys((counts[0], counts[-1]))))})"
    series = [Series("model", curve["x"], curve["y"])]
    return line_chart(title, series, curve["x_label"], curve["y_label"], diagonal=True)


def _logrank(result: Mapping) -> str:
    p = as_dict(as_dict(result.get("metrics")).get("logrank_p")).get("value")
    if p is None:
        return ""
    told = next((note for note in result.get("notes") or [] if str(note).startswith("Log-rank")), "")
    return told or f"Log-rank test of the risk groups: p = {p:.2g}."
