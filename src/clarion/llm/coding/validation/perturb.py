"""Titles as clinicians write them: eye abbreviations, other word order, shorthand, wrong letters, other words."""

from __future__ import annotations

import random
import re

KINDS = ("eyes", "order", "shorthand", "typo", "words")

# Shorthand and plain words that the lexicon does not hold, so that the rules alone cannot expand them.
_SHORTHAND = (
    ("degeneration", "degen"), ("inflammation", "inflamm"), ("secondary", "2ndary"), ("chronic", "chr"),
    ("acute", "ac"), ("anterior", "ant"), ("posterior", "post"), ("peripheral", "periph"), ("unspecified", "unsp"),
    ("disorders", "d/o"), ("syndrome", "synd"), ("congenital", "congen"), ("traumatic", "traum"), ("hemorrhage",
    "hemorrh"),
    ("detachment", "detach"), ("conjunctivitis", "conjxvitis"), ("stage", "stg"), ("with", "w/"), ("without", "w/o"),
    ("glaucoma", "glauc"), ("cataract", "cat"), ("moderate", "mod"), ("nonexudative", "nonexud"), ("exudative", "exud"),
)  # fmt: skip
_OTHER_WORDS = (
    ("hemorrhage", "bleeding"), ("edema", "swelling"), ("eyelid", "lid"), ("opacity", "clouding"), ("opacities",
    "clouding"),
    ("degeneration", "deterioration"), ("atrophy", "wasting"), ("occlusion", "blockage"), ("stenosis", "narrowing"),
    ("detachment", "separation"), ("age-related", "senile"), ("neovascularization", "new vessels"), ("ulcer",
    "ulceration"),
    ("inflammation", "inflammatory change"), ("foreign body", "embedded object"), ("secondary to", "caused by"),
    ("bilateral", "both eyes"), ("severe stage", "advanced"), ("mild stage", "early"), ("disorders", "diseases"),
    ("unspecified", "not specified"), ("rupture", "tear"), ("dislocation", "displacement"), ("retained", "residual"),
    ("infantile and juvenile", "childhood"), ("injury", "trauma"), ("cyst", "fluid-filled lump"), ("vision", "sight"),
)  # fmt: skip


def perturb(title: str, kind: str, draw: random.Random) -> str:
    """The title changed in one way; the title itself where this way does not apply to it."""
    return {"eyes": _eyes, "order": _order, "shorthand": _shorthand, "typo": _typo, "words": _words}[kind](title, draw)


def _eyes(title: str, draw: random.Random) -> str:
    """right eye -> OD or RE, left eye -> OS or LE, bilateral -> OU."""
    for name, short in (
        ("right eye", ("OD", "o.d.", "RE")),
        ("left eye", ("OS", "o.s.", "LE")),
        ("bilateral", ("OU", "both eyes")),
    ):
        title = re.sub(name, draw.choice(short), title, flags=re.IGNORECASE)
    return title


def _order(title: str, draw: random.Random) -> str:
    """The eye first, or the head noun first as an index has it: "glaucoma, primary open-angle, right eye"."""
    parts = [p.strip() for p in title.split(",")]
    if len(parts) > 1 and draw.random() < 0.5:
        return ", ".join([*parts[1:], parts[0]])
    words = parts[0].split()
    if len(words) > 1:
        parts[0] = f"{words[-1]}, {' '.join(words[:-1])}"
    return ", ".join(parts)


def _shorthand(title: str, draw: random.Random) -> str:
    for name, short in _SHORTHAND:
        title = re.sub(rf"\b{name}\b", short, title, flags=re.IGNORECASE)
    return _eyes(title, draw)


def _typo(title: str, draw: random.Random) -> str:
    """Two letters of one long word exchanged."""
    words = title.split()
    long = [k for k, w in enumerate(words) if len(w) >= 7 and w.isalpha()]
    if not long:
        return title
    k = draw.choice(long)
    at = draw.randrange(1, len(words[k]) - 2)
    word = words[k]
    words[k] = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    return " ".join(words)


def _words(title: str, draw: random.Random) -> str:
    for name, other in _OTHER_WORDS:
        title = re.sub(rf"\b{name}\b", other, title, flags=re.IGNORECASE)
    return title
