"""Attention over packed documents one document at a time, for machines without a variable-length kernel.

transformers' SDPA runs a pack with a dense [T, T] mask: a pack of many short documents costs T^2 instead of the sum of
their squares, on a CPU more than packing saves. Here each document attends to itself alone, without any mask. Only
batches that say where their documents begin (cu_seq_lens_q, from TRL's padding-free collator) are treated so.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "clarion_packed_sdpa"


def packed_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """query [1, heads, T, d], key and value [1, kv_heads, T, d], kwargs["cu_seq_lens_q"] int [documents + 1] with the
    documents' borders, 0 first and T last -> ([1, T, heads, d], None). Other batches go to transformers' SDPA."""
    borders = kwargs.get("cu_seq_lens_q")
    if borders is None or query.shape[0] != 1:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    parts = []
    ends = borders.tolist()
    for start, stop in zip(ends, ends[1:], strict=False):
        parts.append(
            torch.nn.functional.scaled_dot_product_attention(
                query[:, :, start:stop],
                key[:, :, start:stop],
                value[:, :, start:stop],
                dropout_p=dropout,
                scale=scaling,
                is_causal=True,
                enable_gqa=query.shape[1] != key.shape[1],
            )
        )
    return torch.cat(parts, dim=2).transpose(1, 2).contiguous(), None


def use_packed_attention(network: Any) -> None:
    """Switch a network that runs on SDPA; one with a variable-length kernel (flash attention) keeps it."""
    if network.config._attn_implementation != "sdpa":
        return
    AttentionInterface.register(NAME, packed_attention)
    AttentionMaskInterface.register(NAME, _mask)
    network.set_attn_implementation(NAME)


def _mask(*args: Any, **kwargs: Any) -> torch.Tensor | None:
    return sdpa_mask(*args, **kwargs)
