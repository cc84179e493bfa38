"""What the generator of case reports knows: conditions with their codes, signs and plans, read from the YAML beside it.

The clinical content is a writer's summary of textbook presentations for making test data with known codes. It is no
guideline. Every code is looked up in the installed ICD-10-CM table when the knowledge is read.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from importlib import resources
from typing import Any

import yaml

from clarion.codes.icd10cm import icd10cm

KNOWLEDGE_VERSION = "1"  # part of the fingerprint: raise it when a condition, word, layout or rule changes
EYES = {"1": "OD", "2": "OS", "3": "OU"}
LIDS = {"1": ("OD", "upper"), "2": ("OD", "lower"), "4": ("OS", "upper"), "5": ("OS", "lower")}


@dataclass(frozen=True)
class Leaf:
    """One ICD-10-CM leaf of a condition: its eye (OD | OS | OU | None), lid (digit of LIDS) and stage (digit)."""

    condition: str
    code: str
    title: str
    eye: str | None = None
    lid: str = ""
    stage: str = ""


@dataclass(frozen=True)
class Condition:
    """A condition of the eye. names, signs: {"en": [...], "ko": [...]}; leaves: its codes, by eye, lid and stage."""

    key: str
    pattern: str
    names: dict[str, list[str]]
    signs: dict[str, list[str]]
    title: str  # of the code that all its leaves share
    root: str  # that code
    acuity: str
    ages: tuple[int, int]
    sex: str | None = None
    symptoms: tuple[str, ...] = ()
    measures: tuple[str, ...] = ()
    labs: tuple[str, ...] = ()
    plan: tuple[str, ...] = ()
    stages: dict[str, Any] = field(default_factory=dict)
    leaves: tuple[Leaf, ...] = ()

    @property
    def category(self) -> str:
        """The three-character category, "H40"."""
        return self.pattern[:3]


def _read(path: Any) -> dict[str, Any]:
    return yaml.load(path.read_text(encoding="utf-8"), yaml.CSafeLoader)


@lru_cache(maxsize=1)
def vocabulary() -> dict[str, Any]:
    """Symptoms, measures, labs, stages, plans, mentions and companions (vocabulary.yaml)."""
    return _read(resources.files(__package__) / "vocabulary.yaml")


@lru_cache(maxsize=1)
def conditions() -> dict[str, Condition]:
    """key -> Condition, in the order of the chapter."""
    folder = resources.files(__package__) / "conditions"
    raw: dict[str, Any] = {}
    for path in folder.iterdir():
        if path.name.endswith(".yaml"):
            raw |= _read(path)
    built = {key: _condition(key, entry) for key, entry in raw.items()}
    return dict(sorted(built.items(), key=lambda pair: (pair[1].pattern, pair[0])))


def known_prefix(code: str) -> str:
    """The longest existing code that `code` begins with ("H40.3" of "H40.3" + "1X1")."""
    system = icd10cm()
    while code and not system.normalise(code):
        code = code[:-1]
    return system.normalise(code) or ""


def _condition(key: str, entry: dict[str, Any]) -> Condition:
    pattern = entry["code"]
    stages = vocabulary()["stages"][entry["stages"]] if "stages" in entry else {}
    root = known_prefix(pattern.split("{")[0].rstrip("."))
    return Condition(
        key=key,
        pattern=pattern,
        names={"en": entry["en"], "ko": entry["ko"]},
        signs={"en": entry["signs"], "ko": entry["signs_ko"]},
        title=icd10cm().title(root),
        root=root,
        acuity=entry["va"],
        ages=tuple(entry["age"]),
        sex=entry.get("sex"),
        stages=stages,
        leaves=tuple(_leaves(key, pattern, stages)),
        **{name: tuple(entry.get(name, ())) for name in ("symptoms", "measures", "labs", "plan")},
    )


def _leaves(key: str, pattern: str, stages: dict[str, Any]) -> list[Leaf]:
    system = icd10cm()
    sides = [("", None, "")]
    if "{eye}" in pattern:
        sides = [(digit, eye, "") for digit, eye in EYES.items()]
    elif "{lid}" in pattern:
        sides = [(digit, eye, digit) for digit, (eye, _) in LIDS.items()]
    found = []
    for digit, eye, lid in sides:
        for stage in stages or [""]:
            code = system.normalise(pattern.format(eye=digit, lid=digit, stage=stage))
            if code and system.is_leaf(code):  # some conditions have no code for both eyes
                found.append(Leaf(key, code, system.title(code), eye, lid, stage))
    return found
