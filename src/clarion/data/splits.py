"""Patient-level splits: every patient, with all samples, is in one split only.

Patients are ordered by a hash of (seed, patient id) and the order is cut by the wanted shares. The
result depends on nothing but the seed and the set of patients: not on file order, sample counts or the
machine. When patients are added, those already there keep their order, so only patients next to a cut can
change sides (with 10 % new patients, at most about 10 % of the cut's width); a frozen split belongs into the
`split` column of samples.csv or into split folders. Subsets are nested: the half of train contains the quarter.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping

from clarion.data.paths import nfc
from clarion.errors import UsageError


def patient_order(patients: Iterable[str], seed: int) -> list[str]:
    """Patients (each once) in an order that looks random and depends only on `seed` and the id."""
    return sorted(set(patients), key=lambda p: (hashlib.blake2b(f"{seed}\0{nfc(p)}".encode()).digest(), p))


def split_patients(
    patients: Iterable[str],
    fractions: Mapping[str, float],
    seed: int,
    strata: Mapping[str, object] | None = None,
) -> dict[str, list[str]]:
    """Cut patients into named splits.

    fractions: name -> share in (0, 1]; the shares must sum to 1. strata: patient -> stratum (such as the
    stage); each stratum is then shared out alike, rounding errors carried on to the next one.
    Every split gets at least one patient; UsageError when there are fewer patients than splits."""
    names = list(fractions)
    if not names or any(not 0 < fractions[n] <= 1 for n in names) or abs(sum(fractions.values()) - 1) > 1e-6:
        raise UsageError(f"split fractions must be positive and sum to 1, got {dict(fractions)}.")
    order = patient_order(patients, seed)
    if len(order) < len(names):
        raise UsageError(
            f"{len(order)} patient(s) cannot fill {len(names)} splits ({', '.join(names)}); "
            "give more patients, or splits of your own in folders or in the `split` column of samples.csv."
        )
    # Patients of one stratum stand together; patient i of N goes where the running share says, so that each
    # run of consecutive patients (each stratum) is shared out in proportion and the totals are exact.
    order = _by_stratum(order, strata)
    total = len(order)
    wanted = _whole_shares(total, [fractions[n] for n in names])
    given = [0] * len(names)
    result: dict[str, list[str]] = {name: [] for name in names}
    if strata is None:
        start = 0
        for name, count in zip(names, wanted, strict=True):
            result[name] = order[start : start + count]
            start += count
        return result
    for position, patient in enumerate(order, start=1):
        lag = [wanted[k] * position / total - given[k] if given[k] < wanted[k] else -1e9 for k in range(len(names))]
        best = max(range(len(names)), key=lambda k: lag[k])
        given[best] += 1
        result[names[best]].append(patient)
    return result


def fold_patients(
    patients: Iterable[str], folds: int, seed: int, strata: Mapping[str, object] | None = None
) -> list[list[str]]:
    """Patients in `folds` disjoint parts whose sizes differ by at most one (stratified when `strata` is given)."""
    order = _by_stratum(patient_order(patients, seed), strata)
    if not 2 <= folds <= len(order):
        raise UsageError(f"data.folds={folds} must lie between 2 and the number of patients ({len(order)}).")
    return [order[k::folds] for k in range(folds)]


def split_hash(splits: Mapping[str, Iterable[str]]) -> str:
    """Hex digest of which sample is in which split; independent of order."""
    canonical = json.dumps({name: sorted(ids) for name, ids in splits.items()}, sort_keys=True, ensure_ascii=False)
    return hashlib.blake2b(canonical.encode(), digest_size=16).hexdigest()


def patients_in_two_splits(splits: Mapping[str, Iterable[str]], patient_of: Mapping[str, str]) -> dict[str, list[str]]:
    """patient id -> the splits it is in, for patients in more than one. patient_of: sample id -> patient id."""
    where: dict[str, dict[str, None]] = defaultdict(dict)
    for name, ids in splits.items():
        for sample_id in ids:
            where[patient_of[sample_id]][name] = None
    return {patient: list(names) for patient, names in sorted(where.items()) if len(names) > 1}


def _by_stratum(order: list[str], strata: Mapping[str, object] | None) -> list[str]:
    return order if strata is None else sorted(order, key=lambda p: str(strata[p]))  # sorted is stable


def _whole_shares(total: int, fractions: list[float]) -> list[int]:
    """Largest remainder; then every part at least one, taken from the largest."""
    exact = [total * f for f in fractions]
    counts = [int(x + 1e-9) for x in exact]
    for k in sorted(range(len(exact)), key=lambda k: (counts[k] - exact[k], k))[: total - sum(counts)]:
        counts[k] += 1
    while 0 in counts:
        counts[counts.index(max(counts))] -= 1
        counts[counts.index(0)] += 1
    return counts
