"""Constrained decoding of medical codes: a language model that can write existing codes only, with a confidence each.

    model.constrain: {codes: "7", beams: 4, length_penalty: 1.0, max_codes: 6}

The model is asked as ever; behind the words that lead a list of codes (a sample's `code_lead`) it chooses among the
codes of a scope, by beam search over a token trie (sft_codes_trie.py, sft_codes_beam.py). `after: prompt` puts the
lead directly behind the question: a handful of tokens an answer. `after: text` lets the model write first what it was
trained to write before its codes (symptoms, findings, diagnosis), and constrains the list alone.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import islice
from typing import Any

from clarion.config import nearest
from clarion.errors import DataError, UsageError
from clarion.trainers.base import Prediction, Sample

log = logging.getLogger(__name__)

MODES = ("prompt", "text")
CHUNK_BATCHES = 8  # batches whose prompts are sorted by length together


@dataclass(frozen=True)
class Constraint:
    """model.constrain. codes: ICD-10-CM code, block or chapter (or a list of them) whose leaves may be written, or
    `all` of its leaves; beams: lists that are followed at a time; length_penalty: the score of a list is log p divided
    by (number of codes) ** length_penalty; max_codes: of a list; after: prompt | text; separator: between two codes;
    lead: what stands before a list, for samples that name no `code_lead`."""

    codes: str | tuple[str, ...] = "all"
    beams: int = 4
    length_penalty: float = 1.0
    max_codes: int = 6
    after: str = "prompt"
    separator: str = "; "
    lead: str = "ICD-10-CM:\n"

    @classmethod
    def of(cls, setting: Any) -> Constraint | None:
        """model.constrain of a config; None without one. Raises UsageError naming what is wrong."""
        if setting is None:
            return None
        if not isinstance(setting, Mapping):
            raise UsageError(f'model.constrain={setting}: write settings, such as model.constrain={{codes: "7"}}.')
        known = [f.name for f in fields(cls)]
        for name in setting:
            if name not in known:
                raise UsageError(
                    f"model.constrain has no setting {name}.{nearest(str(name), known)} ({', '.join(known)})"
                )
        given = {k: v for k, v in setting.items() if v is not None}
        codes = given.get("codes", cls.codes)
        given["codes"] = tuple(map(str, codes)) if isinstance(codes, (list, tuple)) else str(codes)
        try:
            given |= {k: kind(given[k]) for k, kind in (("beams", int), ("max_codes", int), ("length_penalty", float),
                                                        ("after", str)) if k in given}  # fmt: skip
        except (TypeError, ValueError) as error:
            raise UsageError(f"model.constrain: {error}; beams, max_codes and length_penalty are numbers.") from None
        found = cls(**given)
        found._check()
        return found

    def _check(self) -> None:
        if self.beams < 1 or self.max_codes < 1 or self.length_penalty < 0:
            raise UsageError("model.constrain: beams and max_codes are at least 1, length_penalty is at least 0.")
        if self.after not in MODES:
            raise UsageError(f"model.constrain.after={self.after} is unknown: write {' or '.join(MODES)}.")
        if not self.separator or self.separator.isalnum():
            raise UsageError("model.constrain.separator must hold a sign that no code holds, such as '; '.")
        if not self.lead:
            raise UsageError("model.constrain.lead is empty: name what stands before a list of codes.")
        self.leaves()

    def leaves(self) -> tuple[str, ...]:
        """The codes that may be written, dotted. Raises UsageError for a scope that does not exist."""
        from clarion.codes.icd10cm import icd10cm

        system = icd10cm()
        if self.codes == "all":
            return system.leaves
        scopes = (self.codes,) if isinstance(self.codes, str) else self.codes
        found: dict[str, None] = {}
        for scope in scopes:
            if not system.exists(scope):
                raise UsageError(f"model.constrain.codes={scope}: {system.unknown(scope)} (`all` means all leaves)")
            found |= dict.fromkeys(system.descendant_leaves(scope, prioritize_blocks=True))
        return tuple(found)


def check_constraint(model: Mapping[str, Any]) -> None:
    """Refuse a model.constrain that cannot work, before data are prepared and without torch."""
    if model.get("constrain") is None:
        return
    if (engine := str(model.get("engine") or "transformers")) != "transformers":
        raise UsageError(
            f"model.constrain needs the scores of every token, which model.engine={engine} does not give: use "
            "model=hf_causal model.path=/folder, or drop model.constrain."
        )
    Constraint.of(model["constrain"])


def constrained(predictor: Any, model: Mapping[str, Any]) -> Any:
    """The predictor itself, or, where the model's config says constrain, one that answers with codes."""
    constraint = Constraint.of(model.get("constrain"))
    return predictor if constraint is None else CodePredictor(predictor, constraint)


class CodePredictor:
    """Samples {"messages" [, "code_lead"]} -> predictions {"codes", "confidences", "text", "score", "trie_us"}.

    codes: the best list, existing codes of the scope, none twice, in the model's order; confidences: of each the
    probability that the model, held to the codes it may still write (and, from the second on, the end), writes it here;
    score: log p of the list and its end / codes ** length_penalty; text: the answer as it reads, with what the model
    wrote before the list where `after: text` (then also `led`: it wrote the lead itself); trie_us: microseconds that
    one step of the trie took for one beam, in the batch the answer came from."""

    def __init__(self, chat: Any, constraint: Constraint):
        """chat: an SftPredictor, whose network, tokenizer, cache and batches are used."""
        from clarion.trainers.sft_codes_beam import Cost, Limits

        self.chat, self.constraint = chat, constraint
        self.leaves = constraint.leaves()
        self.limits = Limits(constraint.beams, constraint.max_codes, constraint.length_penalty)
        self.cost = Cost()
        self._tries: dict[str, Any] = {}

    def use_cache(self, setting: Any, data_kind: str | None) -> None:
        """As SftPredictor.use_cache."""
        self.chat.use_cache(setting, data_kind)

    def __call__(self, samples: Iterable[Sample]) -> Iterator[Prediction]:
        """Raises DataError for a prompt that does not fit, with the longest list, into the context."""
        iterator, position = iter(samples), 0
        while chunk := list(islice(iterator, self.chat.batch_size * CHUNK_BATCHES)):
            leads = [str(s.inputs.get("code_lead") or self.constraint.lead) for s in chunk]
            before = self._before(chunk, leads, position)
            prompts = [self._prompt(*one) for one in zip(chunk, before, leads, strict=True)]
            answers = self._answers(prompts, leads)
            for sample, (text, led), lead, answer in zip(chunk, before, leads, answers, strict=True):
                written = text + lead + self.constraint.separator.join(answer["codes"])
                own = {} if led is None else {"led": led}
                yield Prediction(sample.sample_id, sample.patient_id, answer | {"text": written} | own)
            position += len(chunk)
        if self.cost.rows:
            log.info("constrained decoding: %s", self.said())

    def said(self) -> str:
        """What the trie cost, in a sentence."""
        cost = self.cost
        return (
            f"{len(self.leaves):,} codes, {cost.steps} steps of {cost.rows / cost.steps:.0f} beams; the trie took "
            f"{1e6 * cost.trie_s / cost.rows:.1f} us a beam and step, {cost.trie_s / cost.total_s:.2%} of the decoding"
        )

    # ------------------------------------------------------------------------------------------------------ prompts

    def _before(self, chunk: Sequence[Sample], leads: Sequence[str], position: int) -> list[tuple[str, bool | None]]:
        """(what stands between the question and the lead, whether the model wrote the lead by itself)."""
        if self.constraint.after == "prompt":
            return [("", None) for _ in chunk]
        values: list[dict[str, Any]] = [{} for _ in chunk]
        self.chat._add_texts(chunk, values, self.chat.seed + position)
        out = []
        for value, lead in zip(values, leads, strict=True):
            text, found, _ = value["text"].partition(lead.strip())
            out.append((text if found or not text else text.rstrip() + "\n", bool(found)))
        return out

    def _prompt(self, sample: Sample, before: tuple[str, bool | None], lead: str) -> list[int]:
        """Token ids up to where the trie begins."""
        from clarion.trainers.sft_codes_trie import encode

        if "messages" not in sample.inputs:
            raise UsageError(f"model.constrain answers questions; sample {sample.sample_id} has no messages.")
        tokenizer, trie = self.chat.tokenizer, self._trie(lead)
        text = before[0] + lead
        opened = tokenizer.apply_chat_template(
            list(sample.inputs["messages"]), add_generation_prompt=True, tokenize=False, **self.chat.template_args
        )
        [ids], [alone] = encode(tokenizer, [opened + text]), encode(tokenizer, [lead])
        surplus = len(alone) - trie.shared
        if surplus and ids[-surplus:] == alone[-surplus:]:
            ids = ids[:-surplus]
        elif surplus:  # the text merges into the lead: then the lead is spelled by itself
            ids = encode(tokenizer, [opened + before[0]])[0] + alone[: trie.shared]
        longest = len(ids) + trie.longest * self.limits.max_codes
        if longest > self.chat.context:
            raise DataError(
                f"the prompt of sample {sample.sample_id} has {len(ids)} tokens, {longest} with "
                f"{self.limits.max_codes} codes; this model takes {self.chat.context}: shorten the prompt, "
                "or lower model.constrain.max_codes."
            )
        return ids

    def _trie(self, lead: str) -> Any:
        if lead not in self._tries:
            from clarion.trainers.sft_codes_trie import code_trie

            self._tries[lead] = code_trie(self.chat.tokenizer, self.leaves, lead, self.constraint.separator)
        return self._tries[lead]

    # ------------------------------------------------------------------------------------------------------ answers

    def _answers(self, prompts: Sequence[list[int]], leads: Sequence[str]) -> list[dict[str, Any]]:
        from clarion.trainers.answers import digest

        scope = digest(self.leaves, self.constraint.separator, self.limits)
        found: list[dict[str, Any]] = [{} for _ in prompts]
        for lead in dict.fromkeys(leads):
            rows = [k for k, own in enumerate(leads) if own == lead]
            trie = self._trie(lead)
            answers = self.chat._answered(
                [digest("codes", prompts[k], lead, scope) for k in rows],
                [len(prompts[k]) for k in rows],
                lambda part, _, rows=rows, trie=trie: self._search([prompts[rows[k]] for k in part], trie),
                self.chat.cache,
            )
            for k, answer in zip(rows, answers, strict=True):
                found[k] = dict(answer)
        return found

    def _search(self, prompts: list[list[int]], trie: Any) -> list[dict[str, Any]]:
        from clarion.trainers.sft_codes_beam import search

        chat = self.chat
        searches, cost = search(
            chat.network, prompts, trie, self.limits, chat.stop_id, chat.tokenizer.pad_token_id
        )
        self.cost.add(cost)
        answers = [one.answer() for one in searches]
        trie_us = round(1e6 * cost.trie_s / cost.rows, 2)
        return [
            {"codes": list(a.codes), "confidences": list(a.sure), "score": a.score, "trie_us": trie_us} for a in answers
        ]
