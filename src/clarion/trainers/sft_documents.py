"""Continued pre-training: plain documents as BOS + text + EOS, whole, isolated in packs, or in full windows.

"wrapped" packing is the published one: the documents follow one another in a single stream that is cut every
max_length tokens; what does not fill the last window is dropped. A window then holds the ends and beginnings of
several documents that see each other. packing_strategy=bfd_split packs the same documents in isolation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from clarion.errors import DataError, UsageError
from clarion.trainers.sft_chat import leading_count
from clarion.trainers.sft_mask import IGNORED, documents


@dataclass(frozen=True)
class DocumentFormat:
    """The ids that open (None: nothing does) and end a document."""

    bos_id: int | None
    eos_id: int


def document_format(tokenizer: Any, tokens: Mapping[str, str | None] | None = None) -> DocumentFormat:
    """model.document_tokens {bos, eos} over the tokenizer's own; a bos of null opens documents with nothing.

    Raises UsageError for a token that the vocabulary lacks, and for a tokenizer without any end of text."""
    given = dict(tokens or {})
    vocabulary = tokenizer.get_vocab()
    bos, eos = given.get("bos", tokenizer.bos_token), given.get("eos") or tokenizer.eos_token
    for name, token in (("bos", bos), ("eos", eos)):
        if token is not None and token not in vocabulary:
            raise UsageError(f"model.document_tokens.{name}={token} is not in the tokenizer's vocabulary.")
    if eos is None:
        raise UsageError("the tokenizer has no end-of-text token; name one: model.document_tokens.eos=...")
    return DocumentFormat(None if bos is None else vocabulary[bos], vocabulary[eos])


def is_documents(dataset: Any) -> bool:
    """Rows {"text"} are documents; prompt + completion or messages are conversations."""
    return "text" in dataset.column_names and not {"prompt", "messages"} & set(dataset.column_names)


def refuse_masks(args: Mapping[str, Any]) -> None:
    """Settings that TRL ignores on plain text without a word."""
    for name in ("completion_only_loss", "assistant_only_loss"):
        if args.get(name):
            raise DataError(
                f"trainer.args.{name}=true does nothing on rows of plain text: they would train on the prompt too; "
                "give the data as prompt + completion messages."
            )


def tokenized(dataset: Any, tokenizer: Any, form: DocumentFormat) -> Any:
    """datasets.Dataset {"text"} -> {"input_ids", "labels"}, a row a document, every token supervised."""
    head = [] if form.bos_id is None else [form.bos_id]

    def encode(batch: Mapping[str, list[str]]) -> dict[str, list[list[int]]]:
        rows = tokenizer(batch["text"], add_special_tokens=False, verbose=False)["input_ids"]
        ids = [[*head, *row, form.eos_id] for row in rows]
        return {"input_ids": ids, "labels": ids}

    return dataset.map(encode, batched=True, remove_columns=dataset.column_names, desc="tokenise documents")


def windows(rows: Any, length: int, drop_tail: bool, split: str) -> Any:
    """Tokenised documents -> windows of exactly `length` tokens (and the shorter rest unless drop_tail), in bounded
    memory. Raises DataError when not even one window can be filled."""
    from datasets import Dataset, concatenate_datasets

    rest: list[int] = []
    total = 0

    def cut(batch: Mapping[str, list[list[int]]]) -> dict[str, list[list[int]]]:
        nonlocal rest, total
        stream = rest + list(chain.from_iterable(batch["input_ids"]))
        total += len(stream) - len(rest)
        whole = len(stream) // length * length
        rest = stream[whole:]
        ids = [stream[k : k + length] for k in range(0, whole, length)]
        return {"input_ids": ids, "labels": ids}

    # The rest carried from batch to batch makes this map neither parallel nor cacheable.
    packed = rows.map(cut, batched=True, remove_columns=rows.column_names, load_from_cache_file=False,
                      new_fingerprint=f"{rows._fingerprint}-{length}", desc="pack documents")  # fmt: skip
    if rest and not drop_tail:
        tail = Dataset.from_dict({"input_ids": [rest], "labels": [rest]}, features=packed.features)
        packed = concatenate_datasets([packed, tail])
    if not len(packed):
        raise DataError(
            f"the {total} tokens of split {split} do not fill one window of trainer.args.max_length={length}: give "
            "more text, or lower it."
        )
    return packed


@dataclass
class DocumentReport:
    """What the loss of one split sees. rows: windows, packs or documents that the loader gave."""

    split: str
    documents: int
    rows: int = 0
    tokens: int = 0
    supervised: int = 0
    bos: int = 0
    eos: int = 0
    problems: dict[str, list[str]] = field(default_factory=dict)

    @property
    def share(self) -> float:
        return self.supervised / self.tokens if self.tokens else 0.0


def inspect_documents(loader: Any, split: str, form: DocumentFormat, count: int) -> DocumentReport:
    """Go through every batch of the trainer's own loader; count: documents that the data gave."""
    report = DocumentReport(split, count)
    for batch in loader:
        for ids, labels, padding in documents(batch):
            report.rows += 1
            report.tokens += len(ids)
            report.supervised += sum(label != IGNORED for label in labels)
            report.eos += ids.count(form.eos_id)
            if any(label != IGNORED for label in padding):
                report.problems.setdefault("padding", []).append("")
            # The first token of a row has nothing before it to be predicted from: its label counts for nothing.
            if any(label != token for token, label in zip(ids[1:], labels[1:], strict=True)):
                report.problems.setdefault("masked", []).append("")
            if form.bos_id is not None and form.bos_id != form.eos_id:
                starts = [k for k, token in enumerate(ids) if token == form.bos_id]
                report.bos += len(starts)
                inside = [k for k in starts if k and ids[k - 1] != form.eos_id]
                if inside:
                    run = max(leading_count(ids[k:], form.bos_id) for k in starts)
                    report.problems.setdefault("bos", []).append(f"{max(run, 2)} instead of 1")
                ends = [k for k, token in enumerate(ids[:-1]) if token == form.eos_id]
                if any(ids[k + 1] != form.bos_id for k in ends):
                    report.problems.setdefault("eos", []).append("")
    return report


def require_documents(report: DocumentReport, tokenizer: Any, form: DocumentFormat, windowed: bool, length: int) -> str:
    """One line of totals; DataError with everything that is wrong, in one sentence, before the first step."""
    eos = tokenizer.convert_ids_to_tokens(form.eos_id)
    bos = "none" if form.bos_id is None else tokenizer.convert_ids_to_tokens(form.bos_id)
    n, said = report.rows, []
    wording = {
        "bos": "{k} of {n} documents begin with the wrong number of BOS tokens ({first}), or hold one inside: give "
        "text without the special tokens that Clarion adds itself (and conversations as prompt + completion messages)",
        "eos": f"{{k}} of {{n}} documents hold the end-of-text token {eos} inside: remove it from the texts",
        "masked": "{k} of {n} rows have tokens outside the loss, or labels that are not their own tokens",
        "padding": "{k} of {n} rows have padding inside the loss",
    }
    for kind, text in wording.items():
        if found := report.problems.get(kind):
            said.append(text.format(k=len(found), n=n, first=found[0]))
    if not said and not windowed and report.eos < report.documents:
        said.append(
            f"{report.documents - report.eos} of {report.documents} documents lose their end, and {eos} with it, at "
            f"trainer.args.max_length={length}: set trainer.args.packing=true and trainer.args.packing_strategy="
            "bfd_split (isolated) or wrapped, or raise max_length"
        )
    if not said and form.bos_id not in (None, form.eos_id) and not windowed and report.bos != report.documents:
        said.append(f"{report.bos} BOS tokens stand in {report.documents} documents")
    if said:
        raise DataError(f"The documents of split {report.split} are wrong, nothing was trained: {'; '.join(said)}.")
    kind = f"windows of {length}, documents see their neighbours" if windowed else "documents apart from each other"
    return (
        f"{report.split}: {report.documents} documents in {report.rows} rows ({kind}), {report.tokens} tokens, "
        f"all supervised, BOS {bos} ({report.bos}), EOS {eos} ({report.eos})"
    )
