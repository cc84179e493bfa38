"""A small Llama of random weights in a folder, and questions with options, for the tests of what scores them."""

from __future__ import annotations

from pathlib import Path

from clarion.samples import Sample

TEXTS = [
    "Question:\nWhich disease raises the pressure of the eye?\n\nOptions:\nA) Glaucoma\nB) Cataract\nC) Uveitis",
    "Answer:\nA) Glaucoma", "Answer:\nB) Cataract of the left eye", "You are an expert ophthalmologist. yes no maybe",
    "망막 전막은 무엇입니까? 정답: 망막 앞의 얇은 막",
]  # fmt: skip


def save_tiny_llama(folder: Path, seed: int = 0, layers: int = 2, context: int = 512) -> Path:
    """A Llama of two layers with Llama 3's template and a tokenizer trained on TEXTS."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from clarion.trainers.sft_chat import use_template
    from clarion.trainers.sft_models import train_tokenizer

    tokenizer = train_tokenizer(TEXTS * 4, 400)
    use_template(tokenizer, "llama3")
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=layers,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=context, bos_token_id=0, eos_token_id=4,
        pad_token_id=5, initializer_range=0.3,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


OPTIONS = ("A) Glaucoma", "B) Cataract of the left eye", "C) Uveitis")


def multiple_choice(number: int, options=OPTIONS, **inputs) -> Sample:
    """A question that no other number has; `inputs` replace what it holds."""
    text = f"Question:\nWhich disease raises the pressure {'of the eye ' * (1 + number % 5)}{number}?"
    listed = "\n\nOptions:\n" + "\n".join(options)
    return Sample(
        f"q{number:03d}",
        f"d{number:03d}",
        {
            "messages": [{"role": "user", "content": text + listed}],
            "options": list(options),
            "lead": "Answer:\n",
            "blind_messages": [{"role": "user", "content": "Question:\n" + listed}],
            **inputs,
        },
    )
