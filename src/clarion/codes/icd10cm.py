"""ICD-10-CM: the codes of the tabular list, their titles and synonyms, and the tree they form.

The tabular list is that of the package simple-icd-10-cm (MIT), which parses its XML for five seconds at every import.
Here it is parsed once: the tree lies as one file in the cache directory and loads in a fraction of a second.

A chapter ("7") holds blocks ("H40-H42"), a block categories ("H40"), a category subcategories of one to three further
depths ("H40.1", "H40.11", "H40.113"), and what nothing hangs below is a leaf ("H40.1131"), the only kind that is
billed. 39 blocks hold one category and bear its name (B20, H59): such a name means the category, and the block where
`prioritize_blocks` is set, as in the package. Counts that go over the package's list of all codes meet these 39 names
twice: 74,736 leaves there are 74,731 different ones (B20, F99, P84, R99 and Z66 are block, category and leaf), 1,957
categories are 1,918, 336 blocks are 297, and the eye's 41 categories are 40 (H59).
"""

from __future__ import annotations

import importlib.metadata
import json
import re
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path

from clarion.codes.nearest import nearest_codes, nearest_titles, no_such_code
from clarion.data.cache import build_once
from clarion.errors import DataError, UsageError

LEVELS = ("chapter", "block", "category", "sub_category", "leaf")
PACKAGE = "simple-icd-10-cm"
_LAYOUT = 1  # of the cached file: a new number makes a new file
_FILE = "tree.json"
_CODE_LIKE = re.compile(r"[A-Z][0-9][0-9A-Z](\.?[0-9A-Z]{1,4})?")


@lru_cache(maxsize=1)
def icd10cm() -> CodeSystem:
    """ICD-10-CM of the installed package. The first call on a machine takes some ten seconds, later ones < 1 s."""
    try:
        version = importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError as error:
        raise UsageError(f"ICD-10-CM needs the package {PACKAGE}: pip install {PACKAGE}.") from error
    path = build_once(f"icd10cm-{version}-{_LAYOUT}", _build) / _FILE
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        return CodeSystem(**table)
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path} is damaged ({error}): delete its folder, it is made again.") from error


def _build(folder: Path) -> None:
    """The package's tree as parallel columns in the order of the tabular list (parents before their children)."""
    import simple_icd_10_cm as tabular

    names, parents, titles, depths = [], [], [], []
    terms: dict[int, list[str]] = {}

    def add(name: str, parent: int, depth: int) -> None:
        here, block = len(names), depth == 1
        names.append(name)
        parents.append(parent)
        depths.append(depth)
        titles.append(" ".join(tabular.get_description(name, prioritize_blocks=block).split()))
        # Inclusion terms stand at categories and below; of a block that shares a name they are the category's.
        if depth > 1 and (found := tabular.get_inclusion_term(name)):
            terms[here] = [" ".join(term.split()) for term in found]
        for child in tabular.get_children(name, prioritize_blocks=block):
            add(child, here, depth + 1)

    for name in tabular.get_all_codes():
        if tabular.is_chapter(name):
            add(name, -1, 0)
    table = {
        "release": _release(),
        "names": names,
        "parents": parents,
        "depths": depths,
        "titles": titles,
        "terms": terms,
    }
    (folder / _FILE).write_text(json.dumps(table, ensure_ascii=False), encoding="utf-8")


def _release() -> str:
    """'April 2026': as the package's own list of codes is named."""
    for file in importlib.metadata.files(PACKAGE) or ():
        if found := re.fullmatch(r"code-list-(.+)\.txt", file.name):
            return found[1].replace("-", " ")
    return importlib.metadata.version(PACKAGE)


class CodeSystem:
    """The tree of ICD-10-CM. Codes go in in any spelling (dotted, undotted, lower case) and come out dotted.

    A method that is given a code which does not exist raises DataError with the nearest ones; only `normalise`,
    `suggest` and `exists` take anything.
    """

    LEVELS = LEVELS
    name = "ICD-10-CM"

    def __init__(
        self, release: str, names: Sequence[str], parents: Sequence[int], depths: Sequence[int],
        titles: Sequence[str], terms: dict,
    ):  # fmt: skip
        self.version = release
        self._names, self._parents, self._depths, self._titles = names, parents, depths, titles
        self._terms = {int(k): tuple(v) for k, v in terms.items()}
        n = len(names)
        ends = list(range(1, n + 1))  # tabular order is depth first: a subtree is names[k:ends[k]]
        for k in range(n - 1, -1, -1):
            if parents[k] >= 0 and ends[k] > ends[parents[k]]:
                ends[parents[k]] = ends[k]
        self._ends = ends
        # A block stands before the category of the same name, so the category is what a name means.
        self._index = {_squeezed(name): k for k, name in enumerate(names)}
        self._block_index = {names[k]: k for k in range(n) if depths[k] == 1}

    # ------------------------------------------------------------------------------------------- names

    def normalise(self, text: object) -> str | None:
        """The dotted form of "h401131", "H40.1131" or " C4A.0 "; None where no such code exists."""
        k = self._index.get(_squeezed(text)) if isinstance(text, str) else None
        return None if k is None else self._names[k]

    def exists(self, text: object) -> bool:
        """Whether `normalise` finds a code."""
        return self.normalise(text) is not None

    def suggest(self, text: str, n: int = 3) -> list[str]:
        """At most n existing codes, nearest first: of a code those that share most of its beginning, of words those
        with the most similar titles."""
        squeezed = _squeezed(text)
        if _CODE_LIKE.fullmatch(squeezed) or (squeezed and squeezed in self._index):
            found = nearest_codes(squeezed, self._index, n)
            return [self._names[self._index[code]] for code in found]
        return [self._names[k] for k in nearest_titles(text, self._titles, n)]

    def title(self, code: str, prioritize_blocks: bool = False) -> str:
        """The title in the tabular list; of a leaf with a seventh character that of its stem and the character's."""
        return self._titles[self._at(code, prioritize_blocks)]

    def terms(self, code: str) -> tuple[str, ...]:
        """The inclusion terms (synonyms) that stand at this very code; those of its ancestors hold for it too."""
        return self._terms.get(self._at(code), ())

    # ------------------------------------------------------------------------------------------- tree

    def parent(self, code: str, prioritize_blocks: bool = False) -> str | None:
        """The code one level up, None of a chapter. The parent of the category B20 is the block B20; that one's, with
        prioritize_blocks, is chapter 1."""
        up = self._parents[self._at(code, prioritize_blocks)]
        return None if up < 0 else self._names[up]

    def chain(self, code: str, prioritize_blocks: bool = False) -> list[str]:
        """[code, ..., chapter]: "H40.1131" -> H40.1131 H40.113 H40.11 H40.1 H40 H40-H42 7."""
        return [self._names[k] for k in self._up(self._at(code, prioritize_blocks))]

    def children(self, code: str, prioritize_blocks: bool = False) -> list[str]:
        """The codes one level down, in the order of the tabular list."""
        k, found = self._at(code, prioritize_blocks), []
        child = k + 1
        while child < self._ends[k]:
            found.append(self._names[child])
            child = self._ends[child]
        return found

    def is_leaf(self, code: str, prioritize_blocks: bool = False) -> bool:
        """Whether nothing hangs below the code; a category such as B20 may be a leaf."""
        return self._leaf(self._at(code, prioritize_blocks))

    @cached_property
    def leaves(self) -> tuple[str, ...]:
        """All codes without children (74,731 in April 2026), in the order of the tabular list."""
        return tuple(self._names[k] for k in range(len(self._names)) if self._leaf(k))

    @cached_property
    def codes(self) -> tuple[str, ...]:
        """All names once: chapters, blocks, categories and below, in the order of the tabular list."""
        return tuple(dict.fromkeys(self._names))

    def descendant_leaves(self, code: str, prioritize_blocks: bool = False) -> tuple[str, ...]:
        """The leaves below a code, the code itself where it is one; of chapter "7" 2,677."""
        k = self._at(code, prioritize_blocks)
        return tuple(self._names[j] for j in range(k, self._ends[k]) if self._leaf(j))

    def level(self, code: str, prioritize_blocks: bool = False) -> str:
        """One of LEVELS. A code without children is a leaf at any depth (B20); every other one below a category is a
        sub_category, as the tabular list calls them."""
        k = self._at(code, prioritize_blocks)
        return "leaf" if self._leaf(k) else LEVELS[min(self._depths[k], 3)]

    def at_level(self, code: str, level: str) -> str | None:
        """The code's ancestor at a level, or itself; None where it is coarser than the level.

        sub_category is the first depth below the category (H40.1 of H40.1131), as CliBench counts it; leaf is the
        code itself if it is one. A category that is a leaf (B20) has no sub_category.
        """
        if level not in LEVELS:
            raise UsageError(f"{level!r} is no level of ICD-10-CM: write {', '.join(LEVELS)}.")
        k = self._at(code)
        if level == "leaf":
            return self._names[k] if self._leaf(k) else None
        depth = LEVELS.index(level)
        while self._depths[k] > depth:
            k = self._parents[k]
        return self._names[k] if self._depths[k] == depth else None

    def distance(self, a: str, b: str) -> int:
        """Edges of the tree between two codes, over their lowest common ancestor; chapters hang at one root.
        H40.1131 to H40.1132: 2; to another chapter: as many as both are deep."""
        up_a, up_b = list(self._up(self._at(a))), list(self._up(self._at(b)))
        shared = 0
        while shared < min(len(up_a), len(up_b)) and up_a[-1 - shared] == up_b[-1 - shared]:
            shared += 1
        return len(up_a) + len(up_b) - 2 * shared

    # ------------------------------------------------------------------------------------------- inside

    def _at(self, code: str, prioritize_blocks: bool = False) -> int:
        k = self._index.get(_squeezed(code)) if isinstance(code, str) else None
        if k is None:
            raise DataError(self.unknown(code))
        return self._block_index.get(self._names[k], k) if prioritize_blocks else k

    def unknown(self, code: object) -> str:
        """The sentence about a code that does not exist, with the nearest ones."""
        near = self.suggest(code) if isinstance(code, str) and code.strip() else []
        return no_such_code(code, f"{self.name} ({self.version})", [f"{c} ({self.title(c)})" for c in near])

    def _leaf(self, k: int) -> bool:
        return self._ends[k] == k + 1

    def _up(self, k: int):
        while k >= 0:
            yield k
            k = self._parents[k]


def _squeezed(text: str) -> str:
    """Upper case without dots and spaces; the dash of a block is a hyphen."""
    return re.sub(r"[\s.]+", "", text).upper().replace("\u2013", "-")
