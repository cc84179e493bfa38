"""What a word is wherever texts are compared: NFKC, lower case, runs of letters, marks and digits of any script.

NFKC makes the ligatures of PDFs and full-width forms the letters they stand for; marks belong to words, or the vowel
signs of Indic scripts would end one. Everything else (punctuation, underscores, white space) only separates.
"""

from __future__ import annotations

import sys
import unicodedata
from functools import cache

import numpy as np

_CODE_POINTS = sys.maxunicode + 1


@cache
def letters() -> np.ndarray:
    """bool [1,114,112]: which code points belong to words; made once a process (0.2 s)."""
    kinds = (unicodedata.category(chr(c))[0] in "LMN" for c in range(_CODE_POINTS))
    return np.fromiter(kinds, dtype=np.bool_, count=_CODE_POINTS)


def code_points(text: str) -> np.ndarray:
    """uint32 [length]: a text as it is compared, NFKC and lower case; a lone surrogate becomes a question mark."""
    return np.frombuffer(unicodedata.normalize("NFKC", text).lower().encode("utf-32-le", "replace"), dtype="<u4")


def words(text: str) -> list[str]:
    """The words of a text, in their order."""
    points = code_points(text)
    return np.where(letters()[points], points, np.uint32(32)).astype("<u4").tobytes().decode("utf-32-le").split()
