"""model.lora as peft.LoraConfig: LoRA, DoRA, other starts, structured supports, and trained rows of new tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from clarion.errors import DataError, UsageError

LORA_DEFAULTS = {
    "r": 16,
    "alpha": 16,
    "dropout": 0.0,
    "target_modules": "all-linear",
    "dora": False,
    "rslora": False,
    "init": True,  # true | gaussian | pissa | olora | orthogonal (peft's init_lora_weights)
    "modules_to_save": None,
    "trainable_token_indices": None,
    "structure": None,
    "variant": None,
}


def lora_config(model: Mapping[str, Any], network: Any = None, new_ids: Sequence[int] = ()) -> Any:
    """peft.LoraConfig from model.lora (LORA_DEFAULTS), or None for full fine-tuning.

    network: the base, needed where model.lora.structure names its layers (None: the settings are only checked).
    new_ids: tokens that the vocabulary gained; their embedding rows are trained unless the config says otherwise."""
    lora = model.get("lora")
    if lora is None:
        return None
    unknown = sorted(set(lora) - set(LORA_DEFAULTS))
    if unknown:
        raise UsageError(f"model.lora has no {', '.join(unknown)}; it has {', '.join(LORA_DEFAULTS)}.")
    chosen = LORA_DEFAULTS | dict(lora)
    if chosen["variant"] and not chosen["structure"]:
        raise UsageError(f"model.lora.variant={chosen['variant']} needs model.lora.structure to be matched against.")
    from peft import LoraConfig

    place = {"target_modules": chosen["target_modules"]}
    if chosen["structure"]:
        from clarion.trainers import structured_lora

        structured_lora.check_structure(chosen)
        if network is not None:
            place = structured_lora.peft_settings(network, chosen)
    tokens = chosen["trainable_token_indices"]
    if tokens is None and new_ids and not _saves_embeddings(chosen["modules_to_save"]):
        tokens = {"embed_tokens": list(new_ids)}
        if network is not None and not network.config.tie_word_embeddings:
            tokens["lm_head"] = list(new_ids)
    return LoraConfig(
        r=chosen["r"],
        lora_alpha=chosen["alpha"],
        lora_dropout=chosen["dropout"],
        use_dora=chosen["dora"],
        use_rslora=chosen["rslora"],
        init_lora_weights=chosen["init"],
        modules_to_save=chosen["modules_to_save"],
        trainable_token_indices=tokens or None,
        bias="none",
        task_type="CAUSAL_LM",
        **place,
    )


def complete_head(network: Any) -> None:
    """TRL's loss multiplies by the weight and bias of the output embedding itself; peft's wrapper around trained token
    rows shows the weight only."""
    head = (network.get_base_model() if hasattr(network, "get_base_model") else network).get_output_embeddings()
    if hasattr(head, "token_adapter") and not hasattr(head, "bias"):
        head.bias = getattr(head.original_module, "bias", None)


def _saves_embeddings(modules: Sequence[str] | None) -> bool:
    return bool({"embed_tokens", "lm_head"} & set(modules or ()))


def add_tokens(network: Any, tokenizer: Any, tokens: Sequence[str]) -> list[int]:
    """Give the vocabulary model.new_tokens (such as <think>); rows are added where the embedding has none to spare.

    Returns the ids of tokens that were not there before. New rows start at the mean of the others: a row near 0 would
    be far from every trained one, and a drawn one differs between machines."""
    import torch

    before = tokenizer.get_vocab()
    new = [token for token in tokens if token not in before]
    if not new:
        return []
    tokenizer.add_tokens(new)
    ids = tokenizer.convert_tokens_to_ids(new)
    rows = network.get_input_embeddings().num_embeddings
    if len(tokenizer) > rows:
        network.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    with torch.no_grad():
        for layer in (network.get_input_embeddings(), network.get_output_embeddings()):
            layer.weight[ids] = layer.weight[: min(ids)].mean(0)
    return ids


def require_new_tokens(network: Any, ids: Sequence[int], dataset: Any, tokenizer: Any) -> None:
    """DataError where a new token could not be learnt: its rows are frozen, or no training row holds it.

    network: the trainer's (adapted) model; dataset: its prepared rows with input_ids."""
    if not ids:
        return
    names = dict(zip(ids, tokenizer.convert_ids_to_tokens(list(ids)), strict=True))
    frozen = {token for layer in _embeddings(network) for token in ids if not _row_trains(layer, token)}
    if frozen:
        raise DataError(
            f"the new tokens {', '.join(names[k] for k in sorted(frozen))} would never be trained: their embedding "
            "rows are frozen; leave model.lora.trainable_token_indices unset, or name embed_tokens and lm_head in "
            "model.lora.modules_to_save."
        )
    missing = set(ids)
    for row in dataset:
        missing -= set(row["input_ids"])
        if not missing:
            return
    raise DataError(
        f"the new tokens {', '.join(names[k] for k in sorted(missing))} occur in no training row, so they would never "
        "be trained: write them into the data, or take them out of model.new_tokens."
    )


def _embeddings(network: Any) -> list[Any]:
    base = network.get_base_model() if hasattr(network, "get_base_model") else network
    return [base.get_input_embeddings(), base.get_output_embeddings()]


def _row_trains(layer: Any, token: int) -> bool:
    adapter = getattr(layer, "token_adapter", None)  # peft's wrapper for trainable_token_indices
    if adapter is not None:
        return any(token in indices for indices in adapter.token_indices.values())
    return any(p.requires_grad for name, p in layer.named_parameters() if "lora_" not in name)
