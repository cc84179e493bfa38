"""How far the membrane that was found is off the membrane that is there, learnt on eyes whose truth is known.

Presence comes from a network or from boxes, and both err for whole eyes at a time: a bright reflex is called membrane
all over, a thin membrane is missed all over. Errors within one eye are therefore not averaged away, and no formula in
p (1 - p) alone gives them. `calibration_row` compares found and true length on the same lines of one eye (so that the
raster plays no part), `calibrate` learns from many rows

- the rule that turns probabilities into an area (their sum above a floor, or a threshold),
- a gain (boxes fill gaps and read too large),
- the standard error on the square-root scale: errors along the outline (constant there), in proportion to the area A
  that was found, by specks (a fixed area), and by the doubt of this very eye, the integral U of p (1 - p),
- quantiles of |error| / sd, which make intervals hold on new eyes like these (split conformal prediction: Lei et al.
  2018, JASA 113:1094), apart for eyes in which little was found: there a false speck is all there is.

On the square-root scale an error along the outline is the same for small and large membranes, and no interval reaches
below zero.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib import resources

import numpy as np
from scipy.optimize import minimize
from scipy.special import ndtri

from clarion.errors import DataError
from clarion.oct.area_sampling import line_shares, line_sums
from clarion.oct.enface import Grid, grid_of
from clarion.oct.volume import Volume

RULES = ("soft:0", "soft:0.05", "soft:0.1", "soft:0.2", "soft:0.3",
         "hard:0.3", "hard:0.4", "hard:0.5", "hard:0.6", "hard:0.7", "hard:0.8", "hard:0.9")  # fmt: skip
LEVELS = (0.5, 0.68, 0.8, 0.9, 0.95, 0.98)
SMALL_MM2 = 0.1  # under this nothing was found: two specks between two lines
LITTLE_MM2 = 2.0  # under this an eye counts among those with little or no membrane
FEWEST_EYES = 20
_FILE = "area_calibration.json"


@dataclass(frozen=True)
class DetectionError:
    """The error of one source of presence. gain: true area / found area; sd on the scale of sqrt(mm2)."""

    source: str
    rule: str = "soft:0.05"
    gain: float = 1.0
    outline: float = 0.15  # mm
    relative: float = 0.20  # of the area
    specks: float = 0.10  # mm2
    doubt: float = 1.0  # of U: all doubtful A-scans right or wrong together
    quantiles: Mapping[float, float] | None = None  # level -> quantile of |error| / sd; None: the normal distribution's
    quantiles_little: Mapping[float, float] | None = None  # the same where less than LITTLE_MM2 was found
    n_eyes: int = 0  # 0: never calibrated
    missed_mm2: float | None = None  # 95 % quantile of the true area where nothing was found
    n_missed: int = 0  # eyes in which nothing was found

    def sd_root(self, area_mm2: float | np.ndarray, doubt_mm2: float | np.ndarray) -> float | np.ndarray:
        """Standard error of the square root of the area, mm."""
        area = np.asarray(area_mm2, np.float64)
        # sqrt(A + e) - sqrt(A) is e / (2 sqrt(A)) for a large area and stays finite at none.
        steps = [np.sqrt(area + e) - np.sqrt(area) for e in (self.specks, self.doubt * np.asarray(doubt_mm2))]
        return np.sqrt(self.outline**2 + (self.relative / 2) ** 2 * area + sum(np.square(step) for step in steps))

    def quantile(self, level: float, area_mm2: float) -> float:
        """Half-width of an interval in standard errors; between calibrated levels in proportion to the normal's."""
        normal = float(ndtri((1 + level) / 2))
        table = (self.quantiles_little if area_mm2 < LITTLE_MM2 else None) or self.quantiles
        if not table:
            return normal
        levels = np.array(sorted(table))
        ratio = [table[k] / ndtri((1 + k) / 2) for k in levels]
        return normal * float(np.interp(level, levels, ratio))

    def to_dict(self) -> dict:
        """Plain data; `from_dict` reads it."""
        row = asdict(self)
        for name in ("quantiles", "quantiles_little"):
            row[name] = row[name] and {f"{level:g}": value for level, value in row[name].items()}
        return row

    @staticmethod
    def from_dict(row: dict) -> DetectionError:
        """DataError where the entry is damaged."""
        try:
            tables = {name: row.get(name) for name in ("quantiles", "quantiles_little")}
            tables = {name: t and {float(k): float(v) for k, v in t.items()} for name, t in tables.items()}
            error = DetectionError(**{**row, **tables})
            apply_rule(np.zeros(1), error.rule)
            return error
        except (TypeError, ValueError, AttributeError, DataError) as error:
            raise DataError(f"The area calibration is damaged ({error}): make it again.") from None


# True presence, as a phantom gives it: nothing to find wrong, except what lies between lines.
EXACT = DetectionError("truth", "hard:0.5", 1.0, 0.0, 0.0, 0.0, 0.0)


def apply_rule(presence: np.ndarray, rule: str) -> np.ndarray:
    """What counts as membrane: "soft:0.1" keeps probabilities of at least 0.1, "hard:0.5" counts 1 from 0.5 on."""
    kind, _, at = rule.partition(":")
    if kind not in ("soft", "hard"):
        raise DataError(f'Area rule {rule!r} is unknown: use "soft:FLOOR" or "hard:THRESHOLD".')
    kept = presence >= float(at)
    counted = np.where(kept, presence if kind == "soft" else 1.0, 0.0)
    return np.where(np.isnan(presence), np.nan, counted)


def calibration_row(
    volume: Volume, true: Sequence[np.ndarray], found: Sequence[np.ndarray], grid: Grid | None = None
) -> dict:
    """What calibration needs of one eye. true: bool [width] a scan; found: probability [width] a scan."""
    grid = grid or grid_of(volume, 0.06)
    shares = line_shares(volume, grid)
    true_mm2 = line_sums(volume, [np.asarray(p, np.float64) for p in true], grid, shares).area_mm2
    sums = {r: line_sums(volume, [apply_rule(p, r) for p in found], grid, shares).area_mm2 for r in RULES}
    doubt = line_sums(volume, list(found), grid, shares).uncertain_mm2
    return {"true_mm2": true_mm2, "found_mm2": sums, "doubt_mm2": doubt}


def calibrate(rows: Mapping[str, Sequence[dict]]) -> dict:
    """calibration_row of many eyes per source of presence ("head", "boxes") -> what area_calibration.json holds.

    Eyes without membrane belong among them, in the share in which they are met. DataError with fewer than 20 eyes.
    """
    return {source: _fit(source, list(eyes)).to_dict() for source, eyes in rows.items()}


def load_calibration(source: str | None) -> DetectionError:
    """The shipped error of a source; "truth" has none, an unknown one gets a wide default (n_eyes 0)."""
    if source == EXACT.source:
        return EXACT
    row = _shipped().get(source or "")
    return DetectionError(source or "unknown") if row is None else DetectionError.from_dict(row)


@cache
def _shipped() -> dict:
    file = resources.files("clarion.oct").joinpath(_FILE)
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def _fit(source: str, rows: list[dict]) -> DetectionError:
    if len(rows) < FEWEST_EYES:
        raise DataError(f"{len(rows)} eyes do not calibrate the area of {source!r}: give at least {FEWEST_EYES}.")
    true = np.array([row["true_mm2"] for row in rows])
    doubt = np.array([row["doubt_mm2"] for row in rows])

    def gained(rule: str) -> tuple[np.ndarray, float]:
        found = np.array([row["found_mm2"][rule] for row in rows])
        seen = (true > 1) & (found > 1)
        gain = float(np.exp(np.median(np.log(true[seen] / found[seen])))) if seen.sum() >= FEWEST_EYES // 2 else 1.0
        return found * gain, gain

    # The rule whose areas are nearest on the scale of the interval; the mean of absolute errors forgives rare misses.
    rule = min(RULES, key=lambda r: np.abs(np.sqrt(gained(r)[0]) - np.sqrt(true)).mean())
    found, gain = gained(rule)
    error = np.sqrt(true) - np.sqrt(found)
    large = found >= LITTLE_MM2
    shape = large if large.sum() >= FEWEST_EYES // 2 else np.ones(len(rows), bool)

    def loss(log_parts: np.ndarray) -> float:
        """Negative log-likelihood of Student's t with 4 degrees of freedom: an eye that fails sets no scale."""
        parts = DetectionError(source, rule, gain, *np.exp(log_parts))
        sd = np.maximum(parts.sd_root(found[shape], doubt[shape]), 1e-3)
        return float((np.log(sd) + 2.5 * np.log1p((error[shape] / sd) ** 2 / 4)).sum())

    start = DetectionError(source)
    at = np.log([start.outline, start.relative, start.specks, start.doubt])
    parts = np.exp(minimize(loss, at, method="L-BFGS-B", bounds=[(np.log(1e-3), np.log(3.0))] * 4).x)
    fitted = DetectionError(source, rule, gain, *(float(v) for v in parts))
    ratio = np.abs(error) / fitted.sd_root(found, doubt)
    little = ~large if (~large).sum() >= FEWEST_EYES else None
    nothing = true[found < SMALL_MM2]
    return replace(
        fitted,
        quantiles=_conformal(ratio[large] if large.sum() >= FEWEST_EYES else ratio),
        quantiles_little=_conformal(ratio[little] if little is not None else ratio),
        n_eyes=len(rows),
        missed_mm2=float(np.quantile(nothing, 0.95)) if nothing.size else None,
        n_missed=int(nothing.size),
    )


def _conformal(ratio: np.ndarray) -> dict[float, float]:
    """The k-th smallest of n with k = ceil((n + 1) level) covers a new eye with at least that probability."""
    ratio = np.sort(ratio)
    rank = [min(int(np.ceil((ratio.size + 1) * level)), ratio.size) - 1 for level in LEVELS]
    return {level: max(float(ratio[k]), 1e-3) for level, k in zip(LEVELS, rank, strict=True)}
