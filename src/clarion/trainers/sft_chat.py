"""What a tokenizer's chat template does to a turn: where the answer begins, and which token ends it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError

from clarion.errors import DataError, UsageError

_QUESTION, _ANSWER = "Is the foveal pit present?", "Yes, it is."


@dataclass(frozen=True)
class ChatFormat:
    """Token ids around an assistant's turn.

    bos_id: the tokenizer's BOS, None without one; bos: how many of it begin a conversation (0 or 1); bos_is_marker:
    the template uses the same token between turns (ChatML does), so that its total says nothing; header: the ids that
    open the assistant's turn; stop_id: the special token that ends it; tail: ids the template writes after that.
    """

    bos_id: int | None
    bos: int
    bos_is_marker: bool
    header: tuple[int, ...]
    stop_id: int
    tail: tuple[int, ...]


def system_prompts(rows: Any, most: int = 5) -> dict[str, Any]:
    """{"rows", "distinct", "most": the commonest as [{"text" ("" for none), "rows"}]} of a conversational dataset: what
    a model expects at inference. rows: datasets.Dataset with a column prompt or messages."""
    column = "prompt" if "prompt" in rows.column_names else "messages"
    firsts = (turns[0] for turns in rows[column])
    found = Counter(turn["content"] if turn["role"] == "system" else "" for turn in firsts)
    common = [{"text": text, "rows": count} for text, count in found.most_common(most)]
    return {"rows": sum(found.values()), "distinct": len(found), "most": common}


def render(
    tokenizer: Any, messages: Sequence[Mapping[str, str]], template_args: Mapping[str, Any], generate: bool = False
) -> list[int]:
    """Token ids of a conversation by the tokenizer's template. No further BOS is added: the template writes its own."""
    return tokenizer.apply_chat_template(
        list(messages), add_generation_prompt=generate, tokenize=True, return_dict=True, **template_args
    )["input_ids"]


def chat_format(tokenizer: Any, template_args: Mapping[str, Any] | None = None) -> ChatFormat:
    """Learn the format by rendering a small conversation.

    Raises UsageError for a tokenizer without a template, DataError for a template that breaks, or that does not end the
    assistant's turn with a special token (the model could never learn to stop)."""
    if not tokenizer.chat_template:
        raise UsageError("the tokenizer has no chat template; set model.template=llama3 or a .jinja file.")
    kwargs = dict(template_args or {})
    user, assistant = {"role": "user", "content": _QUESTION}, {"role": "assistant", "content": _ANSWER}
    try:
        bare, opened = render(tokenizer, [user], kwargs), render(tokenizer, [user], kwargs, generate=True)
        whole = render(tokenizer, [user, assistant], kwargs)
    except TemplateError as error:
        raise DataError(
            f"the chat template cannot write a question and its answer ({error}): mend it, or set "
            "model.template=llama3."
        ) from error
    turn = whole[common_prefix(whole, opened) :]
    special = special_ids(tokenizer)
    stops = [k for k, token in enumerate(turn) if token in special]
    if not stops:
        raise DataError(
            "the chat template writes no stop token (a special token such as "
            f"{tokenizer.eos_token or '<|eot_id|>'}) after the assistant's turn, so the model would never learn to "
            "stop: add the token to the template, or set model.template=llama3."
        )
    bos_id = tokenizer.bos_token_id
    leading = leading_count(whole, bos_id)
    return ChatFormat(
        bos_id=bos_id,
        bos=leading,
        bos_is_marker=bos_id is not None and whole.count(bos_id) > leading,
        header=tuple(opened[common_prefix(bare, opened) :]),
        stop_id=turn[stops[0]],
        tail=tuple(turn[stops[0] + 1 :]),
    )


def special_ids(tokenizer: Any) -> frozenset[int]:
    """Ids of all tokens that are not ordinary text."""
    added = {k for k, token in tokenizer.added_tokens_decoder.items() if token.special}
    return frozenset(added | set(tokenizer.all_special_ids))


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the common beginning."""
    length = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        length += 1
    return length


def leading_count(ids: Sequence[int], token: int | None) -> int:
    """How many of `token` the sequence begins with."""
    count = 0
    while token is not None and count < len(ids) and ids[count] == token:
        count += 1
    return count


def use_template(tokenizer: Any, template: str | None) -> None:
    """Give the tokenizer a chat template: llama3 (ships with TRL), a .jinja file, or None to keep its own."""
    if template is None:
        return
    if template == "llama3":
        from trl.chat_template_utils import llama3_chat_template

        tokenizer.chat_template = llama3_chat_template
        return
    try:
        with open(template, encoding="utf-8") as file:
            tokenizer.chat_template = file.read()
    except OSError as error:
        raise UsageError(f"model.template={template} is neither llama3 nor a readable .jinja file ({error}).") from None


def use_pad(tokenizer: Any, pad_token: str | None) -> None:
    """Set the padding token: the one asked for, the tokenizer's own, Llama's reserved one, else the stop token.

    With pad = eos a collator that masks by token id would unlearn the stop; TRL's masks by length, and the mask check
    proves it on the batches."""
    vocabulary = tokenizer.get_vocab()
    if pad_token is not None:
        if pad_token not in vocabulary:
            raise UsageError(f"model.pad_token={pad_token} is not in the tokenizer's vocabulary.")
        tokenizer.pad_token = pad_token
    elif tokenizer.pad_token is None:
        reserved = "<|finetune_right_pad_id|>"
        tokenizer.pad_token = reserved if reserved in vocabulary else tokenizer.eos_token
    if tokenizer.pad_token is None:
        raise UsageError("the tokenizer has neither a padding nor an end token; name one: model.pad_token=TOKEN.")
