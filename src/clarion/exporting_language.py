"""Language models of the sft trainer as a folder that plain transformers reads; adapters are merged into their base."""

from __future__ import annotations

import json
import shutil
from typing import Any

from clarion.exporting import Job


def hugging_face(job: Job) -> dict[str, Any]:
    """config.json, model.safetensors, tokenizer; logits of real prompts compared in float32 after reading it again."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    predictor = job.predictor()
    record = json.loads((job.checkpoint / "clarion.json").read_text(encoding="utf-8"))
    merged: dict[str, Any] = {}
    if record["adapter"]:
        from clarion.merging import merge_run

        inner = job.folder / "merged"
        result = merge_run(job.record.directory, inner, dtype="float32")
        merged = {"merged": result.summary() | {"folder": "."}}
        for path in inner.iterdir():
            path.rename(job.folder / path.name)
        inner.rmdir()
    else:
        for path in job.checkpoint.iterdir():
            if path.is_file() and path.name != "clarion.json":
                shutil.copyfile(path, job.folder / path.name)
    tokenizer = AutoTokenizer.from_pretrained(job.folder)
    again = AutoModelForCausalLM.from_pretrained(job.folder, dtype=torch.float32).eval()
    own = predictor.network.float().eval()
    largest, tokens = 0.0, 0
    with torch.inference_mode():
        for sample in job.samples:
            ids = prompt_ids(tokenizer, sample.inputs, record["model"].get("template_args") or {})
            given = torch.tensor([ids])
            gap = (own(input_ids=given).logits - again(input_ids=given).logits).abs().max()
            largest, tokens = max(largest, float(gap)), tokens + len(ids)
    return {
        "max_difference": largest,
        "difference_of": f"logits in float32 over {tokens} tokens of the samples' prompts",
        "checked_by": "transformers.AutoModelForCausalLM",
        "inputs": {"input_ids": {"dtype": "int64", "shape": ["batch", "tokens"]}},
        "outputs": ["logits"],
        "stop_ids": record.get("stop_ids"),
        "base": record["model"].get("weights"),
        **merged,
    }


def prompt_ids(tokenizer: Any, inputs: dict[str, Any], template_args: dict[str, Any]) -> list[int]:
    """Token ids of a sample's prompt by the exported tokenizer (at most 512)."""
    if tokenizer.chat_template and "messages" in inputs:
        text = tokenizer.apply_chat_template(inputs["messages"], tokenize=False, add_generation_prompt=True,
                                             **template_args)  # fmt: skip
    else:
        text = str(inputs.get("text") or " ".join(turn["content"] for turn in inputs.get("messages", [])))
    return tokenizer(text, add_special_tokens=False)["input_ids"][:512] or [tokenizer.eos_token_id]
