"""Beam search over whole codes: which list of existing codes does a language model find most likely?

The search goes level by level, a level being one more code in the list, so that only lists of equally many codes
compete for a beam, however many tokens their codes have. Within a level the tokens of the next code are searched; a
code that is whole waits until no unfinished one can be more likely (probabilities only fall). A list ends with the stop
token and scores log p(list, stop) / codes ** length_penalty; p is the model's own, over its whole vocabulary. With as
many beams as lists the search is exact (tests compare it with all lists written out).

All beams of a case share one row of the network (tree attention): the prompt is read once, a token sees the prompt and
the tokens of its own list through a mask, and nothing is copied or reordered when a beam dies. Where a network's
attention takes no such mask, every list is read anew in full (`WholeLists`): the same figures, slower.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch

from clarion.trainers.sft_codes_trie import CodeTrie
from clarion.trainers.sft_options import packable


@dataclass(frozen=True)
class Beam:
    """A list of codes, the last of them perhaps unfinished. node: where it stands in the trie; score: log p of all its
    tokens; begun: log p of the unfinished code's tokens among those that the trie allows; columns: where its tokens
    stand behind the prompt; token: the last one."""

    codes: tuple[int, ...] = ()
    sure: tuple[float, ...] = ()
    score: float = 0.0
    begun: float = 0.0
    node: int = 0
    columns: tuple[int, ...] = ()
    token: int = -1


@dataclass(frozen=True)
class CodeList:
    """An answer. score: log p / codes ** length_penalty; log_probability: of the list and its stop token; sure: of each
    code the probability that the model, held to existing codes not yet written (or the end), writes it here."""

    codes: tuple[str, ...]
    sure: tuple[float, ...]
    score: float
    log_probability: float


class Limits(NamedTuple):
    beams: int
    max_codes: int
    length_penalty: float


class Search:
    """The search of one case. `beams` are those whose next tokens are asked for; `advance` takes the answer."""

    def __init__(self, trie: CodeTrie, limits: Limits):
        self.trie, self.limits = trie, limits
        self.beams: list[Beam] = [Beam()]  # of the lead alone
        self.whole: list[Beam] = []  # lists of this level that are complete, best first
        self.ended: list[tuple[float, Beam]] = []  # (score, list) behind which the stop token was taken

    def advance(self, tokens: np.ndarray, children: np.ndarray, logp: np.ndarray, among: np.ndarray,
                stop: np.ndarray) -> None:  # fmt: skip
        """tokens, children, logp, among [beams, D] of the trie's step (among: log p among what is allowed); stop
        [beams]: log p of the stop token."""
        power = self.limits.length_penalty
        for row, beam in enumerate(self.beams):
            if beam.codes and beam.node == self.trie.following:
                self.ended.append(((beam.score + float(stop[row])) / len(beam.codes) ** power, beam))
                if len(beam.codes) == self.limits.max_codes:
                    children[row] = -1
        totals = np.array([b.score for b in self.beams])[:, None] + logp
        code = np.where(children >= 0, self.trie.code[children], -1)
        fresh = np.array([[c >= 0 and c not in beam.codes for c in row] for beam, row in zip(self.beams, code)], bool)
        fresh = fresh.reshape(code.shape)
        opens = (children >= 0) & (self.trie.start[children] < self.trie.start[children + 1])

        def best(which: np.ndarray) -> list[Beam]:
            rows, places = np.nonzero(which)
            kept = np.argsort(-totals[rows, places], kind="stable")[: self.limits.beams]
            return [self._with(rows[k], places[k], tokens, children, totals, among) for k in kept]

        found = [
            replace(b, codes=(*b.codes, int(self.trie.code[b.node])), sure=(*b.sure, float(np.exp(b.begun))),
                    begun=0.0, node=self.trie.following) for b in best(fresh)
        ]  # fmt: skip
        self.whole = sorted([*self.whole, *found], key=lambda b: -b.score)[: self.limits.beams]
        full = len(self.whole) == self.limits.beams
        self.beams = [b for b in best(opens) if not full or b.score > self.whole[-1].score]
        if not self.beams:
            self._next_level()

    def _with(self, row: int, place: int, tokens, children, totals, among) -> Beam:
        old = self.beams[row]
        return replace(
            old, score=float(totals[row, place]), begun=old.begun + float(among[row, place]),
            node=int(children[row, place]), token=int(tokens[row, place]),
        )  # fmt: skip

    def _next_level(self) -> None:
        """The complete lists go on, unless none of what they may become can beat what has ended: log p only falls, and
        is divided by max_codes ** length_penalty at most."""
        self.beams, self.whole = self.whole, []
        most = self.limits.max_codes**self.limits.length_penalty
        if self.ended and self.beams and max(s for s, _ in self.ended) >= self.beams[0].score / most:
            self.beams = []

    def answer(self) -> CodeList:
        """The best list. Of equal scores the one that ended first, which is the shorter."""
        score, beam = max(self.ended, key=lambda pair: pair[0])
        total = score * len(beam.codes) ** self.limits.length_penalty
        return CodeList(tuple(self.trie.codes[k] for k in beam.codes), beam.sure, score, total)


@dataclass
class Cost:
    """What a search took: steps of the trie and rows in them, seconds in the trie and in all."""

    steps: int = 0
    rows: int = 0
    trie_s: float = 0.0
    total_s: float = 0.0

    def add(self, other: Cost) -> None:
        self.steps, self.rows = self.steps + other.steps, self.rows + other.rows
        self.trie_s, self.total_s = self.trie_s + other.trie_s, self.total_s + other.total_s


@torch.inference_mode()
def search(
    network: Any, prompts: Sequence[Sequence[int]], trie: CodeTrie, limits: Limits, stop_id: int, pad_id: int
) -> tuple[list[Search], Cost]:
    """The finished searches behind token prompts that end where the trie begins, in one batch, and what they cost."""
    began, cost = time.perf_counter(), Cost()
    lists = (SharedPrompts if packable(network) else WholeLists)(network, pad_id)
    searches = [Search(trie, limits) for _ in prompts]
    live = list(range(len(prompts)))
    logits = lists.read(prompts)[:, None]  # [cases, beams, vocabulary]
    while live:
        of = [(k, j) for k, case in enumerate(live) for j in range(len(searches[case].beams))]
        flat = logits[tuple(torch.tensor(index, device=logits.device) for index in zip(*of))].float()
        before = time.perf_counter()
        beams = [searches[live[k]].beams[j] for k, j in of]
        nodes = np.array([b.node for b in beams])
        written = np.full((len(beams), limits.max_codes), -1)
        for row, beam in enumerate(beams):
            written[row, : len(beam.codes)] = beam.codes
        tokens, children = trie.step(nodes, written)
        cost.add(Cost(1, len(of), time.perf_counter() - before))
        ends = np.array([bool(b.codes) and b.node == trie.following for b in beams])
        logp, among, stop = _scores(flat, tokens, children >= 0, ends, stop_id)
        row = 0
        for case in live:
            part = slice(row, row + len(searches[case].beams))
            row = part.stop
            searches[case].advance(tokens[part], children[part], logp[part], among[part], stop[part])
        going = [k for k, case in enumerate(live) if searches[case].beams]
        if not going:
            break
        if len(going) < len(live):
            lists.keep(going)
            live = [live[k] for k in going]
        logits, columns = lists.extend([[(b.token, b.columns) for b in searches[case].beams] for case in live])
        for case, new in zip(live, columns, strict=True):
            one = searches[case]
            one.beams = [replace(b, columns=(*b.columns, c)) for b, c in zip(one.beams, new, strict=True)]
    cost.total_s = time.perf_counter() - began
    return searches, cost


def _scores(logits: torch.Tensor, tokens: np.ndarray, allowed: np.ndarray, ends: np.ndarray, stop_id: int):
    """logits [R, V] float32 -> (log p [R, D], log p among the allowed [R, D], log p of the stop token [R]), float64;
    -inf where the trie allows nothing. ends [R]: rows that may also stop."""
    device = logits.device
    total = logits.logsumexp(1).double()
    chosen = logits.gather(1, torch.from_numpy(tokens.astype(np.int64)).to(device)).double() - total[:, None]
    chosen = chosen.masked_fill(~torch.from_numpy(allowed).to(device), -torch.inf)
    stop = logits[:, stop_id].double() - total
    choices = torch.cat([chosen, stop.masked_fill(~torch.from_numpy(ends).to(device), -torch.inf)[:, None]], 1)
    among = chosen - choices.logsumexp(1, keepdim=True)
    return chosen.cpu().numpy(), among.nan_to_num(-torch.inf).cpu().numpy(), stop.cpu().numpy()


# ---------------------------------------------------------------------------------------------- reading beams' tokens


class SharedPrompts:
    """One row a case: its prompt, then the tokens of all its beams, each masked to the prompt and its own list."""

    def __init__(self, network: Any, pad_id: int):
        self.network, self.pad_id = network, pad_id

    def read(self, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
        """-> logits behind each prompt [cases, vocabulary]."""
        width, device = max(map(len, prompts)), self.network.device
        ids = torch.tensor([[self.pad_id] * (width - len(p)) + list(p) for p in prompts], device=device)
        self.seen = torch.tensor([[k >= width - len(p) for k in range(width)] for p in prompts], device=device)
        self.lengths, self.width = np.array([len(p) for p in prompts]), width
        output = self.network(
            input_ids=ids, attention_mask=self.seen.long(), position_ids=(self.seen.long().cumsum(1) - 1).clamp(min=0),
            use_cache=True, logits_to_keep=1,
        )  # fmt: skip
        self.cache, self.more = output.past_key_values, 0
        return output.logits[:, -1]

    def keep(self, cases: list[int]) -> None:
        """Go on with these cases alone."""
        index = torch.tensor(cases, device=self.network.device)
        self.seen, self.lengths = self.seen[index], self.lengths[cases]
        self.cache.batch_select_indices(index)

    def extend(self, rows: list[list[tuple[int, tuple[int, ...]]]]) -> tuple[torch.Tensor, list[list[int]]]:
        """rows: of every case its beams' (last token, columns of the tokens before it) -> logits behind each
        [cases, beams, vocabulary] and the column that each token now has."""
        wide, device = max(map(len, rows)), self.network.device
        ids = np.full((len(rows), wide), self.pad_id)
        positions = np.zeros((len(rows), wide), dtype=np.int64)
        own = np.zeros((len(rows), wide, self.more + wide), dtype=bool)
        own[:, np.arange(wide), self.more + np.arange(wide)] = True  # a padded one sees itself: no row of nothing
        for case, beams in enumerate(rows):
            for k, (token, columns) in enumerate(beams):
                ids[case, k], positions[case, k] = token, self.lengths[case] + len(columns)
                own[case, k, list(columns)] = True
        prompt = self.seen[:, None].expand(-1, wide, -1)
        mask = torch.cat([prompt, torch.from_numpy(own).to(device)], 2)[:, None]
        if self.network.config.get_text_config()._attn_implementation != "sdpa":  # eager attention adds its mask
            floor = torch.finfo(self.network.dtype).min
            mask = torch.zeros(mask.shape, dtype=self.network.dtype, device=device).masked_fill_(~mask, floor)
        output = self.network(
            input_ids=torch.from_numpy(ids).to(device), attention_mask=mask,
            position_ids=torch.from_numpy(positions).to(device), past_key_values=self.cache, use_cache=True,
        )  # fmt: skip
        columns = [[self.more + k for k in range(len(beams))] for beams in rows]
        self.more += wide
        return output.logits, columns


class WholeLists:
    """The same without a mask or a cache of its own: every list is read from the first token of its prompt."""

    def __init__(self, network: Any, pad_id: int):
        self.network, self.pad_id = network, pad_id

    def read(self, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
        self.prompts = [list(p) for p in prompts]
        self.tokens: list[int] = []
        return self._last(self.prompts)

    def keep(self, cases: list[int]) -> None:
        self.prompts = [self.prompts[k] for k in cases]

    def extend(self, rows: list[list[tuple[int, tuple[int, ...]]]]) -> tuple[torch.Tensor, list[list[int]]]:
        texts, columns, wide = [], [], max(map(len, rows))
        for prompt, beams in zip(self.prompts, rows, strict=True):
            columns.append([len(self.tokens) + k for k in range(len(beams))])
            self.tokens += [token for token, _ in beams]
            texts += [[*prompt, *(self.tokens[c] for c in before), token] for token, before in beams]
        found = self._last(texts)
        logits = found.new_zeros((len(rows), wide, found.shape[1]))
        row = 0
        for case, beams in enumerate(rows):
            logits[case, : len(beams)] = found[row : row + len(beams)]
            row += len(beams)
        return logits, columns

    def _last(self, texts: list[list[int]]) -> torch.Tensor:
        width, device = max(map(len, texts)), self.network.device
        ids = torch.tensor([[self.pad_id] * (width - len(t)) + t for t in texts], device=device)
        mask = torch.tensor([[0] * (width - len(t)) + [1] * len(t) for t in texts], device=device)
        return self.network(
            input_ids=ids, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0), use_cache=False,
            logits_to_keep=1,
        ).logits[:, -1]  # fmt: skip
