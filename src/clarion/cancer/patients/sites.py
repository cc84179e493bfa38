"""Splits by site: whole hospitals train or test, so that nobody is tested by the stain that he was trained on.

Stain, scanner and follow-up differ between the sites of TCGA, and networks recognise them (Howard et al. 2021, Nat
Commun 12, 4423): with patients of one site on both sides a score says too much.
"""

from __future__ import annotations

from collections.abc import Mapping

from clarion.cancer.cohort import Cohort
from clarion.cancer.readers.folds import Plan
from clarion.data.splits import patient_order
from clarion.errors import UsageError


def split_by_site(cohort: Cohort, plan: Plan) -> dict[str, list[str]]:
    """split -> patients, every site in one split: by `plan.fractions`, or fold `plan.fold` of `plan.folds` groups of
    sites as the test. Shares are met as well as whole sites allow. UsageError with too few sites, or unknown ones."""
    people: dict[str, list[str]] = {}
    for patient, site in zip(cohort.patients, cohort.clinical["site"], strict=True):
        people.setdefault(str(site), []).append(patient)
    if unknown := len(people.get("", ())):
        raise UsageError(f"data.by_site=true: the site of {unknown} patient(s) is unknown; add a column site.")
    total = len(cohort)
    if plan.fold is None:
        wanted = {name: share * total for name, share in plan.fractions.items()}
        parts = _shared_out(people, wanted, plan.seed)
        return {name: [p for s in sites for p in people[s]] for name, sites in parts.items()}
    folds = _shared_out(people, {str(k): total / plan.folds for k in range(plan.folds)}, plan.seed)
    test = folds[str(plan.fold)]
    rest = {s: ids for s, ids in people.items() if s not in test}
    left = sum(map(len, rest.values()))
    shares = {"train": (1 - plan.val_fraction) * left, "val": plan.val_fraction * left}
    parts = {**_shared_out(rest, shares, plan.seed), "test": test}
    return {name: [p for s in sites for p in people[s]] for name, sites in parts.items()}


def _shared_out(people: Mapping[str, list[str]], wanted: Mapping[str, float], seed: int) -> dict[str, list[str]]:
    """part -> sites: the largest first, each to the part that lacks most of its share; every part gets one."""
    if len(people) < len(wanted):
        raise UsageError(f"data.by_site=true: {len(people)} site(s) cannot fill {len(wanted)} parts; use fewer folds, "
                         "or splits by patient (data.by_site=false).")  # fmt: skip
    order = {site: k for k, site in enumerate(patient_order(people, seed))}
    queue = sorted(people, key=lambda s: (-len(people[s]), order[s]))
    parts: dict[str, list[str]] = {name: [] for name in wanted}
    held = dict.fromkeys(wanted, 0)
    for place, site in enumerate(queue):
        empty = [name for name in wanted if not parts[name]]
        open_ = empty if len(queue) - place <= len(empty) else list(wanted)
        name = max(open_, key=lambda n: (wanted[n] - held[n]) / wanted[n])
        parts[name].append(site)
        held[name] += len(people[site])
    return parts
