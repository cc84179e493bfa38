"""A token trie over medical codes: which tokens may come next, for all beams of a batch in a few array operations.

Two tries share one set of arrays, since a tokenizer spells a code at the start of a list ("\\nH40") otherwise than
behind a separator ("; H40", where the blank is part of the letter's token). The second trie's codes are numbered in the
order of their tokens, so the codes below a node are an interval, and whether a node has any code left that was not
written yet is a comparison of numbers.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from clarion.data.cache import build_once
from clarion.errors import UsageError
from clarion.trainers.answers import digest

log = logging.getLogger(__name__)

LAYOUT = 1  # raise when the arrays or the spelling change
FILE = "trie.npz"
CHECKED = 8  # codes before and codes behind a separator whose joint spelling is compared with the trie's


@dataclass(frozen=True, eq=False)
class CodeTrie:
    """codes [N] in the trie's own order; shared: tokens of the lead that stand before the trie's first token.

    Node 0 is the root of a list's first code, node `following` that of every further one (its separator included).
    start [nodes + 1]: a node's edges are token[start:end], child[start:end]; code [nodes]: the code that is whole at a
    node, or -1; low, high [nodes]: the codes below it are low <= code < high (the second trie; the first has no code
    written yet, so that its intervals are never asked)."""

    codes: tuple[str, ...]
    shared: int
    following: int
    start: np.ndarray
    token: np.ndarray
    child: np.ndarray
    code: np.ndarray
    low: np.ndarray
    high: np.ndarray
    longest: int

    def step(self, nodes: np.ndarray, written: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """nodes [R], written [R, M] codes already in each row's list (-1: none) -> (tokens [R, D], children [R, D]).

        D is the widest node's number of tokens; children is -1 where a row has fewer, or where all codes behind a token
        are written already. A node whose code is whole may still lead on (H40 in a scope that holds H40.11 too)."""
        begin, end = self.start[nodes], self.start[nodes + 1]
        width = int((end - begin).max(initial=0))
        place = begin[:, None] + np.arange(width, dtype=begin.dtype)
        there = place < end[:, None]
        place = np.where(there, place, 0)
        tokens, children = self.token[place], self.child[place]
        low, high = self.low[children], self.high[children]
        gone = np.zeros(tokens.shape, dtype=np.int32)
        for column in np.asarray(written).T:  # a handful: max_codes
            gone += (low <= column[:, None]) & (column[:, None] < high)
        return tokens, np.where(there & (gone < high - low), children, -1)


def code_trie(tokenizer: Any, codes: Sequence[str], lead: str, separator: str) -> CodeTrie:
    """The trie of `codes` as this tokenizer writes them behind `lead` and behind `separator`; kept in the cache folder.

    Raises UsageError where the codes cannot be spelled apart (none, the same twice, a separator without effect)."""
    if not codes or len(set(codes)) < len(codes):
        raise UsageError("model.constrain.codes: the codes to choose from must be different ones, and at least one.")
    identity = _identity(tokenizer)
    key = digest(LAYOUT, identity, list(codes), lead, separator)

    def write(folder: Path) -> None:
        trie = build(tokenizer, codes, lead, separator)
        arrays = {f.name: np.asarray(getattr(trie, f.name)) for f in fields(CodeTrie)}
        np.savez(folder / FILE, **arrays)

    with np.load(build_once(f"code-trie-{key[:24]}", write) / FILE, allow_pickle=False) as kept:
        arrays = {name: kept[name] for name in kept.files}
    numbers = {name: int(arrays.pop(name)) for name in ("shared", "following", "longest")}
    return CodeTrie(tuple(arrays.pop("codes").tolist()), **numbers, **arrays)


def build(tokenizer: Any, codes: Sequence[str], lead: str, separator: str) -> CodeTrie:
    """The same, made anew: 74,736 codes in about two seconds."""
    shared, first = _behind(tokenizer, lead, codes, fixed=False)
    _, further = _behind(tokenizer, _anchor(tokenizer, codes, separator), [separator + c for c in codes], fixed=True)
    _compare(tokenizer, codes, lead, separator, shared, first, further)
    further, first = _matrix(further), _matrix(first)
    order = np.lexsort(further.T[::-1])
    first, further = first[order], further[order]
    named = tuple(codes[k] for k in order)
    one = _nodes(first, np.arange(len(codes)))
    two = _nodes(further, np.arange(len(codes)))
    offset = len(one["code"])
    edges = np.concatenate([one["parent"], two["parent"] + offset])
    tokens = np.concatenate([one["token"], two["token"]])
    children = np.concatenate([one["child"], two["child"] + offset])
    by_parent = np.argsort(edges, kind="stable")
    start = np.searchsorted(edges[by_parent], np.arange(offset + len(two["code"]) + 1))
    return CodeTrie(
        codes=named,
        shared=shared,
        following=offset,
        start=start.astype(np.int64),
        token=tokens[by_parent].astype(np.int64),
        child=children[by_parent].astype(np.int64),
        code=np.concatenate([one["code"], two["code"]]),
        low=np.concatenate([one["low"], two["low"]]),
        high=np.concatenate([one["high"], two["high"]]),
        longest=max(first.shape[1], further.shape[1]),
    )


# ------------------------------------------------------------------------------------------------------- spelling


def encode(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each text, with no special token added."""
    return tokenizer(list(texts), add_special_tokens=False)["input_ids"]


def _behind(tokenizer: Any, before: str, texts: Sequence[str], fixed: bool) -> tuple[int, list[list[int]]]:
    """(tokens of `before` that no text changes, what follows them in before + text): prompt and code are tokenised
    together, as they stand in a training text. fixed: all tokens of `before` must stay."""
    [alone] = encode(tokenizer, [before])
    joint = encode(tokenizer, [before + text for text in texts])
    shared = len(alone)
    for ids in joint:
        while ids[:shared] != alone[:shared]:
            shared -= 1
    if fixed and shared < len(alone):
        raise UsageError(
            f"this tokenizer merges the separator {texts[0][:3]!r} into the code before it: choose another "
            "model.constrain.separator."
        )
    return shared, [ids[shared:] for ids in joint]


def _anchor(tokenizer: Any, codes: Sequence[str], separator: str) -> str:
    """A code that keeps its own tokens when the separator follows."""
    for code in codes[:: max(1, len(codes) // CHECKED)]:
        alone, joint = encode(tokenizer, [code, code + separator + codes[0]])
        if joint[: len(alone)] == alone:
            return code
    return codes[0]


def _compare(tokenizer, codes, lead, separator, shared: int, first: list, further: list) -> None:
    """Say it where a list of codes is not spelled as the tokenizer spells it in one piece (a tokenizer without
    pre-tokenisation may merge over the border of two codes): the model then sees tokens that it rarely saw."""
    some = range(0, len(codes), max(1, len(codes) // CHECKED))
    pairs = [(a, b) for a in some for b in some if a != b]
    [start] = encode(tokenizer, [lead])
    whole = encode(tokenizer, [lead + codes[a] + separator + codes[b] for a, b in pairs])
    other = sum(start[:shared] + first[a] + further[b] != ids for (a, b), ids in zip(pairs, whole, strict=True))
    if other:
        log.warning(
            "constrained decoding: %d of %d pairs of codes are tokenised otherwise in one piece; the model may find "
            "its own training text unlikely (model.constrain.separator)", other, len(pairs),
        )  # fmt: skip


def _identity(tokenizer: Any) -> str:
    """Hash of everything that decides how a text is tokenised."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return digest(backend.to_str() if backend is not None else sorted(tokenizer.get_vocab().items()))


# ----------------------------------------------------------------------------------------------------------- arrays


def _matrix(rows: Sequence[Sequence[int]]) -> np.ndarray:
    """Ragged rows -> int32 [N, longest], -1 behind their ends."""
    sizes = np.array([len(row) for row in rows])
    out = np.full((len(rows), sizes.max()), -1, dtype=np.int32)
    out[np.arange(out.shape[1]) < sizes[:, None]] = np.concatenate([np.asarray(row, dtype=np.int32) for row in rows])
    return out


def _nodes(spelled: np.ndarray, numbers: np.ndarray) -> dict[str, np.ndarray]:
    """Token rows [N, L] and the number of each row's code -> the trie's nodes (0 is the root) and edges.

    Row by row in sorted order, depth by depth in one operation: a node begins where a row's first tokens differ from
    the row before. low and high count sorted rows, which are code numbers where the rows come sorted."""
    order = np.lexsort(spelled.T[::-1])
    spelled, numbers = spelled[order], numbers[order]
    n = len(spelled)
    parents, tokens, children = [], [], []
    codes, lows, highs = [np.array([-1])], [np.array([0])], [np.array([n])]
    differs = np.zeros(n, dtype=bool)
    differs[0] = True
    above, made = np.zeros(n, dtype=np.int64), 1
    sizes = (spelled >= 0).sum(1)
    for depth in range(spelled.shape[1]):
        differs[1:] |= spelled[1:, depth] != spelled[:-1, depth]
        here = spelled[:, depth] >= 0
        rows = np.flatnonzero(differs & here)
        node = np.full(n, -1, dtype=np.int64)
        node[here] = made - 1 + np.cumsum(differs & here)[here]
        parents.append(above[rows])
        tokens.append(spelled[rows, depth])
        children.append(node[rows])
        whole = np.full(len(rows), -1, dtype=np.int64)
        ends = np.flatnonzero(here & (sizes == depth + 1))
        whole[node[ends] - made] = numbers[ends]
        if len(np.unique(node[ends])) < len(ends):
            raise UsageError("two codes are spelled with the same tokens: the tokenizer cannot tell them apart.")
        codes.append(whole)
        lows.append(rows)
        highs.append(rows + np.bincount(node[here] - made, minlength=len(rows)))
        above, made = np.where(here, node, above), made + len(rows)
    return {
        "parent": np.concatenate(parents),
        "token": np.concatenate(tokens),
        "child": np.concatenate(children),
        "code": np.concatenate(codes),
        "low": np.concatenate(lows),
        "high": np.concatenate(highs),
    }
