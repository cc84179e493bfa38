"""Log-probabilities of answer options behind one shared prompt, which the network reads once for all of them.

Every question becomes one row: prompt, then its options one after the other. A block mask keeps an option from
seeing its neighbours, and position ids let each begin where the prompt ends, so that the row gives what one full
forward per option gives, for the price of one. Where a network's attention takes no such mask (flash attention,
sliding windows), the prompt's key-value cache is repeated for its options instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from clarion.errors import DataError
from clarion.trainers.sft_chat import common_prefix

MASKED = ("sdpa", "eager")  # attention implementations that take a mask of their own for every pair of tokens


@dataclass(frozen=True)
class Question:
    """Token ids of one question. prefix: what its options share; options: what follows, one list an option."""

    prefix: tuple[int, ...]
    options: tuple[tuple[int, ...], ...]

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt with an option: what must fit into the context."""
        return len(self.prefix) + max(map(len, self.options))

    @property
    def packed(self) -> int:
        """Tokens of the row that holds them all."""
        return len(self.prefix) + sum(map(len, self.options))


def question(
    tokenizer: Any,
    messages: Sequence[Mapping[str, str]],
    lead: str,
    options: Sequence[str],
    template_args: Mapping[str, Any],
    name: str = "",
) -> Question:
    """The prompt by the chat template, then `lead`, then each option.

    Prompt and option are tokenised together, as they stand in a training text: a token may reach over their border
    (a blank at the end of the lead belongs to the next word). All tokens from the first one that any option changes
    count as the option's, the same for all of them, so the sums stay comparable. Raises DataError (with `name`) for
    an empty option and for two that are the same."""
    if len(options) < 2 or not all(o.strip() for o in options) or len(set(options)) < len(options):
        raise DataError(f"sample {name} needs at least two options, none empty and no two the same; it has {options}.")
    text = tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False, **template_args)
    texts = [f"{text}{lead}", *(f"{text}{lead}{option}" for option in options)]
    # The template has written BOS already.
    alone, *joint = tokenizer(texts, add_special_tokens=False)["input_ids"]
    shared = min(common_prefix(alone, ids) for ids in joint)
    shared = min(shared, *(len(ids) - 1 for ids in joint))  # an option of no token of its own would score 0
    return Question(tuple(alone[:shared]), tuple(tuple(ids[shared:]) for ids in joint))


def packable(network: Any) -> bool:
    """Whether this network's attention takes the block mask exactly: full attention, by sdpa or eager."""
    config = network.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    sliding = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    return config._attn_implementation in MASKED and kinds == {"full_attention"} and not sliding


def option_logprobs(network: Any, questions: Sequence[Question], pad_id: int) -> list[list[float]]:
    """Sum of the log-probabilities of each option's tokens, natural log: one list a question.

    Questions of similar length waste the least. Log-softmax is taken in float32 whatever the weights are."""
    with torch.inference_mode():
        if packable(network):
            return _packed(network, questions, pad_id)
        return [_cached(network, one, pad_id) for one in questions]


def _packed(network: Any, questions: Sequence[Question], pad_id: int) -> list[list[float]]:
    device, width = network.device, max(q.packed for q in questions)
    ids = torch.full((len(questions), width), pad_id)
    positions = torch.zeros((len(questions), width), dtype=torch.long)
    mask = torch.zeros((len(questions), 1, width, width), dtype=torch.bool)
    causal = torch.ones((width, width), dtype=torch.bool).tril()
    tail = max(q.packed - len(q.prefix) for q in questions) + 1  # the last prompt token, and all option tokens
    for row, one in enumerate(questions):
        # On the left, so that the options of all rows end together and few columns need logits.
        start = width - one.packed
        begin = start + len(one.prefix)
        ids[row, start:begin] = torch.tensor(one.prefix)
        positions[row, start:begin] = torch.arange(len(one.prefix))
        mask[row, 0, start:, start:begin] = causal[start:, start:begin]
        mask[row, 0].fill_diagonal_(True)  # a padded token sees itself: a row of nothing would be NaN
        for option in one.options:
            end = begin + len(option)
            ids[row, begin:end] = torch.tensor(option)
            positions[row, begin:end] = len(one.prefix) + torch.arange(len(option))
            mask[row, 0, begin:end, begin:end] = causal[begin:end, begin:end]
            begin = end
    logits = network(
        input_ids=ids.to(device),
        attention_mask=_additive(mask, network, device),
        position_ids=positions.to(device),
        use_cache=False,
        logits_to_keep=tail,
    ).logits
    found = []
    for row, one in enumerate(questions):
        last = tail - 1 - (one.packed - len(one.prefix))  # where the prompt's last token stands in the tail
        sources, targets, sizes, begin = [], [], [], last + 1
        for option in one.options:
            sources += [last, *range(begin, begin + len(option) - 1)]
            targets += option
            sizes.append(len(option))
            begin += len(option)
        found.append(_sums(logits[row, sources], targets, sizes))
    return found


def _additive(mask: torch.Tensor, network: Any, device: torch.device) -> torch.Tensor:
    """sdpa takes the mask as it is; eager attention adds it to the scores."""
    if network.config.get_text_config()._attn_implementation == "sdpa":
        return mask.to(device)
    dtype = network.dtype
    added = torch.zeros(mask.shape, dtype=dtype).masked_fill_(~mask, torch.finfo(dtype).min)
    return added.to(device)


def _cached(network: Any, one: Question, pad_id: int) -> list[float]:
    device = network.device
    prefix = network(input_ids=torch.tensor([one.prefix], device=device), use_cache=True, logits_to_keep=1)
    cache = prefix.past_key_values
    cache.batch_repeat_interleave(len(one.options))
    longest = max(map(len, one.options))
    ids = torch.tensor([[*o, *[pad_id] * (longest - len(o))] for o in one.options], device=device)
    # Padding stands on the right, behind everything that is scored: causal attention never looks there.
    mask = torch.ones((len(one.options), len(one.prefix) + longest), dtype=torch.long, device=device)
    behind = network(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True).logits
    logits = torch.cat([prefix.logits.expand(len(one.options), -1, -1), behind], dim=1)
    rows = [logits[k, : len(option)] for k, option in enumerate(one.options)]
    targets = [token for option in one.options for token in option]
    return _sums(torch.cat(rows), targets, [len(o) for o in one.options])


def _sums(logits: torch.Tensor, targets: Sequence[int], sizes: Sequence[int]) -> list[float]:
    """logits [T, V], the T tokens that followed, tokens an option -> sum of log-probabilities an option."""
    chosen = torch.tensor(targets, device=logits.device)[:, None]
    logits = logits.float()
    each = (logits.gather(1, chosen)[:, 0] - logits.logsumexp(1)).cpu().double()
    return [float(part.sum()) for part in each.split(list(sizes))]
