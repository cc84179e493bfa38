"""Which condition a generated case has, and in which split: what makes the two tests what they claim to be.

Conditions are cut first: a share of those in each category is held out, whole, so that neither a code nor its other
eye, lid or stage is met in training. Of the rest, a case of "seen" may only have codes that training cases have.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clarion.llm.cases.knowledge import Condition, Leaf, conditions, vocabulary

HELD_OUT = 0.22  # of the conditions of a category that has two or more
COMPANION = 0.35  # of the cases have a second diagnosis
_LENS = ("H25", "H26", "H27", "H28")  # one state of the lens at a time
_PLAIN = ("good", "mid", "poor")  # acuities that leave room for a second diagnosis


@dataclass(frozen=True)
class Slot:
    """A case to be written: its leaves (the leading one first)."""

    case_id: str
    split: str
    diagnoses: str  # "seen" | "unseen"
    leaves: tuple[Leaf, ...]


def stream(*parts: object) -> np.random.Generator:
    """Random numbers from the named parts alone: adding cases leaves those already drawn as they are."""
    digest = hashlib.blake2b("\0".join(map(str, parts)).encode(), digest_size=8).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))


def cut(seed: int, most: int | None = None) -> tuple[list[Condition], list[Condition]]:
    """(trained, held out). most: use that many conditions only, taking turns over the categories."""
    groups: dict[str, list[Condition]] = {}
    for condition in conditions().values():
        groups.setdefault(condition.category, []).append(condition)
    for members in groups.values():
        members.sort(key=lambda c: hashlib.blake2b(f"{seed}\0{c.key}".encode()).digest())
    if most is not None:
        groups = _some(groups, most)
    trained, held = [], []
    for members in groups.values():
        count = max(1, round(HELD_OUT * len(members))) if len(members) > 1 else 0
        held += members[:count]
        trained += members[count:]
    return trained, held


def _some(groups: dict[str, list[Condition]], most: int) -> dict[str, list[Condition]]:
    """`most` conditions in pairs from the largest categories on, so that some can be held out beside a relative."""
    kept: dict[str, list[Condition]] = {}
    left = most
    ordered = sorted(groups, key=lambda name: (-len(groups[name]), name))
    for depth in range(0, max(map(len, groups.values())), 2):
        for name in ordered:
            taken = groups[name][depth : depth + 2][:left]
            if taken:
                kept.setdefault(name, []).extend(taken)
                left -= len(taken)
    return kept


def draw_slots(sizes: dict[str, int], seed: int, most: int | None = None) -> dict[str, list[Slot]]:
    """split -> slots. The test holds seen and unseen diagnoses in equal parts (the odd one is seen).

    Training goes through all its leaves in a drawn order, again and again, so that none is rare by chance."""
    trained, held = cut(seed, most)
    slots: dict[str, list[Slot]] = {}
    leaves = [leaf for condition in trained for leaf in condition.leaves]
    slots["train"] = _fill("train", "seen", sizes["train"], leaves, trained, seed)
    met = {leaf.code for slot in slots["train"] for leaf in slot.leaves}
    leaves = [leaf for leaf in leaves if leaf.code in met]
    slots["val"] = _fill("val", "seen", sizes["val"], leaves, trained, seed, met)
    unseen = [leaf for condition in held for leaf in condition.leaves]
    half = sizes["test"] - sizes["test"] // 2
    slots["test"] = _fill("test", "seen", half, leaves, trained, seed, met)
    slots["test"] += _fill("test", "unseen", sizes["test"] // 2, unseen, held, seed)
    return slots


def _fill(
    split: str,
    diagnoses: str,
    count: int,
    leaves: Sequence[Leaf],
    pool: Sequence[Condition],
    seed: int,
    allowed: set[str] | None = None,
) -> list[Slot]:
    rng = stream("slots", seed, split, diagnoses)
    order: list[int] = []
    while len(order) < count:
        order += rng.permutation(len(leaves)).tolist()
    slots = []
    for number, index in enumerate(order[:count]):
        case_id = f"{split}-{diagnoses}-{number:05d}"
        first = leaves[index]
        second = _companion(first, pool, stream("companion", seed, case_id), allowed)
        slots.append(Slot(case_id, split, diagnoses, (first, *([second] if second else []))))
    return slots


def age_range(leaves: Sequence[Leaf]) -> tuple[int, int]:
    """The ages (years) at which all of these occur; low > high where there is none."""
    found = [conditions()[leaf.condition].ages for leaf in leaves]
    return max(low for low, _ in found), min(high for _, high in found)


def _companion(
    first: Leaf, pool: Sequence[Condition], rng: np.random.Generator, allowed: set[str] | None
) -> Leaf | None:
    """A second diagnosis that fits the first one in age and structure, or None."""
    lead = conditions()[first.condition]
    if rng.random() >= COMPANION or lead.acuity not in _PLAIN:
        return None
    keys = set(vocabulary()["companions"])
    fitting = []
    for other in pool:
        if other.key not in keys or other.category == lead.category:
            continue
        if lead.category in _LENS and other.category in _LENS:
            continue
        low, high = max(lead.ages[0], other.ages[0]), min(lead.ages[1], other.ages[1])
        if high - low >= 5:
            fitting += [leaf for leaf in other.leaves if allowed is None or leaf.code in allowed]
    return fitting[int(rng.integers(len(fitting)))] if fitting else None
