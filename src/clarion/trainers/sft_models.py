"""Language models for fine-tuning: built from sizes, read from a GGUF that a package ships, or from a folder."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    set_seed,
)

from clarion.data.cache import build_once
from clarion.errors import UsageError
from clarion.trainers.sft_chat import use_pad, use_template
from clarion.trainers.sft_lora import lora_config
from clarion.trainers.sft_weights import Weights, check_architecture, find_weights

log = logging.getLogger(__name__)

GGUF_CACHE_VERSION = "1"  # raise when the conversion below changes
LLAMA3_TOKENS = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|finetune_right_pad_id|>",
)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def build(
    model: Mapping[str, Any],
    weights: Weights,
    texts: Iterable[str],
    dtype: torch.dtype,
    device: torch.device,
    seed: int,
) -> tuple[Any, Any]:
    """A model ready for fine-tuning (without its adapter) and its tokenizer.

    texts: training texts, read only where a tokenizer has to be trained. Raises UsageError for weights that are not
    what the config declares, and for a quantisation that this machine cannot do."""
    check_architecture(model.get("architecture"), weights)
    quantization = quantization_config(model, device)
    if weights.kind == "random":
        tokenizer = train_tokenizer(texts, int((model.get("tokenizer") or {}).get("vocab_size", 1024)))
        set_seed(seed)
        network = AutoModelForCausalLM.from_config(architecture(model, len(tokenizer))).to(dtype)
    else:
        folder = converted(weights)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        network = read_folder(folder, dtype, quantization, device)
    use_template(tokenizer, model.get("template"))
    use_pad(tokenizer, model.get("pad_token"))
    if len(tokenizer) > network.get_input_embeddings().num_embeddings:
        name = model.get("name")
        raise UsageError(f"model={name}: the tokenizer has more tokens than the model's embedding has rows.")
    return network, tokenizer


def read_folder(folder: Path, dtype: torch.dtype, quantization: Any, device: torch.device) -> Any:
    """A model folder (safetensors only: a pickle may run code when read) -> the network, on `device` if quantised."""
    kwargs: dict[str, Any] = {"dtype": dtype, "local_files_only": True, "use_safetensors": True}
    if quantization is not None:
        kwargs |= {"quantization_config": quantization, "device_map": {"": device}}
    return AutoModelForCausalLM.from_pretrained(folder, **kwargs)


def architecture(model: Mapping[str, Any], vocab_size: int | None = None) -> PretrainedConfig:
    """The config of model.architecture (its model_type, llama without one); vocab_size overrides the declared one (a
    tokenizer trained here)."""
    sizes = dict(model["architecture"])
    if vocab_size is not None:
        sizes["vocab_size"] = vocab_size
    return AutoConfig.for_model(sizes.pop("model_type", "llama"), **sizes, use_cache=True)


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE with Llama 3's special tokens and its habit of adding a BOS; digits stay single.

    Deterministic: the same texts in any order of hashing give the same merges."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(LLAMA3_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    bos = LLAMA3_TOKENS[0]
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=bos,
        eos_token="<|eot_id|>",
        pad_token="<|finetune_right_pad_id|>",
        additional_special_tokens=["<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>"],
        clean_up_tokenization_spaces=False,
    )


def converted(weights: Weights) -> Path:
    """A folder of safetensors: the weights' own, or a GGUF file converted once into the cache (bfloat16)."""
    if weights.kind == "folder":
        return weights.path
    digest = hashlib.sha256()
    with open(weights.path, "rb") as file:
        while piece := file.read(1 << 22):
            digest.update(piece)
    stem = "".join(c if c.isalnum() or c in "-._" else "-" for c in weights.path.stem)

    def convert(folder: Path) -> None:
        log.info("converting %s to safetensors (once, about half a minute)", weights.path.name)
        place = {"gguf_file": weights.path.name, "local_files_only": True}
        tokenizer = AutoTokenizer.from_pretrained(weights.path.parent, **place)
        # Asked for by name: with the package `kernels` installed, transformers would keep the 4-bit blocks.
        dense = GgufConfig(dequantize=True)
        network = AutoModelForCausalLM.from_pretrained(
            weights.path.parent, dtype=torch.bfloat16, quantization_config=dense, **place
        )
        # transformers 5 keeps the GGUF quantiser although the weights are dense now, and then refuses to save
        if hasattr(network.config, "quantization_config"):
            del network.config.quantization_config
        network.hf_quantizer = None
        network.is_quantized = False
        network.save_pretrained(folder)
        tokenizer.save_pretrained(folder)

    return build_once(f"gguf-{stem}-{digest.hexdigest()[:12]}-{GGUF_CACHE_VERSION}", convert)


def quantization_config(model: Mapping[str, Any], device: torch.device) -> Any:
    """model.quantization: null, or nf4 (4-bit NormalFloat with double quantisation, as in QLoRA, arXiv 2305.14314)."""
    kind = model.get("quantization")
    if kind is None:
        return None
    if kind != "nf4":
        raise UsageError(f"model.quantization={kind} is unknown: write nf4 or null.")
    if model.get("lora") is None:
        raise UsageError("model.quantization=nf4 trains an adapter only: set model.lora, or model.quantization=null.")
    from importlib.util import find_spec

    if device.type != "cuda" or find_spec("bitsandbytes") is None:
        lacking = "a CUDA device" if device.type != "cuda" else "the package bitsandbytes (pip install bitsandbytes)"
        raise UsageError(f"model.quantization=nf4 (QLoRA) needs {lacking}; here, use model.quantization=null.")
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def weight_dtype(model: Mapping[str, Any], precision: str) -> torch.dtype:
    """The dtype of the weights in memory: model.dtype, or (auto) bfloat16 for a frozen base in bf16, else float32."""
    wanted = str(model.get("dtype") or "auto")
    if wanted == "auto":
        return torch.bfloat16 if precision == "bf16" and model.get("lora") is not None else torch.float32
    if wanted not in DTYPES:
        raise UsageError(f"model.dtype={wanted} is unknown: write auto, {', '.join(DTYPES)}.")
    return DTYPES[wanted]


def parameter_counts(model: Mapping[str, Any]) -> dict[str, int]:
    """{"total", "lora"} from the config alone, on the meta device: no weights, no memory."""
    trained_here = (model.get("tokenizer") or {}).get("vocab_size")
    with torch.device("meta"):
        network = AutoModelForCausalLM.from_config(architecture(model, trained_here))
    total = network.num_parameters()
    config = lora_config(model, network)  # off the meta device: a structure's row masks hold values
    if config is None:
        return {"total": total, "lora": 0}
    from peft import get_peft_model

    with torch.device("meta"):
        adapted = get_peft_model(network, config)
    return {"total": total, "lora": sum(p.numel() for p in adapted.parameters() if p.requires_grad)}


def reload(checkpoint: Path, record: Mapping[str, Any], dtype: torch.dtype, device: torch.device) -> tuple[Any, Any]:
    """A checkpoint written by SftTrainer -> network in evaluation mode on `device`, and tokenizer.

    An adapter needs its base again: the copy inside the checkpoint, else what the recorded model config names."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoint, local_files_only=True)
    if not record["adapter"]:
        network = read_folder(checkpoint, dtype, None, device)
    else:
        from peft import PeftModel

        model = record["model"]
        if (checkpoint / "base").is_dir():
            folder = checkpoint / "base"
        else:
            weights = find_weights(model)
            check_architecture(model.get("architecture"), weights)
            folder = converted(weights)
        base = read_folder(folder, dtype, quantization_config(model, device), device)
        if len(tokenizer) > base.get_input_embeddings().num_embeddings:  # the adapter holds the new rows
            base.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        network = PeftModel.from_pretrained(base, checkpoint, local_files_only=True)
    if record["model"].get("quantization") is None:  # a quantised base was put on its device as it was read
        network = network.to(device)
    return network.eval(), tokenizer


def generation_eos(network: Any) -> list[int]:
    """The stop ids a model already declares (Llama 3 declares three)."""
    declared = getattr(network.generation_config, "eos_token_id", None)
    return [] if declared is None else [declared] if isinstance(declared, int) else list(declared)
