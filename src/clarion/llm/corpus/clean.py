"""Characters as they should be: NFC, no control or invisible characters, plain spaces, ligatures taken apart."""

from __future__ import annotations

import re
import sys
import unicodedata

# Not NFKC: it would turn mm² into mm2, µ into μ and ½ into 1⁄2; only the typesetter's ligatures are taken apart.
LIGATURES = {"ﬀ": "ff", "ﬁ": "fi", "ﬂ": "fl", "ﬃ": "ffi", "ﬄ": "ffl", "ﬅ": "st", "ﬆ": "st"}
_SPACES = {c: " " for c in map(chr, range(sys.maxunicode + 1)) if unicodedata.category(c) == "Zs"}
# Cc control, Cf format (zero width, soft hyphen, direction marks, BOM), Co private use (icon fonts), Cs surrogates
_DROPPED = {
    c: None
    for c in map(chr, range(sys.maxunicode + 1))
    if unicodedata.category(c) in ("Cc", "Cf", "Co", "Cs") and c not in "\n\t"
}
_TABLE = str.maketrans(
    {**_DROPPED, **_SPACES, **LIGATURES, "\r": "\n", "\u2028": "\n", "\u2029": "\n\n", "\x0b": "\n", "\x0c": "\n\n"}
)
_INNER = re.compile(r"[ \t]{2,}|\t")
_EDGES = re.compile(r" *\n *")
_BLANK = re.compile(r"\n{3,}")


def clean(text: str) -> str:
    """One text, cleaned; idempotent. Paragraphs stay separated by one blank line, lines within them as they are."""
    text = unicodedata.normalize("NFC", text.replace("\r\n", "\n").translate(_TABLE))
    return _BLANK.sub("\n\n", _EDGES.sub("\n", _INNER.sub(" ", text))).strip()
