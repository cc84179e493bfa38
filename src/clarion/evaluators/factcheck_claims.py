"""One claim of a text, its verdict, and how numbers as written are compared with the facts."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

SUPPORTED, CONTRADICTED, UNFOUNDED = "supported", "contradicted", "not in the inputs"
KINDS = ("gene", "direction", "coefficient", "q", "expression", "pattern", "share", "probability", "outcome", "age",
         "sex", "stage", "cancer", "missing", "other")  # fmt: skip


@dataclass(frozen=True)
class Claim:
    """kind: of KINDS; about: the gene, tissue or input; said: the words of the text; verdict: SUPPORTED,
    CONTRADICTED or UNFOUNDED; expected: what the facts hold where they contradict it."""

    kind: str
    about: str
    said: str
    verdict: str
    expected: str = ""


@dataclass(frozen=True)
class Written:
    """A number as it stands in a text: value, half a unit of its last digit, and "=", "<" or ">"."""

    value: float
    half: float
    sign: str = "="

    def matches(self, true: float, relative: float | None = 0.5) -> bool:
        """Whether it is `true` rounded as written. relative: no rounding may lose more than this share of the value
        ("0.0" is no rounding of 0.04 that a reader could use); None where numbers around 0 mean just that."""
        if self.sign == "<":
            return true < self.value
        if self.sign == ">":
            return true > self.value
        allowed = self.half if relative is None else min(self.half, relative * abs(true))
        return abs(self.value - true) <= allowed * (1 + 1e-9) + 1e-12


def written(text: str, sign: str = "=") -> Written:
    """'-0.42', '3.2e-4', '3.2 x 10^-4' -> Written."""
    plain = re.sub(r"\s", "", text).replace("−", "-").replace("–", "-").replace("×", "x")
    mantissa, _, power = re.sub(r"x10\^?", "e", plain).lower().partition("e")
    exponent = int(power or 0)
    decimals = len(mantissa.partition(".")[2])
    op = "<" if sign in "<≤" and sign else ">" if sign in ">≥" and sign else "="
    return Written(float(f"{mantissa}e{exponent}"), 0.5 * 10.0 ** (exponent - decimals), op)


def masked(text: str, spans: Iterable[tuple[int, int]]) -> str:
    """The text with these spans blanked, all places as before."""
    letters = list(text)
    for start, end in spans:
        letters[start:end] = " " * (end - start)
    return "".join(letters)
