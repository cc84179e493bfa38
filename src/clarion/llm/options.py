"""Options of multiple-choice questions: read from the layouts in which they are published, and checked."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from clarion.errors import DataError
from clarion.llm.prompts import LETTERS

MOST = len(LETTERS)
COLUMNS = tuple(f"option_{letter.lower()}" for letter in LETTERS)
# "B", "b)", "(B)", "B.", "Option B", "B) Glaucoma": a letter that stands for an option
_LETTER = re.compile(r"\s*(?:option\s+)?\(?([A-Za-z])(?:\s*[).:]\s*(.*)|\s*)$", re.IGNORECASE | re.DOTALL)


def plain(text: str) -> str:
    """How two options are compared: NFKC, lower case, single blanks. Signs stay: "<3" is not ">3"."""
    return " ".join(unicodedata.normalize("NFKC", text).lower().split())


def read_options(raw: Mapping[str, Any], where: str) -> list[str]:
    """The options of a record: a list (or {letter: text}) under `options`, or the columns option_a .. option_e; an
    empty list where it has neither.

    Raises DataError naming `where` for fewer than two, more than five, a gap (option_a and option_c without option_b),
    an option that is not text or number, and two options that say the same."""
    given = raw.get("options")
    columns = {k.lower(): v for k, v in raw.items() if re.fullmatch(r"option_[a-z]", k.lower()) and not _blank(v)}
    if given is not None and columns:
        raise DataError(f"{where} has both options and {', '.join(columns)}; keep one of the two.")
    if isinstance(given, Mapping):
        given = [given[key] for key in sorted(given)]
    if given is None:
        if not columns:
            return []
        wanted = [f"option_{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"[: len(columns)]]
        if absent := [name for name in wanted if name not in columns]:
            raise DataError(f"{where}: {absent[0]} is missing or empty, but {', '.join(sorted(columns))} are there.")
        given = [columns[name] for name in wanted]
    if not isinstance(given, list):
        raise DataError(f"{where}: options is a {type(given).__name__}; write a list of texts.")
    if not given:
        raise DataError(f"{where}: the options are missing (an empty list); give 2 to {MOST}, or no options at all.")
    for value in given:
        if isinstance(value, bool) or not isinstance(value, str | int | float) or _blank(value):
            raise DataError(f"{where}: an option is {'empty' if _blank(value) else type(value).__name__}, not text.")
    options = [str(value).strip() for value in given]
    if not 2 <= len(options) <= MOST:
        raise DataError(f"{where} has {len(options)} option(s); give 2 to {MOST} ({LETTERS[0]} to {LETTERS[-1]}).")
    if same := repeated(options):
        raise DataError(f"{where}: options {same[0]} and {same[1]} are the same text; make them distinct.")
    return options


def _blank(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def repeated(options: Sequence[str]) -> tuple[str, str] | None:
    """The letters of the first two options that say the same, or None."""
    first: dict[str, int] = {}
    for k, option in enumerate(options):
        if (before := first.setdefault(plain(option), k)) != k:
            return LETTERS[before], LETTERS[k]
    return None


def find_answer(answer: Any, options: Sequence[str], where: str) -> int:
    """Which option an answer names: by its text, as "B" / "B) text", or by a 0-based index (an integer, not text).

    The text of an option wins over its letter, so that options "B" and "A" (blood groups) are read as written; a
    letter whose text is another option's is refused. Raises DataError naming `where`,
    never the texts, which may be a patient's."""
    known = [plain(option) for option in options]
    if isinstance(answer, int) and not isinstance(answer, bool) and str(answer) not in known:
        if 0 <= answer < len(options):
            return answer
        raise DataError(f"{where}: answer {answer} is no index of {len(options)} options (0 to {len(options) - 1}).")
    text = plain(str(answer))
    if text in known:
        return known.index(text)
    if found := _LETTER.match(str(answer)):
        index, rest = LETTERS.find(found[1].upper()), plain(found[2] or "")
        if 0 <= index < len(options) and (not rest or rest == known[index]):
            return index
    raise DataError(
        f"{where}: the answer is not one of the options {LETTERS[0]} to {LETTERS[len(options) - 1]}; write the letter, "
        "the 0-based index as a number, or the text of an option exactly as it stands there."
    )
