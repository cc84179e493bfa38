"""Code systems whose levels are beginnings of the code: ICD-10-PCS and ATC."""

from __future__ import annotations

import re
from collections.abc import Mapping

from clarion.codes.nearest import nearest_codes, no_such_code
from clarion.errors import DataError, UsageError


class PrefixCodes:
    """Codes that nest by their first characters.

    lengths: level -> characters, coarse to fine; titles: code -> title of every code there is, or None where no list
    was given: then a code's shape alone decides (`shape`, a regular expression on the squeezed code).
    """

    def __init__(self, name: str, version: str, lengths: Mapping[str, int], shape: str, titles: Mapping | None = None):
        self.name, self.version = name, version
        self.LEVELS = tuple(lengths)
        self._lengths, self._shape = dict(lengths), re.compile(shape)
        self._titles = titles
        self._known = None
        if titles is not None:
            self._known = {code[:n] for code in titles for n in lengths.values() if n <= len(code)}

    def normalise(self, text: object) -> str | None:
        """Upper case without dots and spaces; None where no such code (or beginning of one, at a level) exists."""
        if not isinstance(text, str):
            return None
        code = re.sub(r"[\s.]+", "", text).upper()
        if len(code) not in self._lengths.values() or not self._shape.fullmatch(code):
            return None
        return code if self._known is None or code in self._known else None

    def title(self, code: str) -> str | None:
        """The title in the list; None of a beginning or without a list."""
        return None if self._titles is None else self._titles.get(self._normalised(code))

    def at_level(self, code: str, level: str) -> str | None:
        """The code's beginning at a level; None where it is coarser than that."""
        if level not in self._lengths:
            raise UsageError(f"{level!r} is no level of {self.name}: write {', '.join(self.LEVELS)}.")
        code, length = self._normalised(code), self._lengths[level]
        return code[:length] if len(code) >= length else None

    def chain(self, code: str) -> list[str]:
        """[code, ..., the coarsest beginning], one per level that the code reaches."""
        code = self._normalised(code)
        return [code[:n] for n in sorted(self._lengths.values(), reverse=True) if n <= len(code)]

    def suggest(self, text: str, n: int = 3) -> list[str]:
        """At most n existing codes, nearest first; none without a list."""
        if self._titles is None:
            return []
        return nearest_codes(re.sub(r"[\s.]+", "", text).upper(), self._titles, n)

    def unknown(self, code: object) -> str:
        """The sentence about a code that does not exist, with the nearest ones."""
        near = self.suggest(code) if isinstance(code, str) else []
        return no_such_code(code, f"{self.name} ({self.version})", near)

    def _normalised(self, code: str) -> str:
        if (found := self.normalise(code)) is None:
            raise DataError(self.unknown(code))
        return found
