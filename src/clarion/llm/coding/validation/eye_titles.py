"""Does every eye leaf's title, as it stands and as it is written in clinics, map to its own code?

`clarion measure eye_titles titles|perturbed`. Three coders on the same texts: rules, rules and embedding, and what is
usual without rules: the nearest of all 2,677 titles by the cosine of MiniLM embeddings, whatever the cosine.
"""

from __future__ import annotations

import hashlib
import random
from typing import Any

import numpy as np

from clarion.data.cache import build_once
from clarion.errors import UsageError
from clarion.evaluators.bootstrap import Interval, bootstrap, wilson
from clarion.llm.coding.coder import TextCoder
from clarion.llm.coding.validation.perturb import KINDS, perturb

CHAPTER = "7"
CODERS = ("rules", "rules + embedding", "cosine alone")
_HEAD = ["text", "coder", "n", "own leaf", "low", "high", "own category", "no code", "wrong code"]


def measure(leaves: int | None = None, seed: int = 0) -> dict[str, Any]:
    """All leaf titles as they stand (leaves: a random part of them)."""
    rules, both = TextCoder(embedding=False), TextCoder()
    codes = _leaves(rules, leaves, seed)
    texts = [rules.system.title(c) for c in codes]
    rows, figures = _compare("title", texts, codes, rules, both, seed)
    return _table("titles", "Titles of all eye leaves", rows, figures, len(codes))


def measure_perturbed(leaves: int | None = 200, seed: int = 0) -> dict[str, Any]:
    """Titles changed in five ways; of each way only those that it changes."""
    rules, both = TextCoder(embedding=False), TextCoder()
    rows: list[list[Any]] = []
    figures: dict[str, Any] = {}
    total = 0
    for number, kind in enumerate(KINDS):
        draw = random.Random(f"{seed} {kind}")
        pairs = [(c, rules.system.title(c)) for c in _leaves(rules, None, seed + number)]
        changed = [(c, text) for c, title in pairs if (text := perturb(title, kind, draw)) != title][:leaves]
        more, some = _compare(kind, [t for _, t in changed], [c for c, _ in changed], rules, both, seed)
        rows, figures, total = rows + more, figures | some, total + len(changed)
    return _table("perturbed", "Titles of eye leaves as clinics write them", rows, figures, total)


def _table(part: str, title: str, rows: list[list[Any]], figures: dict[str, Any], n: int) -> dict[str, Any]:
    return {
        "part": part,
        "title": title,
        "columns": _HEAD,
        "rows": rows,
        "notes": [
            "own leaf: the coder gives exactly this one code; own category: its only code lies in the same "
            "three-character "
            "category; wrong code: a code outside it. Intervals by bootstrap over the 40 categories (Wilson where all "
            "agree).",
            "cosine alone: the nearest of the 2,677 titles by MiniLM, no threshold. The perturbations and the lexicon "
            "have one "
            "author; shorthand and words are chosen to be none of the lexicon's terms as phrases.",
        ],
        "n": n,
        "data": "public",
        "figures": figures,
    }


def _leaves(coder: TextCoder, n: int | None, seed: int) -> list[str]:
    codes = list(coder.system.descendant_leaves(CHAPTER))
    if n is not None and n < 1:
        raise UsageError(f"leaves={n}: at least one.")
    random.Random(seed).shuffle(codes)
    return codes if n is None else codes[:n]


def _compare(kind: str, texts: list[str], codes: list[str], rules: TextCoder, both: TextCoder, seed: int):
    given = {
        "rules": [[c.code for c in r.codes] for r in rules.batch(texts)],
        "rules + embedding": [[c.code for c in r.codes] for r in both.batch(texts)],
        "cosine alone": [[c] for c in nearest_titles(both, texts)],
    }
    rows, figures = [], {}
    groups = [c[:3] for c in codes]
    for name in CODERS:
        answers = given[name]
        own = np.array([a == [c] for a, c in zip(answers, codes, strict=True)], float)
        category = np.array(
            [len(a) > 0 and {x[:3] for x in a} == {c[:3]} for a, c in zip(answers, codes, strict=True)], float
        )
        none = np.array([not a for a in answers], float)
        wrong = (category + none) == 0
        interval = _share(own, groups, seed)
        rows.append(
            [
                kind,
                name,
                len(codes),
                interval.value,
                interval.low,
                interval.high,
                category.mean(),
                none.mean(),
                wrong.mean(),
            ]
        )
        figures[f"{kind}, {name}"] = {
            "value": interval.value,
            "low": interval.low,
            "high": interval.high,
            "n": len(codes),
        }
    return rows, figures  # fmt: skip


def _share(hits: np.ndarray, groups: list[str], seed: int) -> Interval:
    found = bootstrap(lambda w: (w @ hits) / np.maximum(w.sum(1), 1e-12), groups, n_resamples=1000, seed=seed)
    return found if found.low is not None else wilson(float(hits.sum()), len(hits))


def nearest_titles(coder: TextCoder, texts: list[str]) -> list[str]:
    """The leaf of the nearest title of each text, by cosine alone: the usual baseline, without rules or threshold."""
    codes = list(coder.system.descendant_leaves(CHAPTER))
    encoder = coder.index.encoder
    vectors = title_vectors([coder.system.title(c) for c in codes], encoder)
    return [codes[k] for k in (np.asarray(encoder(texts), np.float32) @ vectors.T).argmax(1)]


def title_vectors(titles: list[str], encoder: Any) -> np.ndarray:
    """Unit vectors [titles, d] float32, kept in the cache by content."""
    digest = hashlib.sha256("\n".join([encoder.signature, *titles]).encode()).hexdigest()[:16]
    path = build_once(
        f"icd-titles-{digest}", lambda f: np.save(f / "vectors.npy", np.asarray(encoder(titles), np.float32))
    )
    return np.load(path / "vectors.npy", allow_pickle=False)
