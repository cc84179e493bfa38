"""Packed documents must not see each other: settings that would leak are refused, and isolation is proven before
step 0 on the trainer's own collator, loss and attention.

transformers separates the documents of a pack by their position_ids, and only where no attention_mask and no cache is
passed. Anything else mixes them silently: the loss still falls.
"""

from __future__ import annotations

import copy
from typing import Any

from clarion.errors import DataError, UsageError

_HEAD, _BODY = 12, 20  # tokens of the neighbour that changes, and of the document whose loss must not


def refuse_leaks(settings: Any, conversations: bool) -> None:
    """UsageError for packing that cuts conversations and lets them attend to one another."""
    if not conversations:
        return
    evaluated = settings.packing if settings.eval_packing is None else settings.eval_packing
    if (settings.packing or evaluated) and settings.packing_strategy == "wrapped":
        raise UsageError(
            "trainer.args.packing_strategy=wrapped lets packed conversations see each other and cuts answers: use bfd."
        )


def prove_isolation(trainer: Any, tolerance: float | None = None) -> float:
    """|difference| of a document's loss between two packs that differ in the neighbour before it.

    Uses the trainer's collator and compute_loss, so that whatever they pass to the network is what is tested. Raises
    DataError above the tolerance (1e-5; 1e-2 where the network computes in 16 bits). Nothing is trained."""
    import torch

    embedding = trainer.model.get_input_embeddings().weight
    if tolerance is None:
        half = trainer.args.bf16 or trainer.args.fp16 or embedding.dtype in (torch.bfloat16, torch.float16)
        tolerance = 1e-2 if half else 1e-5
    generator = torch.Generator().manual_seed(0)
    draw = torch.randint(0, embedding.shape[0], (2 * _HEAD + _BODY,), generator=generator).tolist()
    body, heads = draw[2 * _HEAD :], (draw[:_HEAD], draw[_HEAD : 2 * _HEAD])
    metrics, training = copy.deepcopy(trainer._metrics), trainer.model.training
    losses = []
    trainer.model.eval()  # dropout would differ between the two
    try:
        for head in heads:
            row = {"input_ids": head + body, "labels": [-100] * _HEAD + body, "seq_lengths": [_HEAD, _BODY]}
            batch = trainer._prepare_inputs(trainer.data_collator([row]))
            with torch.no_grad(), trainer.compute_loss_context_manager():
                losses.append(float(trainer.compute_loss(trainer.model, batch)))
    finally:
        trainer.model.train(training)
        trainer._metrics.clear()
        trainer._metrics.update(metrics)
    difference = abs(losses[0] - losses[1])
    if not difference <= tolerance:
        raise DataError(
            f"packed documents see each other (a document's loss changes by {difference:.2g} when its neighbour does): "
            "set trainer.args.packing=false."
        )
    return difference
