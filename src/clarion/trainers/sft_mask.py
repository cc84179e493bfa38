"""Before step 0: which tokens are trained? Read from the batches that the trainer itself will see.

Wrong masks are silent: the loss falls nicely while the model learns to recite prompts, never learns to stop,
or sees two BOS tokens that it will not see at inference.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from clarion.errors import DataError
from clarion.trainers.sft_chat import ChatFormat, leading_count

IGNORED = -100  # label of a token outside the loss (torch's cross entropy)
_SHOWN_CONTEXT, _SHOWN_TRAINED = 6, 40


@dataclass
class MaskReport:
    """What the loss of one split sees. tokens, supervised: sums over all documents; bos: at the head of each;
    example: ids and labels of the first document of the first batch."""

    split: str
    documents: int = 0
    tokens: int = 0
    supervised: int = 0
    bos: int = 0
    problems: dict[str, list[str]] = field(default_factory=dict)
    example: tuple[list[int], list[int]] | None = None

    @property
    def share(self) -> float:
        return self.supervised / self.tokens if self.tokens else 0.0

    def problem(self, kind: str, detail: str) -> None:
        self.problems.setdefault(kind, []).append(detail)


def documents(batch: Any) -> Iterator[tuple[list[int], list[int], list[int]]]:
    """Ids and labels of each document of a collated batch, and the labels on its padding.

    A batch is either padded (attention_mask) or flattened and packed (position_ids restart at 0)."""
    ids, labels = batch["input_ids"].tolist(), batch["labels"].tolist()
    if "attention_mask" in batch:
        for row, target, mask in zip(ids, labels, batch["attention_mask"].tolist(), strict=True):
            kept = [k for k, on in enumerate(mask) if on]
            padding = [target[k] for k, on in enumerate(mask) if not on]
            yield [row[k] for k in kept], [target[k] for k in kept], padding
        return
    for row, target, position in zip(ids, labels, batch["position_ids"].tolist(), strict=True):
        starts = [k for k, p in enumerate(position) if p == 0] + [len(row)]
        for start, stop in zip(starts, starts[1:], strict=False):
            yield row[start:stop], target[start:stop], []


def inspect_mask(loader: Any, split: str, chat: ChatFormat) -> MaskReport:
    """Go through every batch of `loader` (the trainer's own) and collect what is wrong."""
    report = MaskReport(split)
    for batch in loader:
        for ids, labels, padding in documents(batch):
            report.documents += 1
            report.tokens += len(ids)
            report.supervised += sum(label != IGNORED for label in labels)
            if report.example is None:
                report.example = (ids, labels)
                report.bos = leading_count(ids, chat.bos_id)
            if any(label != IGNORED for label in padding):
                report.problem("padding", "")
            _inspect_bos(report, ids, chat)
            _inspect_labels(report, ids, labels, chat)
    return report


def _inspect_bos(report: MaskReport, ids: Sequence[int], chat: ChatFormat) -> None:
    if chat.bos_id is None:
        return
    leading, total = leading_count(ids, chat.bos_id), ids.count(chat.bos_id)
    count = leading if chat.bos_is_marker else max(leading, total)
    if count != chat.bos:
        report.problem("bos", f"{count} instead of {chat.bos}")


def _inspect_labels(report: MaskReport, ids: Sequence[int], labels: Sequence[int], chat: ChatFormat) -> None:
    trained = [label != IGNORED for label in labels]
    if not any(trained):
        report.problem("nothing", "")
        return
    if any(label not in (IGNORED, token) for token, label in zip(ids, labels, strict=True)):
        report.problem("shifted", "")
        return
    for start, stop in _runs(trained):
        header = tuple(ids[max(0, start - len(chat.header)) : start])
        if start == 0 or header != chat.header or (not chat.header and start <= chat.bos):
            report.problem("prompt", f"token {start}")
        span = list(ids[start:stop])
        while span and span[-1] != chat.stop_id and span[-1] in chat.tail:
            span.pop()  # what the template writes after the stop token, such as ChatML's line break
        if not span or span[-1] != chat.stop_id:
            cut = stop < len(ids) and ids[stop] == chat.stop_id
            report.problem("stop_masked" if cut else "stop_missing", "")


def _runs(flags: Sequence[bool]) -> Iterator[tuple[int, int]]:
    start = None
    for k, flag in enumerate([*flags, False]):
        if flag and start is None:
            start = k
        elif not flag and start is not None:
            yield start, k
            start = None


def require(report: MaskReport, expected: int, tokenizer: Any, chat: ChatFormat, max_length: int | None) -> None:
    """Raise DataError, one sentence with everything that is wrong, unless all `expected` examples are trained well."""
    n = report.documents
    stop = tokenizer.convert_ids_to_tokens(chat.stop_id)
    said = []
    if n < expected:
        said.append(
            f"{expected - n} of {expected} examples lost their whole answer because "
            f"trainer.args.max_length={max_length} is shorter than their prompt; raise it"
        )
    wording = {
        "bos": "begin with the wrong number of BOS tokens ({first}); give messages, or text without the BOS that "
        "the tokenizer adds itself",
        "prompt": "train on the prompt too (training starts at {first}, not behind the assistant's header); give "
        "the data as prompt + completion messages, or set trainer.args.assistant_only_loss=true",
        "nothing": "have no trained token at all",
        "shifted": "have labels that are not their own tokens",
        "stop_missing": f"do not end with the stop token {stop}; raise trainer.args.max_length={max_length} if it "
        "cuts them, else end each answer with that token",
        "stop_masked": f"have their stop token {stop} outside the loss (a collator that masks the pad token "
        f"{tokenizer.pad_token} does this where both are the same); set model.pad_token to another token",
        "padding": "have padding inside the loss",
    }
    for kind, text in wording.items():
        found = report.problems.get(kind)
        if found:
            said.append(f"{len(found)} of {n} examples {text.format(first=found[0])}")
    if said:
        raise DataError(f"The training mask of split {report.split} is wrong, nothing was trained: {'; '.join(said)}.")


def table(report: MaskReport, tokenizer: Any, chat: ChatFormat, show_text: bool = True) -> str:
    """The first example, token by token, and the totals; show_text=False (private data) hides ordinary tokens."""
    ids, labels = report.example or ([], [])
    trained = [label != IGNORED for label in labels]
    special = set(tokenizer.all_special_ids) | {chat.stop_id, *chat.header}
    first = trained.index(True) if True in trained else len(ids)
    lines = [f"supervised tokens, split {report.split}, first example ({sum(trained)} of {len(ids)} tokens):"]
    for k, (token, on) in enumerate(zip(ids, trained, strict=True)):
        if _SHOWN_CONTEXT <= k < first - _SHOWN_CONTEXT:
            if k == _SHOWN_CONTEXT:
                lines.append(f"  ...  {first - 2 * _SHOWN_CONTEXT} more context tokens")
            continue
        if k >= first + _SHOWN_TRAINED and k < len(ids) - 2:
            if k == first + _SHOWN_TRAINED:
                lines.append(f"  ...  {len(ids) - 2 - k} more tokens")
            continue
        text = repr(tokenizer.decode([token])) if show_text or token in special else "(hidden: private data)"
        lines.append(f"  {k:5d}  {token:7d}  {'TRAIN' if on else '  .  '}  {text}")
    return "\n".join([*lines, summary(report, tokenizer, chat)])


def summary(report: MaskReport, tokenizer: Any, chat: ChatFormat) -> str:
    """The totals of a split in one line."""
    stop, pad = tokenizer.convert_ids_to_tokens(chat.stop_id), tokenizer.pad_token
    same = " (same token: padding is left out of the loss, the stop token is in it)" if stop == pad else ""
    return (
        f"{report.split}: {report.documents} examples, {report.supervised} of {report.tokens} tokens supervised "
        f"({100 * report.share:.1f} %), BOS {report.bos}, stop token {stop}, pad {pad}{same}"
    )
