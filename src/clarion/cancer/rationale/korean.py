"""Korean particles behind any word: which form follows is decided by how the word ends when it is read aloud."""

from __future__ import annotations

_CLOSED_LETTERS = frozenset("LMNR")  # read el, em, en, ar (알): closed syllables
_CLOSED_DIGITS = frozenset("013678")  # 영 일 삼 육 칠 팔
_PAIRS = {"은": "는", "이": "가", "을": "를", "과": "와"}


def closed(word: str) -> bool:
    """Whether a word ends in a closed syllable; a Latin letter or digit by its Korean name."""
    for letter in reversed(word.strip()):
        if "가" <= letter <= "힣":
            return (ord(letter) - ord("가")) % 28 != 0
        if letter.isascii() and letter.isalnum():
            return letter.upper() in _CLOSED_LETTERS or letter in _CLOSED_DIGITS
        if letter == "%":
            return False
    return False


def with_particle(word: str, particle: str) -> str:
    """("TP53", "은") -> "TP53은"; ("KRT5", "은") -> "KRT5는". particle: 은, 이, 을 or 과 (as behind closed ones)."""
    return word + (particle if closed(word) else _PAIRS[particle])


def listed(words: list[str]) -> str:
    """ "A와 B", "A, B와 C"."""
    if len(words) < 2:
        return "".join(words)
    return ", ".join([*words[:-2], f"{with_particle(words[-2], '과')} {words[-1]}"])
