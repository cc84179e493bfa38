"""CliBench's protocol (Ma et al. 2024, github.com/CliBench/CliBench), with its conventions, for comparison only.

An answer is split into bullets; a valid code in a bullet wins, else the title that equals the bullet, else the title
with the most similar sentence embedding, however unlike it is. Cases without a code are skipped. Scores are micro and
mean per-case F1 at each level of the code, and the plain mean over the levels.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

import numpy as np

from clarion.codes.icd10cm import CodeSystem
from clarion.codes.loinc import Loinc
from clarion.codes.scores import CodeSets, System
from clarion.data.cache import build_once
from clarion.evaluators.coding_measures import Ratio, level_ratios, mean

CODE = re.compile(r"[A-Z]\d+\.[A-Za-z0-9]+")  # a dot and digits before it: no H401131, no C4A.0
FEW_BLOCKS = 5  # blank lines up to which an answer is one list with words around it
LABELS = ("(ICD-10-CM Code: )", "(ICD-10-CM code: )", "(ICD-10-CM: )", "ICD-10-CM Code:", "ICD-10-CM code:",
          "ICD-10-CM:", "<sep>")  # fmt: skip
_AT_ONCE = 256  # bullets compared with all titles in one matrix product


def left_out(scored: np.ndarray) -> list[str]:
    """What the protocol leaves out, for the notes of a result."""
    return [
        f"Protocol clibench: {int((~scored).sum())} of {len(scored)} cases without a parsed code are skipped, which "
        "raises every score; the protocol clarion counts them as empty predictions.",
        "Protocol clibench: a predicted code that does not exist is dropped and does not count as wrong; a code "
        "coarser than a level stands for itself there. Intervals, subgroups and the baseline are added to it.",
        "Protocol clibench leaves out distance, exact match, abstention, and negated or past diagnoses.",
    ]


def valid(codes: Sequence[str], system: System) -> list[str]:
    """The codes that exist, once each, in order."""
    return list(dict.fromkeys(found for code in codes if (found := system.normalise(code)) is not None))


def ratios(
    true: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]], system: System, prefix: str = ""
) -> tuple[dict[str, Ratio], dict[str, list[str]]]:
    """(ratios by level, the averages over levels: name -> the ratios whose mean it is)."""
    sets = CodeSets(true, predicted, system)
    found = level_ratios(sets, system.LEVELS[::-1], prefix)
    for level in system.LEVELS:  # a case without true codes has an F1 of 0 there
        name = f"case_{prefix}{level}_f1"
        found[name] = mean(np.nan_to_num(sets.counts(level).f1()), found[name].method)
    averages = {
        f"average_{prefix}{score}": [f"{prefix}{level}_{score}" for level in system.LEVELS]
        for score in ("f1", "precision", "recall")
    }
    return found, averages


def convention(column: str, system: System) -> System | None:
    """The system as the protocol slices it; None for laboratory tests without LOINC's table."""
    if column == "drugs":
        return OffByOneAtc(system)
    if column == "labs":
        return PartsOnly(system) if len(system.LEVELS) > 1 else None
    return system


class OffByOneAtc:
    """ATC levels as published: 1, 2, 3 characters and all but the last one (or, of a substance's code, six), where ATC
    has 1, 3, 4, 5 and 7. Codes are ATC already: the published path from NDC is not taken."""

    LEVELS = ("anatomical", "therapeutic", "pharmacological", "finest")
    _FINEST = {1: 1, 3: 2, 4: 3, 5: 4, 7: 6}

    def __init__(self, atc: System):
        self.name, self.version = f"{atc.name} (as sliced by CliBench)", atc.version
        self.normalise, self.chain, self.suggest, self.unknown = atc.normalise, atc.chain, atc.suggest, atc.unknown

    def at_level(self, code: str, level: str) -> str | None:
        length = self._FINEST[len(code)] if level == "finest" else 1 + self.LEVELS.index(level)
        return code[:length] if len(code) >= length else None


class PartsOnly:
    """LOINC as published: the finest level is the part above the code, not the code."""

    def __init__(self, loinc: Loinc):
        self.name, self.version, self.LEVELS = f"{loinc.name} (as CliBench)", loinc.version, loinc.LEVELS
        self.normalise, self.chain, self.suggest, self.unknown = (
            loinc.normalise, loinc.chain, loinc.suggest, loinc.unknown
        )  # fmt: skip
        self._loinc = loinc

    def at_level(self, code: str, level: str) -> str | None:
        if level != "leaf":
            return self._loinc.at_level(code, level)
        chain = self._loinc.chain(code)
        return chain[1] if len(chain) > 1 else None


# ------------------------------------------------------------------------------------------------ text to codes


def read(
    texts: Sequence[str], system: CodeSystem, scope: str | None, encoder: str | None, notes: list[str]
) -> list[list[str]]:
    """Codes of each answer by the published rules. scope: match phrases with the leaves below this code only."""
    codes = list(system.descendant_leaves(scope) if scope else system.leaves)
    titles = [system.title(code) for code in codes]
    exact: dict[str, str] = {}
    for code, title in zip(codes, titles, strict=True):
        exact.setdefault(_letters(title), code)
    answers = [bullets(text if isinstance(text, str) else "") for text in texts]
    phrases: list[tuple[int, str]] = []
    found: list[list[str]] = [[] for _ in answers]
    for case, points in enumerate(answers):
        for point in points:
            if written := [c for c in CODE.findall(point) if system.normalise(c) == c]:
                found[case].extend(written)
            elif title := exact.get(_letters(words := phrase(point))):
                found[case].append(title)
            else:
                phrases.append((case, words))
    if phrases:
        for (case, _), code in zip(phrases, _nearest([w for _, w in phrases], codes, titles, encoder), strict=True):
            if code is not None:
                found[case].append(code)
    where = f"the {len(codes)} leaves of {scope}" if scope else f"all {len(codes)} leaves"
    notes.append(
        f"Protocol clibench: {len(phrases)} of {sum(map(len, answers))} bullets hold no valid dotted code and no exact "
        f"title, and take the most similar title of {where} whatever its likeness, a disclaimer's words too; published "
        "were the titles of MIMIC-IV's list."
    )
    return found


def bullets(text: str) -> list[str]:
    """The points of an answer. Of an answer in up to five blocks the first is the list if it begins like one, else
    the second; more blocks are a point each; else lines, <br>, or numbered items in one line."""
    if "\n\n" in text and text.strip():
        blocks = text.split("\n\n")
        if len(blocks) - 1 > FEW_BLOCKS:
            points = blocks
        else:
            first = text.strip()[0]
            points = blocks[0 if first.isdigit() or first in "\u2022-*o" else 1].split("\n")
    elif "\n" in text:
        points = text.split("\n")
    else:
        points = text.split("<br>") if "<br>" in text else []
    if not points:
        points = re.findall(r"\d+\.\s(.+?)(?=\d+\.|\Z)", text, flags=re.DOTALL)
    return [point for point in points if point]


def phrase(point: str) -> str:
    """A point's words: without its number, codes and the labels of codes."""
    if point[0].isdigit():
        numbered = re.search(r"\d+\.\s*(.+)", point)
        point = numbered[1] if numbered else ""
    for code in CODE.findall(point):
        for written in (f"({code})", f"[{code}]", code):
            point = point.replace(written, "").strip()
    for label in LABELS:
        point = point.replace(label, "")
    return point.strip()


def _letters(text: str) -> str:
    return text.lower().replace(" ", "")


def _nearest(phrases: Sequence[str], codes: Sequence[str], titles: Sequence[str], where: str | None) -> list:
    """The code of the most similar title for each phrase; None where even that cosine is negative."""
    from clarion.evaluators.text_embedding import Encoder

    encoder = Encoder(where)
    name = hashlib.sha256("\n".join([encoder.signature, str(where), *titles]).encode()).hexdigest()[:16]
    folder = build_once(f"titles-{name}", lambda path: np.save(path / "titles.npy", encoder(titles).astype(np.float32)))
    pool = np.load(folder / "titles.npy", allow_pickle=False)
    unique, place = np.unique(np.array(phrases, dtype=object), return_inverse=True)
    vectors = encoder(list(unique)).astype(np.float32)
    best: list[str | None] = []
    for start in range(0, len(vectors), _AT_ONCE):
        cosine = vectors[start : start + _AT_ONCE] @ pool.T
        best += [codes[k] if row[k] >= 0 else None for row, k in zip(cosine, cosine.argmax(1), strict=True)]
    return [best[k] for k in place]
