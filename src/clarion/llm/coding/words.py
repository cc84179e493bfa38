"""A note as a stream of normalised words that know their place in it.

"Wet AMD OS" becomes wet age related macular degeneration left eye: abbreviations, Korean terms and eye codes are
expanded in the stream, so that one form of a phrase matches all its spellings, and every word keeps the characters it
came from. Titles and notes go through the same function.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

import ahocorasick

_WORD = re.compile(
    r"(?<![A-Za-z])[Oo]\.\s?[DdSsUu]\.?(?![A-Za-z])"  # o.d.
    r"|[A-Za-z\u00c0-\u024f]+(?:['’]s\b)?|\d+(?:\.\d+)?|[\uac00-\ud7a3]+"
)
_SENTENCE = re.compile(r"[.!?。](?=\s|$)\s*|[\n\r]+|;\s*|\s[•▪]\s?")
_BREAK = re.compile(r"[,:(/|\u3001]|\s[-–—]\s")
_EYES = {"d": ("right", "eye"), "s": ("left", "eye"), "u": ("bilateral",)}
_DOSE = re.compile(
    r"(?:\d\s*(?:mg|ml|mcg|g|drops?|gtts?|tabs?|caps?|iu|%)|po|tid|qid|bid|drops?|tabs?)\s*$", re.IGNORECASE
)
_PREFIXES = frozenset("non pseudo micro retro vitreo chorio kerato irido hyper hypo neo sub pre intra".split())
LONGEST_SENTENCE = 120  # words; a longer one is read in parts, so that the work on a note grows with its length alone
SKIPPED = frozenset("of the a an in to due on at for by nos".split())  # no part of a phrase that is matched
_AMERICAN = {
    "haemorrhage": "hemorrhage", "haemorrhagic": "hemorrhagic", "oedema": "edema", "oedematous": "edema",
    "tumour": "tumor", "neovascularisation": "neovascularization", "anaemia": "anemia", "haemangioma": "hemangioma",
    "ischaemic": "ischemic", "uveitic": "uveitis", "cataractous": "cataract", "glaucomatous": "glaucoma",
    "macula": "macular", "cornea": "corneal", "retina": "retinal", "conjunctiva": "conjunctival",
    "choroid": "choroidal", "orbit": "orbital", "lid": "eyelid", "lids": "eyelid", "eyelids": "eyelid",
    "eyes": "eye", "dystrophies": "dystrophy", "bilaterally": "bilateral", "ou": "ou", "diabetes": "diabetes",
    "detached": "detachment", "occluded": "occlusion", "sicca": "dry", "maculae": "macular", "foveal": "macular",
    "neovascularisations": "neovascularization", "hyphaema": "hyphema", "aetiology": "etiology",
}  # fmt: skip
_UNCHANGED = ("ss", "us", "is", "as", "ps", "os")  # virus, iritis, Descemet's -> the s is no plural


@dataclass(frozen=True, slots=True)
class Words:
    """Normalised words with the characters [start, end) of the text they stand for, and the sentence each lies in.

    breaks[k]: whether a comma, colon or bracket stands between word k-1 and word k."""

    text: list[str]
    starts: list[int]
    ends: list[int]
    sentences: list[int]
    breaks: list[bool]
    known: list[bool]  # came out of an expansion (abbreviation, Korean term): spelling is beyond doubt

    def __len__(self) -> int:
        return len(self.text)

    def inside(self, start: int, end: int) -> range:
        """The words that the characters [start, end) touch."""
        return range(bisect_right(self.ends, start), bisect_left(self.starts, end))

    def span(self, first: int, last: int) -> tuple[int, int]:
        """Characters of the words first..last (inclusive), which may stand in the text in another order."""
        return min(self.starts[first : last + 1]), max(self.ends[first : last + 1])


@lru_cache(maxsize=1)
def expansions() -> tuple[dict[str, tuple[str, ...]], dict[str, tuple[str, ...]], ahocorasick.Automaton]:
    """(abbreviations as written -> words, lower-case abbreviations -> words, automaton of Korean terms -> words)."""
    exact: dict[str, tuple[str, ...]] = {}
    lower: dict[str, tuple[str, ...]] = {}
    korean = ahocorasick.Automaton()
    for kind, term, meaning, *_ in table("terms.tsv"):
        words = tuple(meaning.split())
        if kind == "ko":
            korean.add_word(term, (len(term), words))
        elif kind == "abbreviation":
            exact[term] = words
            if len(term) >= 4 or not term.isupper():
                lower[term.lower()] = words
    korean.make_automaton()
    return exact, lower, korean


def table(name: str) -> list[list[str]]:
    """Rows of a tab-separated file of this package; lines that open with # are remarks."""
    lines = files("clarion.llm.coding").joinpath(name).read_text(encoding="utf-8").splitlines()
    return [line.split("\t") for line in lines if line.strip() and not line.startswith("#")]


@lru_cache(maxsize=65536)
def stem(word: str) -> str:
    """Lower case, American spelling, singular."""
    word = word.lower()
    if word.endswith(("'s", "’s")):
        word = word[:-2]
    if word in _AMERICAN:
        return _AMERICAN[word]
    if len(word) > 4 and word.endswith("s") and not word.endswith(_UNCHANGED):
        word = word[:-3] + "y" if word.endswith("ies") else word[:-1]
    return _AMERICAN.get(word, word)


def read_words(text: str) -> Words:
    """The stream of a text; its places are those of `text` as given."""
    exact, lower, _ = expansions()
    out = Words([], [], [], [], [], [])
    cuts = [m.end() for m in _SENTENCE.finditer(text)]
    raw = [(m.start(), m.end()) for m in _WORD.finditer(text)]
    korean = _korean_terms(text, raw)
    previous_end, joined = 0, ""
    for k, (start, end) in enumerate(raw):
        word = text[start:end]
        gap = text[previous_end:start]
        cut = bool(_BREAK.search(gap)) if gap and gap != " " else False
        sentence = bisect_right(cuts, start)
        previous_end = end
        if "\uac00" <= word[0] <= "\ud7a3":
            for words, first, last in korean.get(k, [((word,), start, end)]):
                _add(out, words, first, last, sentence, cut, words[0] is not word)
                cut = False
            joined = ""
            continue
        if joined:  # "non" of "non-exudative" goes with the next word
            word, joined = joined + word, ""
        following = text[end : end + 1]
        if word.lower() in _PREFIXES and (following == "-" or (word.lower() == "non" and following == " ")):
            joined = word
            continue
        eye = word.replace(".", "").replace(" ", "")
        if len(eye) == 2 and eye[0] in "oO" and eye[1] in "dDsSuU" and (eye.isupper() or "." in word or eye.islower()):
            if not (eye[1] in "dD" and _DOSE.search(text[max(0, start - 12) : start])):  # "1 tab OD": once a day
                _add(out, _EYES[eye[1].lower()], start, end, sentence, cut, True)
                continue
        bare = word[:-1] if word.endswith("s") and word[:-1].isupper() else word
        meaning = exact.get(bare) or lower.get(word.lower())
        if meaning:
            _add(out, meaning, start, end, sentence, cut, True)
        else:
            _add(out, (stem(word),), start, end, sentence, cut, False)
    return _in_parts(_both_eyes(out))


def _in_parts(words: Words) -> Words:
    """Sentences of more than LONGEST_SENTENCE words (a list without full stops) go on as another one, at a comma if
    their last third has one."""
    added = length = 0
    before = -1
    for k, sentence in enumerate(words.sentences):
        if sentence == before:
            length += 1
            if length >= LONGEST_SENTENCE or (length >= LONGEST_SENTENCE * 2 // 3 and words.breaks[k]):
                added, length = added + 1, 0
        else:
            length = 0
        before = sentence
        words.sentences[k] = sentence + added
    return words


def _add(out: Words, words: tuple[str, ...], start: int, end: int, sentence: int, cut: bool, known: bool) -> None:
    for k, word in enumerate(words):
        out.text.append(word)
        out.starts.append(start)
        out.ends.append(end)
        out.sentences.append(sentence)
        out.breaks.append(cut and k == 0)
        out.known.append(known)


def _both_eyes(words: Words) -> Words:
    """both eyes, each eye -> bilateral; right and left eye(s) -> bilateral."""
    text = words.text
    for k in range(len(text) - 1, 0, -1):
        width = 0
        if text[k] == "eye" and text[k - 1] in ("both", "each"):
            width = 2
        elif text[k] == "eye" and k >= 3 and {text[k - 1], text[k - 3]} == {"right", "left"} and text[k - 2] == "and":
            width = 4
        if width:
            first = k - width + 1
            words.ends[first] = words.ends[k]
            text[first] = "bilateral"
            for column in (text, words.starts, words.ends, words.sentences, words.breaks, words.known):
                del column[first + 1 : k + 1]
    return words


def _korean_terms(text: str, raw: list[tuple[int, int]]) -> dict[int, list[tuple[tuple[str, ...], int, int]]]:
    """Index of a Hangul word -> what it becomes: [(words, start, end)]; the longest term wins.

    Korean writes compounds with or without spaces, so terms are looked for with single spaces between Hangul words
    left out. A term starts where a word starts, right after another term, or (three syllables or more) anywhere."""
    _, _, automaton = expansions()
    hangul = [k for k, (s, _) in enumerate(raw) if "\uac00" <= text[s] <= "\ud7a3"]
    found: dict[int, list[tuple[tuple[str, ...], int, int]]] = {}
    run: list[int] = []
    for k in [*hangul, None]:
        if run and k is not None and k == run[-1] + 1 and text[raw[run[-1]][1] : raw[k][0]] == " ":
            run.append(k)
            continue
        if run:
            _korean_run(text, raw, run, automaton, found)
        run = [k] if k is not None else []
    return found


def _korean_run(text: str, raw, run: list[int], automaton, found: dict) -> None:
    letters, places, owner, begins = [], [], [], set()
    for k in run:
        begins.add(len(letters))
        for place in range(*raw[k]):
            letters.append(text[place])
            places.append(place)
            owner.append(k)
    longest: dict[int, tuple[int, tuple[str, ...]]] = {}
    for end, (length, words) in automaton.iter("".join(letters)):
        start = end - length + 1
        if length > longest.get(start, (0, ()))[0]:
            longest[start] = (length, words)
    at, rest = 0, 0  # rest: where what no term covers began
    after_term = False
    while at < len(letters):
        length, words = longest.get(at, (0, ()))
        if length and (at in begins or after_term or length >= 3):
            _korean_rest(text, places, owner, rest, at, found)
            found.setdefault(owner[at], []).append((words, places[at], places[at + length - 1] + 1))
            at += length
            rest, after_term = at, True
        else:
            at += 1
            after_term = False
    _korean_rest(text, places, owner, rest, len(letters), found)
    for k in run:  # a word that an earlier one's term swallowed
        found.setdefault(k, [])


def _korean_rest(text: str, places, owner, first: int, last: int, found: dict) -> None:
    """Letters that no term covers, word by word; endings such as -nd/-but are kept as the mark of a new clause."""
    while first < last:
        stop = first
        while stop < last and owner[stop] == owner[first]:
            stop += 1
        word = text[places[first] : places[stop - 1] + 1]
        words = ("@turn",) if word.endswith(("으나", "지만", "이나", "는데")) else (word,)
        found.setdefault(owner[first], []).append((words, places[first], places[stop - 1] + 1))
        first = stop


def composed(text: str) -> str:
    """NFC: Korean from a Mac comes decomposed. Length may change, so this is done before places are taken."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)
