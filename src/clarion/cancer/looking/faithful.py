"""Is a map true? Tiles taken away in its order must change the risk more than tiles taken at random; and where it is
known what drives the outcome, the map's peak must lie on it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from clarion.cancer.looking.canvas import lay_out
from clarion.cancer.looking.maps import MAPS, PatientMaps, risks
from clarion.evaluators.bootstrap import bootstrap

SHARES = (0.05, 0.1, 0.2, 0.4)  # of a patient's tiles
DRAWS = 20  # random orders a patient


def curves(module: Any, maps: PatientMaps, seed: int = 0, draws: int = DRAWS) -> dict[str, dict[str, np.ndarray]]:
    """{"deletion" | "insertion": {order: float [len(SHARES)]}} of one patient; orders: those of `maps.scores()`, and
    "random" (mean over `draws`).

    deletion: |change of the risk| without the first tiles (Samek et al. 2017, IEEE TNNLS 28:2660): larger is truer.
    insertion: |difference from the risk| of those tiles alone: smaller is truer."""
    n = len(maps.bag)
    counts = [min(n - 1, max(1, round(share * n))) for share in SHARES]
    rng = np.random.default_rng([seed, *maps.sample_id.encode()])
    orders = {name: [np.argsort(-score, kind="stable")] for name, score in maps.scores().items()}
    orders["random"] = [rng.permutation(n) for _ in range(draws)]
    masks, index = [], []
    for name, several in orders.items():
        for order in several:
            for place, count in enumerate(counts):
                chosen = np.zeros(n, bool)
                chosen[order[:count]] = True
                masks += [~chosen, chosen]
                index.append((name, place, len(several)))
    change = np.abs(risks(module, maps.features, np.array(masks)) - maps.risk)
    found = {way: {name: np.zeros(len(counts)) for name in orders} for way in ("deletion", "insertion")}
    for k, (name, place, several) in enumerate(index):
        found["deletion"][name][place] += change[2 * k] / several
        found["insertion"][name][place] += change[2 * k + 1] / several
    return found


def faithfulness(
    found: Mapping[str, Mapping[str, Mapping[str, np.ndarray]]], seed: int = 0, n_resamples: int = 1000
) -> dict[str, Any] | None:
    """found: sample id -> `curves` of a patient. Mean curves, and the gain of each order over random ones: mean over
    SHARES of (order - random) of deletion and (random - order) of insertion, above 0 where the order is truer than
    chance, with its interval over patients. None where nobody is left."""
    ids = list(found)
    if not ids:
        return None
    result: dict[str, Any] = {"n": len(ids), "shares": list(SHARES), "draws": DRAWS}
    for way, sign in (("deletion", 1), ("insertion", -1)):
        orders = {name: np.stack([found[p][way][name] for p in ids]) for name in found[ids[0]][way]}
        result[way] = {}
        for name, values in orders.items():
            result[way][name] = {"curve": values.mean(0).tolist()}
            if name != "random":
                gain = sign * (values - orders["random"]).mean(1)
                result[way][name]["gain"] = _mean(gain, ids, seed, n_resamples)
    return result


def points(maps: PatientMaps, planted: Callable[[str, int], Any]) -> list[dict[str, Any]]:
    """Of each slide of a patient: {"sample_id", "chance", map: {"hit", "mass"}}, see `pointing`."""
    rows = []
    for number in range(len(maps.bag.slides)):
        if not (maps.bag.places[:, 0] == number).any():
            continue
        truth, row = planted(maps.sample_id, maps.bag.slides[number].number), {"sample_id": maps.sample_id}
        for name in MAPS:
            canvas = lay_out(maps, name, number)
            x, y, value = canvas.centres()
            on, total = truth.hit(x, y), float(np.abs(value).sum())
            hit = bool(truth.hit(*(np.array([v]) for v in canvas.peak))[0])
            row[name] = {"hit": hit, "mass": float(np.abs(value)[on].sum()) / total if total else 0.0}
            row["chance"] = float(on.mean())
        rows.append(row)
    return rows


def pointing(rows: Sequence[Mapping[str, Any]], seed: int = 0, n_resamples: int = 1000) -> dict[str, Any] | None:
    """Pointing game (Zhang et al. 2018, IJCV 126:1084) over the slides of `points`: how often the peak of each map lies
    on tissue that drives the outcome (no tolerance), beside chance: the share of the cells that tiles cover which lie
    on such tissue. mass: share of the map's |values| on it. Intervals: bootstrap over patients. None without slides."""
    if not rows:
        return None
    ids = [row["sample_id"] for row in rows]

    def mean(values: Sequence[float]) -> Mapping[str, Any]:
        return _mean(np.asarray(values, float), ids, seed, n_resamples)

    return {
        "slides": len(rows),
        "patients": len(set(ids)),
        "chance": mean([row["chance"] for row in rows]),
        "maps": {name: {key: mean([row[name][own] for row in rows]) for key, own in (("hits", "hit"), ("mass", "mass"))}
                 for name in MAPS},
    }  # fmt: skip


def _mean(values: np.ndarray, groups: Sequence[str], seed: int, n_resamples: int) -> Mapping[str, Any]:
    found = bootstrap(lambda w: w @ values / w.sum(1), groups, n_resamples, seed)
    return {"value": found.value, "low": found.low, "high": found.high, "note": found.note}
