"""The sft trainer for a language model fused with slide and omics (model.fusion): two stages, then one checkpoint.

Stage one trains the projector alone, on short prompts answered by the statement (the outcome); stage two trains the
adapter and the projector on whole prompts with their rationale. Both run under TRL's SFTTrainer with a collator of
ours: it would prune the embeddings and knows no soft tokens.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import logging
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clarion import distributed
from clarion.config import nearest, numbered, target_problems
from clarion.errors import DataError, UsageError
from clarion.trainers import sft_fusion_tissue
from clarion.trainers.after import check_after
from clarion.trainers.base import Run
from clarion.trainers.sft_fusion_encoders import Encoders, check_start, starts
from clarion.trainers.sft_fusion_tissue import Tissue
from clarion.trainers.sft_resume import last_whole, tokens_until
from clarion.trainers.sft_settings import chosen_precision, same_random_state, torch_device
from clarion.trainers.sft_weights import find_weights

log = logging.getLogger(__name__)

FORMAT = "clarion-fusion-1"
FOLDER = "fusion"  # of a checkpoint: projector, prompts and the unimodal models
SETTINGS = {"network", "prompter", "modalities", "placeholder", "tokens", "hidden", "dropout",
            "modality_dropout", "outcome_weight", "stage_one", "patterns"}  # fmt: skip
STAGE_ONE = {"epochs", "learning_rate", "batch_size"}


def check(model: Mapping[str, Any], args: Mapping[str, Any]) -> None:
    """UsageError for settings of model.fusion that are wrong and for unimodal runs that are absent; loads no torch."""
    fusion = model["fusion"]
    if strange := sorted(set(fusion) ^ SETTINGS):
        raise UsageError(f"model.fusion.{strange[0]} is unknown or absent; it has {', '.join(sorted(SETTINGS))}."
                         f"{nearest(strange[0], SETTINGS)}")  # fmt: skip
    if strange := sorted(set(fusion["stage_one"]) - STAGE_ONE):
        raise UsageError(f"model.fusion.stage_one.{strange[0]} is unknown; it has {', '.join(sorted(STAGE_ONE))}.")
    if problems := target_problems({k: {"_target_": fusion[k]} for k in ("network", "prompter")}, "model.fusion"):
        raise UsageError(numbered(problems))
    if int(fusion["tokens"]) < 1 or not 0 <= float(fusion["modality_dropout"]) < 1:
        raise UsageError("model.fusion: tokens must be at least 1, modality_dropout from 0 to below 1.")
    if args.get("packing") or args.get("padding_free"):
        raise UsageError("trainer.args.packing: patients with soft tokens are not packed; drop it.")
    if distributed.world_size() > 1:
        raise UsageError("model.fusion trains in one process; start it without torchrun.")
    sft_fusion_tissue.check(fusion["patterns"])
    check_after(model)
    starts(model)


def fit(trainer: Any, run: Run) -> Path:
    """Train both stages on run.data (see clarion.cancer.fusion.patients for what it offers); returns checkpoints/best.

    trainer: the SftTrainer. DataError where a unimodal run knows a test patient, or where nothing can be learnt."""
    import torch

    from clarion.trainers import sft_models
    from clarion.trainers.sft_chat import chat_format
    from clarion.trainers.sft_fusion_rows import RowMaker, check_rows, fused_inputs

    model, fusion, best = trainer.model, trainer.model["fusion"], run.checkpoints / "best"
    if not hasattr(run.data, "outcomes"):
        raise UsageError(f"data={run.data.name} has no prompts for a fused model: choose data=cancer_fusion_demo.")
    folders = starts(model)
    sources = {name: check_start(name, folder, run.data) for name, folder in folders.items()}
    device = torch_device(trainer.device)
    precision = chosen_precision(trainer.precision, device)
    prompter = run.data.prompter
    encoders = Encoders(folders, str(device))
    with same_random_state():
        tissue = Tissue.fit(fusion["patterns"], encoders, run.data, trainer.seed)
        inputs = {s: fused_inputs(list(run.data.samples(s)), prompter, encoders, tissue) for s in ("train", "val")}
    outcomes = {split: run.data.outcomes(split) for split in inputs}
    widths = _widths(inputs["train"], list(fusion["modalities"]))

    weights = find_weights(model)
    texts = [t for one in inputs["train"] for t in _texts(prompter, one)]
    dtype = sft_models.weight_dtype(model, precision)
    llm, tokenizer = sft_models.build(model, weights, texts, dtype, device, trainer.seed)
    if model.get("lora") is not None and weights.kind == "random":
        llm.save_pretrained(best.parent / "base")  # a drawn base exists nowhere else
    chat = chat_format(tokenizer, dict(model.get("template_args") or {}))
    maker = RowMaker(tokenizer, chat, model.get("template_args") or {}, prompter, fusion["placeholder"],
                     int(fusion["tokens"]), fusion["outcome_weight"], trainer.args.get("max_length"))  # fmt: skip
    torch.manual_seed(trainer.seed)
    network = _network(fusion, llm, widths, maker.placeholder).to(device)
    for name in widths:
        network.projector.fit(name, torch.stack([i.embeddings[name] for i in inputs["train"] if name in i.embeddings]))

    known = {s: int((t["weight"] > 0).sum()) for s, t in outcomes.items()}
    stages, done = [], run.checkpoints / "stage_one.safetensors"
    for stage, brief in (("one", True), ("two", False)):
        rows = {split: maker.rows(inputs[split], outcomes[split], brief) for split in inputs}
        said = [check_rows(r, maker, s, known[s]) for s, r in rows.items() if r]
        print(f"stage {stage}: {'; '.join(said)}", file=sys.stderr)
        if stage == "two":
            torch.manual_seed(trainer.seed + 1)  # the same adapter where stage one was trained before a break
            _adapt(network, model)
        facts = _stage(trainer, run, network, tokenizer, stage, rows, inputs, widths, done, device, precision)
        stages.append({"stage": stage, "patients": {s: len(r) for s, r in rows.items()}, **facts})
    record = {
        "rows": "patients", "fusion": {**fusion, "format": FORMAT, "widths": widths, "sources": sources},
        "stages": stages, "stop_ids": sorted({chat.stop_id, *sft_models.generation_eos(llm)}),
        "statement": {"in_the_loss": known, "censored_left_out": {s: len(t) - known[s] for s, t in outcomes.items()}},
    }  # fmt: skip
    if tissue is not None:
        record["tissue"] = {"kinds": tissue.head.kinds, "trained_on": tissue.head.trained_on,
                            "held_out": tissue.head.held_out}  # fmt: skip
    _save(trainer, network, tokenizer, prompter, encoders, tissue, best, record)
    shutil.rmtree(run.checkpoints / "steps", ignore_errors=True)
    done.unlink(missing_ok=True)
    return best


def _widths(inputs: Any, modalities: list[str]) -> dict[str, int]:
    """modality -> width of its embeddings. DataError where no training patient has it."""
    widths = {}
    for name in sorted(modalities):  # the order of the network's config
        found = {len(one.embeddings[name]) for one in inputs if name in one.embeddings}
        if len(found) != 1:
            raise DataError(f"No training patient has {name}: a fused model cannot learn it." if not found else
                            f"Embeddings of {name} have different sizes ({sorted(found)}).")  # fmt: skip
        widths[name] = found.pop()
    return widths


def _texts(prompter: Any, one: Any) -> list[str]:
    """What a tokenizer that is trained here (weights: random) must know."""
    asked = [turn["content"] for turn in prompter.messages(one.facts, "")]
    return [*asked, *prompter.statements, prompter.rationale(one.facts, one.sample_id)]


def _network(fusion: Mapping[str, Any], llm: Any, widths: Mapping[str, int], placeholder: int) -> Any:
    from hydra.utils import get_class

    made = get_class(fusion["network"])
    sizes = {name: fusion[name] for name in ("tokens", "hidden", "dropout", "modality_dropout")}
    config = made.config_class(text_config=llm.config, modalities=widths, placeholder_id=placeholder, **sizes)
    llm.requires_grad_(False)
    return made(config, llm)


def _adapt(network: Any, model: Mapping[str, Any]) -> None:
    """Stage two: LoRA on the language model, or (model.lora=null) all of its weights."""
    from clarion.trainers import sft_models

    adapter = sft_models.lora_config(model, network.llm)
    if adapter is None:
        network.llm.requires_grad_(True)
        return
    from peft import get_peft_model, prepare_model_for_kbit_training

    if model.get("quantization") is not None:
        network.llm = prepare_model_for_kbit_training(network.llm, use_gradient_checkpointing=False)
    network.llm = get_peft_model(network.llm, adapter)


def _stage(trainer, run, network, tokenizer, stage, rows, inputs, widths, done, device, precision) -> dict[str, Any]:
    """Train one stage and keep its best epoch by validation loss."""
    from safetensors.torch import load_file, save_file

    if stage == "one":
        if run.resume and done.is_file():
            network.projector.load_state_dict(load_file(done))
            return {"resumed": True}
        if not rows["train"]:
            raise DataError("No training patient's outcome at the horizon is known: the statement cannot be learnt.")
        if int(trainer.model["fusion"]["stage_one"].get("epochs", 1)) < 1:
            return {"skipped": True}
    network.keep_trained_only()
    steps = run.checkpoints / "steps" / stage
    made = _sft_trainer(trainer, run, network, tokenizer, stage, rows, inputs, widths, steps, device, precision)
    last = last_whole(steps) if run.resume else None
    made._total_train_tokens = tokens_until(last) if last else 0
    with contextlib.redirect_stdout(sys.stderr):  # its progress bar writes log lines to stdout
        result = made.train(resume_from_checkpoint=last)
    if stage == "one":
        save_file({k: v.contiguous() for k, v in network.projector.state_dict().items()}, done)
    history = made.state.log_history
    keys = {"train": "loss", "val": "eval_loss"}
    losses = {split: [row[key] for row in history if key in row] for split, key in keys.items()}
    return {
        "steps": made.state.global_step,
        "train_s": round(float(result.metrics["train_runtime"]), 2),
        "tokens": int(made._total_train_tokens),
        "loss": {split: {"first": v[0], "last": v[-1], "lowest": min(v)} for split, v in losses.items() if v},
    }


def _sft_trainer(trainer, run, network, tokenizer, stage, rows, inputs, widths, steps, device, precision) -> Any:
    from datasets import Dataset

    from clarion.trainers.sft_callback import TrackerCallback
    from clarion.trainers.sft_fusion_loop import FusionLoop
    from clarion.trainers.sft_fusion_rows import FusionCollator
    from clarion.trainers.sft_settings import sft_config

    offset = {s: k * len(inputs["train"]) for k, s in enumerate(("train", "val"))}
    shifted = {s: [row | {"row": row["row"] + offset[s]} for row in own] for s, own in rows.items()}
    args, epochs, batch = dict(trainer.args), trainer.epochs, trainer.batch_size
    if stage == "one":
        own = dict(trainer.model["fusion"]["stage_one"])
        epochs, batch = own.pop("epochs", 1), own.pop("batch_size", batch)
        args |= own | {"max_steps": -1}
    args |= {"remove_unused_columns": False, "dataset_kwargs": {"skip_prepare_dataset": True}, "packing": False}
    settings = sft_config(args, steps, device, precision, epochs, batch, trainer.seed, bool(rows["val"]))
    return FusionLoop(
        model=network,
        args=settings,
        train_dataset=Dataset.from_list(shifted["train"]),
        eval_dataset=Dataset.from_list(shifted["val"]) if rows["val"] else None,
        processing_class=tokenizer,
        data_collator=FusionCollator([*inputs["train"], *inputs["val"]], widths, tokenizer.pad_token_id),
        callbacks=[TrackerCallback(run.tracker)],
    )


def _save(trainer, network, tokenizer, prompter, encoders, tissue, best: Path, record: dict[str, Any]) -> None:
    """Write best/ whole: the language model or its adapter as the sft trainer writes it, and fusion/ beside."""
    from safetensors.torch import save_file

    partial = best.with_name(".best.partial")
    shutil.rmtree(partial, ignore_errors=True)
    adapter = trainer.model.get("lora") is not None
    network.causal.generation_config.eos_token_id = record["stop_ids"]
    network.llm.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    (partial / "README.md").unlink(missing_ok=True)  # peft's blank model card
    if adapter and (best.parent / "base").is_dir():
        (best.parent / "base").rename(partial / "base")
    folder = partial / FOLDER
    network.config.save_pretrained(folder)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.projector.state_dict().items()}
    save_file(tensors, folder / "projector.safetensors", metadata={"format": "pt"})
    (folder / "prompts.json").write_text(json.dumps(prompter.as_dict(), ensure_ascii=False, indent=1), encoding="utf-8")
    encoders.copy_to(folder)
    if tissue is not None:
        tissue.head.save(folder / sft_fusion_tissue.FOLDER)
    model = {k: v for k, v in trainer.model.items() if k not in record["fusion"]["modalities"]}  # paths of this machine
    versions = {p: importlib.metadata.version(p) for p in ("torch", "transformers", "trl", "peft")}
    said = {"format": "clarion-sft-1", "adapter": adapter, "model": model, "seed": trainer.seed, **record,
            "versions": versions}  # fmt: skip
    (partial / "clarion.json").write_text(json.dumps(said, indent=2, ensure_ascii=False), encoding="utf-8")
    shutil.rmtree(best, ignore_errors=True)
    partial.rename(best)


def load(trainer: Any, checkpoint: Path, record: Mapping[str, Any]) -> Any:
    """A checkpoint of `fit` -> FusionPredictor. trainer: the SftTrainer; record: its clarion.json, with the settings of
    this trainer's own config put in. UsageError for what does not belong together."""
    from hydra.utils import get_class
    from safetensors.torch import load_file

    from clarion.trainers import sft_models
    from clarion.trainers.sft_chat import chat_format
    from clarion.trainers.sft_fusion_predict import FusionPredictor

    fusion, model, folder = trainer.model.get("fusion") or {}, record["model"], checkpoint / FOLDER
    if record["fusion"].get("format") != FORMAT:
        raise UsageError(f"{checkpoint} has format {record['fusion'].get('format')!r}; this version reads {FORMAT!r}.")
    if not fusion:
        raise UsageError(f"{checkpoint} is a fused model; load it with its own config (model={model.get('name')}).")
    device = torch_device(trainer.device)
    dtype = sft_models.weight_dtype(model, chosen_precision(trainer.precision, device))
    llm, tokenizer = sft_models.reload(checkpoint, record, dtype, device)
    if record["adapter"] and model.get("quantization") is None:
        llm.merge_adapter()  # two products fewer a layer and token
    # What code runs is said by this trainer's own config, never by a checkpoint.
    made = get_class(fusion["network"])
    config = made.config_class.from_pretrained(folder, local_files_only=True)
    network = made(config, llm.get_base_model() if record["adapter"] else llm)
    network.llm = llm
    try:
        network.projector.load_state_dict(load_file(folder / "projector.safetensors"))
        prompts = json.loads((folder / "prompts.json").read_text(encoding="utf-8"))
    except (OSError, RuntimeError, ValueError) as error:
        raise UsageError(f"{checkpoint}: its projector or prompts cannot be read ({error}).") from error
    prompter = get_class(fusion["prompter"]).of(prompts)
    encoders = Encoders({name: folder / name for name in config.modalities}, str(device))
    template_args = dict(model.get("template_args") or {})
    return FusionPredictor(
        network.to(device), tokenizer, chat_format(tokenizer, template_args), record["stop_ids"],
        dict(model.get("generation") or {}), template_args, prompter, encoders, record["fusion"]["placeholder"],
        Tissue.load(_told(fusion, record), encoders, folder / sft_fusion_tissue.FOLDER),
    )  # fmt: skip


def _told(fusion: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, Any] | None:
    """model.fusion.patterns of a checkpoint: how much of the tissue its prompts named; the code is our own config's."""
    own, recorded = fusion.get("patterns"), record["fusion"].get("patterns")
    return {**recorded, "head": own["head"]} if own and recorded else None
