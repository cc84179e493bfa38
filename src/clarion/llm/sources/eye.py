"""Is a text about eyes? Words and MeSH headings of ophthalmology, for question sets that have no subject column."""

from __future__ import annotations

import re
from collections.abc import Iterable

# Stems of words that occur in ophthalmology and hardly anywhere else. "lens", "pupil", "iris", "fundus" alone are not
# (contact, school, name, stomach), nor is "vision" (of an institution).
_STEMS = (
    "ophthalm", "ocular", "intraocul", "retinas?\\b", "retinal", "retinitis", "retino(?:path|blast|sch|sco)",
    "maculae?\\b", "macular", "maculopath", "cornea", "kerato(?:con|plast|pros|refract|metr)",
    "keratitis", "conjunctiv", "glaucom", "cataract", "uvea", "uveitis", "choroid(?! plexus)", "vitre(?:a|o|ct)",
    "optic (?:nerve|disc)", "optic neur", "strabism", "amblyop", "nystagm", "eyelid", "eyelash", "blephar",
    "trachoma", "pterygi", "myopi", "hyperop", "astigmat", "presbyop", "refractive error", "excimer", "lacrim",
    "dacryo", "scler(?:al|itis)", "papilled",
    "vis(?:ual|ion) (?:acuit|field|loss|impair)", "visually impair", "blindness", "mydria", "cyclopleg",
    "intraocular lens", "pupil(?:lary| size| diam)", "oculo", "trabecul(?:ec|ar mesh)", "phacoemul", "exophthalm",
    "eye (?:care|disease|exam|movement|drop|surg|injur)", "eye-tracking",
)  # fmt: skip
EYE_WORDS = re.compile(
    r"\b(?:" + "|".join(_STEMS).replace(" ", r"\s+") + r"|eyes?\b|orbital (?:cellulitis|fracture))", re.I
)

# Headings (and beginnings of headings) below MeSH C11 "Eye Diseases", A09.371 "Eye" and the examinations of the eye.
_HEADINGS = (
    "eye", "ophthalm", "optometry", "retin(?:a\\b|al|itis|o(?:path|blast|sch|sco))", "macula", "cornea",
    "kerat(?:itis|oconus)", "conjunctiv", "glaucoma", "cataract", "uve", "choroid(?! plexus)", "vitre", "optic ",
    "strabismus", "amblyopia", "nystagmus", "blindness", "vision", "visual acuity", "visual field", "visually impaired",
    "lens, crystalline", "lenses, intraocular", "iris\\b", "pupil\\b", "intraocular pressure", "anterior chamber",
    "pterygium", "myopia", "hyperopia", "astigmatism", "refractive", "refraction, ocular", "mydriatics",
    "fixation, ocular", "ocular", "lacrimal", "diabetic retinopathy", "geographic atrophy", "wet macular",
    "exfoliation syndrome", "bowman membrane", "contrast sensitivity", "dark adaptation",
)  # fmt: skip
EYE_HEADING = re.compile(r"^(?:" + "|".join(_HEADINGS) + ")", re.I)


def about_eyes(title: str, text: str = "", headings: Iterable[str] = (), mentions: int = 5) -> bool:
    """A word of ophthalmology in the title (or question), a MeSH heading of it, or `mentions` of such words in the
    text: one mention in passing ("age, sex, retinopathy") does not make an abstract one about eyes.

    Measured: the same 23 of PubMedQA-L's 1,000 as the published eye subset (title and headings); 46 of MedMCQA dev's 58
    questions of the subject Ophthalmology and 63 others of 4,125; 631 of MedQuAD's 1,045 eye answers (its list holds
    every disease with an eye sign among others)."""
    if EYE_WORDS.search(title) or any(EYE_HEADING.match(h.strip()) for h in headings):
        return True
    return bool(text) and sum(1 for _ in EYE_WORDS.finditer(text)) >= mentions
