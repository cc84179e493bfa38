"""Token rows of a fused language model: prompt with placeholders, statement, rationale; what the loss weighs how.

A row's loss is  outcome_weight x IPCW x NLL(statement)  +  mean NLL(rationale and stop token). Of a patient whose
outcome at the horizon nobody knows, the statement stands in the row as context only, drawn by id, outside the loss.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from clarion.errors import DataError, UsageError
from clarion.trainers.base import Sample
from clarion.trainers.sft_chat import ChatFormat, special_ids
from clarion.trainers.sft_mask import IGNORED


@dataclass(frozen=True)
class FusedInput:
    """One patient, ready to be asked about. facts: of the prompter; embeddings: modality -> 1-d float tensor, without
    the modalities that are missing."""

    sample_id: str
    patient_id: str
    facts: Any
    embeddings: Mapping[str, torch.Tensor] = field(repr=False)


def fused_inputs(samples: Sequence[Sample], prompter: Any, encoders: Any, tissue: Any = None) -> list[FusedInput]:
    """Facts and embeddings of samples. tissue (sft_fusion_tissue.Tissue): also the tissue attended to, for patients
    with a slide whose inputs have no patterns of their own. DataError for a patient with neither slide nor omics."""
    known = [prompter.present(s.inputs, f"Patient {s.sample_id}") for s in samples]
    found: list[dict[str, torch.Tensor]] = [{} for _ in samples]
    for name in encoders.embed:
        rows = [k for k, has in enumerate(known) if has[name]]
        if rows:
            for k, vector in zip(rows, torch.from_numpy(encoders(name, [samples[k] for k in rows])), strict=True):
                found[k][name] = vector
    given = [s.inputs for s in samples]
    seen = [k for k, has in enumerate(known) if has["slide"] and given[k].get("patterns") is None]
    if tissue is not None:
        for k, patterns in zip(seen, tissue([samples[k] for k in seen]), strict=True):
            given[k] = {**given[k], "patterns": patterns}
    return [
        FusedInput(s.sample_id, s.patient_id, prompter.facts(own, f"Patient {s.sample_id}"), e)
        for s, own, e in zip(samples, given, found, strict=True)
    ]


def stacked(inputs: Sequence[FusedInput], widths: Mapping[str, int]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """(modality -> float [n, width], 0 where missing; present bool [n, M]) in the order of `widths`."""
    embeddings = {
        name: torch.stack([one.embeddings.get(name, torch.zeros(width)) for one in inputs])
        for name, width in widths.items()
    }
    return embeddings, torch.tensor([[name in one.embeddings for name in widths] for one in inputs])


def placeholder_id(tokenizer: Any, token: str) -> int:
    """The id of the placeholder. UsageError where the vocabulary has no such special token."""
    special = {tokenizer.convert_ids_to_tokens(k): k for k in special_ids(tokenizer)}
    if token not in special:
        spare = ", ".join(sorted(special)[:8])
        raise UsageError(f"model.fusion.placeholder={token} is no special token of this vocabulary; take one that "
                         f"conversations do not use (it has {spare} ...).")  # fmt: skip
    return special[token]


class RowMaker:
    """FusedInputs -> rows {input_ids, labels, weights, row}; tokens: K; outcome_weight: of the statement."""

    def __init__(self, tokenizer: Any, chat: ChatFormat, template_args: Mapping[str, Any], prompter: Any,
                 placeholder: str, tokens: int, outcome_weight: float, max_length: int | None):  # fmt: skip
        self.tokenizer, self.chat, self.template_args = tokenizer, chat, dict(template_args)
        self.prompter, self.soft = prompter, placeholder * tokens
        self.placeholder, self.tokens = placeholder_id(tokenizer, placeholder), tokens
        self.outcome_weight, self.max_length = float(outcome_weight), max_length

    def rows(self, inputs: Sequence[FusedInput], outcomes: Any, brief: bool) -> list[dict[str, Any]]:
        """outcomes: DataFrame died, weight by sample id. brief: short prompt and statement alone, of those whose
        outcome is known (stage one); else with the rationale. DataError for a row longer than max_length."""
        made = []
        for k, one in enumerate(inputs):
            died, weight = outcomes.at[one.sample_id, "died"], float(outcomes.at[one.sample_id, "weight"])
            if died != died or weight <= 0:
                if brief:
                    continue
                died, weight = _drawn(one.sample_id), 0.0
            made.append({"row": k, **self._row(one, int(died), weight, brief)})
        return made

    def _row(self, one: FusedInput, died: int, weight: float, brief: bool) -> dict[str, list]:
        messages = self.prompter.messages(one.facts, self.soft, brief)
        statement = self.prompter.statements[died]
        answer = statement if brief else f"{statement}\n\n{self.prompter.rationale(one.facts, one.sample_id)}"
        write = self.tokenizer.apply_chat_template
        prompt = write(messages, add_generation_prompt=True, tokenize=False, **self.template_args)
        whole = write([*messages, {"role": "assistant", "content": answer}], tokenize=False, **self.template_args)
        if not whole.startswith(prompt + statement):
            raise DataError("The chat template changes the prompt when the answer follows it: set model.template.")
        # The template has written BOS already.
        coded = self.tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)
        ids, begins = coded["input_ids"], [begin for begin, _ in coded["offset_mapping"]]
        start = next(k for k, b in enumerate(begins) if b >= len(prompt))
        reasons = next(k for k, b in enumerate(begins) if b >= len(prompt + statement))
        end = next((k for k in range(reasons, len(ids)) if ids[k] == self.chat.stop_id), None)
        if end is None or (self.max_length and end + 1 > self.max_length):
            raise DataError(f"The text of patient {one.sample_id} has {len(ids)} tokens, trainer.args.max_length="
                            f"{self.max_length}: raise it, or show fewer genes (data.prompt.shown).")  # fmt: skip
        if ids.count(self.placeholder) != self.tokens:
            raise DataError(f"The text of patient {one.sample_id} holds the placeholder token: take another one.")
        ids = ids[: end + 1]
        told = len(ids) - reasons
        weights = [0.0] * start + [self.outcome_weight * weight] * (reasons - start) + [1.0 / told] * told
        labels = [token if w > 0 else IGNORED for token, w in zip(ids, weights, strict=True)]
        return {"input_ids": ids, "labels": labels, "weights": weights}


class FusionCollator:
    """Rows -> a batch: right-padded ids, labels and weights, and the embeddings of their patients."""

    def __init__(self, inputs: Sequence[FusedInput], widths: Mapping[str, int], pad_id: int):
        self.inputs, self.widths, self.pad_id = inputs, dict(widths), pad_id

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        width = max(len(row["input_ids"]) for row in rows)
        fill = {"input_ids": self.pad_id, "labels": IGNORED, "weights": 0.0}
        batch = {
            name: torch.tensor([list(row[name]) + [value] * (width - len(row[name])) for row in rows])
            for name, value in fill.items()
        }
        batch["attention_mask"] = torch.tensor(
            [[1] * len(row["input_ids"]) + [0] * (width - len(row["input_ids"])) for row in rows]
        )
        embeddings, present = stacked([self.inputs[row["row"]] for row in rows], self.widths)
        return batch | {"embeddings": embeddings, "present": present}


def check_rows(rows: Sequence[Mapping[str, Any]], maker: RowMaker, split: str, weighted: int) -> str:
    """One sentence on what is trained. weighted: patients whose outcome has a weight above 0. DataError where another
    number of statements is in the loss, or where a row does not train the stop token."""
    known = 0
    for row in rows:
        trained = [k for k, label in enumerate(row["labels"]) if label != IGNORED]
        header = len(maker.chat.header)
        if row["labels"][trained[-1]] != maker.chat.stop_id:
            raise DataError(f"A row of split {split} does not train the stop token; nothing was trained.")
        if trained[0] > 0 and tuple(row["input_ids"][trained[0] - header : trained[0]]) == maker.chat.header:
            known += 1
    expected = weighted if maker.outcome_weight > 0 else 0
    if known != expected:
        raise DataError(f"The statement of {known} patients of split {split} is in the loss where the outcome of "
                        f"{expected} is known: the tokenizer joins words across the answer's first token; set "
                        "model.template. Nothing was trained.")  # fmt: skip
    total, on = sum(len(r["labels"]) for r in rows), sum(label != IGNORED for r in rows for label in r["labels"])
    return (f"{split}: {len(rows)} patients, {on} of {total} tokens supervised ({100 * on / max(total, 1):.1f} %), "
            f"{maker.tokens} soft tokens each; the statement is in the loss of {known}, outside that of "
            f"{len(rows) - known} whose outcome is not known (IPCW weight of the others stands for them)")  # fmt: skip


def _drawn(sample_id: str) -> int:
    """0 or 1 by the id: a statement that is context only must not say anything of the patient."""
    return hashlib.blake2b(sample_id.encode(), digest_size=1).digest()[0] & 1
