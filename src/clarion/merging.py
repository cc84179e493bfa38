"""`clarion merge`: an adapter of the sft trainer and its base -> one model that plain transformers reads.

The merged network must answer as base plus adapter did: logits of both are compared in float32 on texts of the run's
own form, and a difference above the tolerance is refused before anything is written.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clarion.errors import DataError, UsageError
from clarion.llm.overlaps import copy_index, given_weights
from clarion.record import RunRecord, hash_tree, write_atomic

log = logging.getLogger(__name__)

TOLERANCE = 1e-3  # of a logit, in float32; rounding of W + sBA stays two orders below it
DTYPES = ("auto", "float32", "bfloat16", "float16")
PROBES = (
    "Which Govetto stage is an eye with a lost foveal pit and no ectopic inner foveal layers?",
    "망막전막 수술의 적응증은 무엇입니까?",
    "Epiretinal membrane: central foveal thickness 434 um, visual acuity 20/63, metamorphopsia.",
)


@dataclass(frozen=True)
class Merged:
    """folder: what was written; difference: max |logit of base + adapter - merged logit| in float32; tokens: compared;
    dtype: of the written weights; cast_difference: the same between float32 and the written dtype (0 in float32)."""

    folder: Path
    difference: float
    tokens: int
    dtype: str
    cast_difference: float

    def summary(self) -> dict[str, Any]:
        return {
            "folder": str(self.folder),
            "max_logit_difference": self.difference,
            "compared_tokens": self.tokens,
            "dtype": self.dtype,
            "max_logit_difference_of_the_cast": self.cast_difference,
        }


def merge_run(
    run: Path, out: Path, base: Path | None = None, dtype: str = "auto", tolerance: float = TOLERANCE
) -> Merged:
    """Merge the adapter of a run directory (or checkpoint folder) into its base and write `out`, whole or not at all.

    base: the folder of the base weights where they lie elsewhere now; dtype: of the written weights (auto: as the base
    is stored). Raises UsageError for a run without an adapter, weights that are not here, or an `out` in use; DataError
    when the logits differ by more than `tolerance`."""
    checkpoint, record = open_checkpoint(run)
    if dtype not in DTYPES:
        raise UsageError(f"--dtype {dtype} is unknown: write {', '.join(DTYPES)}.")
    if not record["adapter"]:
        raise UsageError(f"{run} trained all weights, so there is nothing to merge: {checkpoint} is the whole model.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"--out {out} exists and is not empty: give a new folder.")
    from clarion.trainers.sft_weights import check_architecture, find_weights, stay_offline

    stay_offline()
    # QLoRA's 4-bit base is read whole: the adapter is added to the weights that were rounded for training.
    model = record["model"] | {"quantization": None} | ({"path": str(base)} if base else {})
    if not (checkpoint / "base").is_dir():
        check_architecture(model.get("architecture"), find_weights(model))
    if record["model"].get("quantization"):
        log.warning("the adapter was trained beside a 4-bit base; merged into the whole one, answers differ a little")

    import torch

    from clarion.trainers import sft_models

    device = torch.device("cpu")  # float32 on the GPU would need room for the largest models, and TF32 switched off
    network, tokenizer = sft_models.reload(checkpoint, record | {"model": model}, torch.float32, device)
    stored = _stored_dtype(checkpoint, model)
    probes = probe_ids(tokenizer, record)
    before = _logits(network, probes)
    merged = network.merge_and_unload(safe_merge=True).eval()
    difference = _largest(before, _logits(merged, probes))
    tokens = sum(len(ids) for ids in probes)
    log.info("merged and unmerged logits differ by at most %.2g on %d tokens (float32)", difference, tokens)
    if not difference <= tolerance:
        raise DataError(
            f"the merged model is not the same: its logits differ from base + adapter by {difference:.2g}, more than "
            f"{tolerance:g}; nothing was written."
        )
    written = stored if dtype == "auto" else dtype
    cast = 0.0
    if written != "float32":
        exact = _logits(merged, probes)
        merged = merged.to(getattr(torch, written))
        cast = _largest(exact, _logits(merged, probes))
    result = Merged(out, difference, tokens, written, cast)
    _write(result, merged, tokenizer, record, run, checkpoint)
    return result


def open_checkpoint(run: Path) -> tuple[Path, dict[str, Any]]:
    """(checkpoint folder, its record) of a run directory or of a checkpoint folder of the sft trainer."""
    path = run.expanduser().resolve()
    if (path / "config.yaml").is_file():
        manifest = RunRecord(path).manifest()
        checkpoint = (path / str(manifest.get("checkpoint"))).resolve()
        if path not in checkpoint.parents or not checkpoint.is_dir():
            raise UsageError(f"{run} has no checkpoint below it: finish the run first (resume=true).")
    else:
        checkpoint = path
    if not (checkpoint / "clarion.json").is_file():
        raise UsageError(f"{run} is neither a run of the sft trainer nor one of its checkpoints (no clarion.json).")
    return checkpoint, json.loads((checkpoint / "clarion.json").read_text(encoding="utf-8"))


def probe_ids(tokenizer: Any, record: Mapping[str, Any]) -> list[list[int]]:
    """Token ids of PROBES as this run's data looked: conversations through the template, or plain documents."""
    if record.get("rows") == "documents" or not tokenizer.chat_template:
        return [tokenizer(text, add_special_tokens=False)["input_ids"] for text in PROBES]
    from clarion.trainers.sft_chat import render

    args = dict(record["model"].get("template_args") or {})
    return [render(tokenizer, [{"role": "user", "content": text}], args, generate=True) for text in PROBES]


def _logits(network: Any, probes: Sequence[list[int]]) -> list[Any]:
    import torch

    with torch.inference_mode():
        return [network(torch.tensor([ids]), use_cache=False).logits[0].float() for ids in probes]


def _largest(a: Sequence[Any], b: Sequence[Any]) -> float:
    return max(float((x - y).abs().max()) for x, y in zip(a, b, strict=True))


def _stored_dtype(checkpoint: Path, model: Mapping[str, Any]) -> str:
    """What the base's own files are written in."""
    from clarion.trainers import sft_models
    from clarion.trainers.sft_weights import find_weights

    folder = checkpoint / "base" if (checkpoint / "base").is_dir() else sft_models.converted(find_weights(model))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    name = str(config.get("dtype") or config.get("torch_dtype") or "float32").removeprefix("torch.")
    return name if name in DTYPES else "float32"


def _write(result: Merged, network: Any, tokenizer: Any, record: dict, run: Path, checkpoint: Path) -> None:
    out = result.folder
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    network.generation_config.eos_token_id = record["stop_ids"]
    network.generation_config.pad_token_id = tokenizer.pad_token_id
    network.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    # What the model saw goes with it: an evaluation of the merged weights searches the same training texts.
    copy_index([checkpoint, *given_weights(record["model"])], partial)
    write_atomic(partial / "README.md", model_card(result, record, run, hash_tree(checkpoint)))
    if out.is_dir():
        out.rmdir()  # empty: checked before
    partial.rename(out)


# --------------------------------------------------------------------------------------------------- the model card


def model_card(result: Merged, record: Mapping[str, Any], run: Path, digest: str) -> str:
    """README.md of a merged model: base, training, data card, metrics with intervals, intended use, limits."""
    directory = run.expanduser().resolve()
    own = RunRecord(directory) if (directory / "config.yaml").is_file() else None
    metrics = own.metrics() if own is not None and own.complete else {}
    model, lora = record["model"], record["model"].get("lora") or {}
    base = "random weights of its own" if model.get("weights") == "random" else str(model.get("weights"))
    name = metrics.get("run") or directory.name
    lines = [
        "---",
        "library_name: transformers",
        *([f"base_model: {base}"] if base.count("/") == 1 and ":" not in base else []),
        "pipeline_tag: text-generation",
        "---",
        "",
        f"# {model.get('name')}: {name}",
        "",
        f"An adapter of Clarion's sft trainer, merged into its base ({base}). Weights are {result.dtype}; before they "
        f"were cast, merged and unmerged logits differed by at most {result.difference:.2g} on {result.tokens} tokens "
        f"in float32 (by {result.cast_difference:.2g} after the cast).",
        "",
        "## Training",
        "",
        f"- adapter: rank {lora.get('r')}, alpha {lora.get('alpha')}, {lora.get('target_modules', 'all-linear')}"
        + (", DoRA" if lora.get("dora") else "")
        + (f", base in {model['quantization']}" if model.get("quantization") else ""),
        f"- {record.get('steps')} steps, seed {record.get('seed')}, {record.get('rows', 'conversations')}, loss on "
        f"{100 * record.get('supervised_share', {}).get('train', 0):.1f} % of the tokens",
        f"- checkpoint sha: {digest}",
        f"- versions: {', '.join(f'{k} {v}' for k, v in record.get('versions', {}).items())}",
        "",
        "## Data",
        "",
        *_data_lines(metrics),
        "",
        "## Results",
        "",
        *_metric_lines(metrics),
        "",
        "## Licence",
        "",
        f"That of the base model ({base}) applies to these weights, and that of the training data to their use.",
        "",
        "## Intended use and limits",
        "",
        "Research on language models in ophthalmology. No medical device: answers may be wrong, incomplete or "
        "invented, were checked by no clinician, and must not guide the care of a patient. The figures above hold for "
        "the data they were measured on, and say nothing about other questions, languages or populations.",
        "",
    ]
    return "\n".join(lines)


def _data_lines(metrics: Mapping[str, Any]) -> list[str]:
    card = metrics.get("data_card") or {}
    if not card:
        return ["The run directory was not at hand when this was merged: see its data card."]
    source = f"{card.get('source')}; fingerprint `{card.get('fingerprint')}`"
    lines = [f"- {card.get('name')} ({card.get('kind')}): {source}"]
    for split, facts in (card.get("splits") or {}).items():
        lines.append(f"- {split}: {facts.get('samples')} samples of {facts.get('patients')} patients or documents")
    return lines


def _metric_lines(metrics: Mapping[str, Any]) -> list[str]:
    if not metrics.get("evaluators"):
        return ["Not measured."]
    lines = ["| evaluator | metric | value | 95 % interval | n | baseline |", "|---|---|---|---|---|---|"]
    for evaluator, result in metrics["evaluators"].items():
        for name, entry in result.get("metrics", {}).items():
            if entry.get("value") is None:
                continue
            interval = "—" if entry.get("low") is None else f"{entry['low']:.3f} to {entry['high']:.3f}"
            base = (result.get("baseline") or {}).get(name) or {}
            shown = "—" if base.get("value") is None else f"{base['value']:.3f} ({base.get('name') or 'baseline'})"
            lines.append(f"| {evaluator} | {name} | {entry['value']:.3f} | {interval} | {entry.get('n')} | {shown} |")
    return [*lines, "", f"Measured on {metrics.get('data_kind')} data, split {metrics.get('split')}."]
