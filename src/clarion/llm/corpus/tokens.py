"""How many tokens a text has: by a tokenizer.json, else words times a factor that says so in its name."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

CHARACTERS_AT_ONCE = 100_000  # the tokenizer's memory grows with the text it is given


@cache
def counter(tokenizer: str | None) -> Callable[[str], int]:
    """tokenizer: path of a tokenizer.json, or None to count words (runs of non-blank characters)."""
    if tokenizer is None:
        return lambda text: len(text.split())
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from tokenizers import Tokenizer

    model = Tokenizer.from_file(str(Path(tokenizer)))
    model.no_truncation()
    model.no_padding()

    def count(text: str) -> int:
        pieces = [text[k : k + CHARACTERS_AT_ONCE] for k in range(0, len(text), CHARACTERS_AT_ONCE)]
        return sum(len(model.encode(piece, add_special_tokens=False).ids) for piece in pieces)

    return count
