"""Supervised fine-tuning of language models with TRL's SFTTrainer, with peft adapters or in full.

`fit` refuses to train on a wrong token mask (sft_mask.py); the library's own settings pass verbatim through
trainer.args, which are fields of trl.SFTConfig.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import importlib.metadata
import json
import logging
import os
import random
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from clarion.errors import DataError, UsageError
from clarion.trainers.base import Predictor, Run
from clarion.trainers.sft_weights import check_architecture, find_weights, stay_offline

log = logging.getLogger(__name__)

RECORD = "clarion.json"
# Settings that Clarion owns, and where the user sets them instead.
OWNED = {
    "num_train_epochs": "trainer.epochs",
    "per_device_train_batch_size": "trainer.batch_size",
    "use_cpu": "trainer.device",
    "bf16": "trainer.precision",
    "fp16": "trainer.precision",
    "seed": "seed",
    "data_seed": "seed",
    "output_dir": "runs_dir",
    "resume_from_checkpoint": "resume=true",
    "report_to": "tracker",
}


class SftTrainer:
    """Trainer of the protocol for task generation. model: the model config (weights, lora, quantization, generation,
    ...: conf/model/_llm.yaml); args: fields of trl.SFTConfig, verbatim."""

    def __init__(
        self,
        model: Mapping[str, Any],
        epochs: float = 3,
        batch_size: int = 8,
        device: str = "auto",
        precision: str = "auto",
        args: Mapping[str, Any] | None = None,
        name: str = "sft",
        seed: int = 0,
    ):
        self.model, self.args = _plain(model), _plain(args or {})
        self.epochs, self.batch_size, self.device, self.precision = epochs, batch_size, str(device), str(precision)
        self.name, self.seed = name, int(seed)

    def check(self) -> None:
        """Refuse absent weights and settings that Clarion owns without torch; then what the libraries would refuse."""
        check_architecture(self.model.get("architecture"), find_weights(self.model))
        owned = [f"trainer.args.{key} (set {place})" for key, place in OWNED.items() if key in self.args]
        if owned:
            raise UsageError(f"these settings belong to Clarion: {', '.join(owned)}.")
        stay_offline()
        from clarion.trainers import sft_models

        device = torch_device(self.device)
        with _undo_global_state():
            self.settings(Path("unused"), device, chosen_precision(self.precision, device))
        sft_models.quantization_config(self.model, device)
        sft_models.lora_config(self.model)

    def parameters(self, classes: int | None = None) -> int | None:
        """Weights of the base model, from its architecture on the meta device (None where the config states none).

        A tokenizer that is trained on the data counts as large as it may become."""
        if not self.model.get("architecture"):
            return None
        stay_offline()
        from clarion.trainers.sft_models import parameter_counts

        return parameter_counts(self.model)["total"]

    def fit(self, run: Run) -> Path:
        """Fine-tune on run.data.hf_dataset("train"), keep the epoch with the lowest validation loss.

        Returns checkpoints/best: adapter or full model as safetensors, tokenizer, clarion.json. Raises UsageError
        (weights, settings) before anything heavy where possible, DataError for a wrong mask."""
        best = run.checkpoints / "best"
        if run.resume and (best / RECORD).is_file():
            return best
        self.check()
        device = torch_device(self.device)
        with _undo_global_state():
            return self._fit(run, device, best)

    def _fit(self, run: Run, device: Any, best: Path) -> Path:
        from transformers.trainer_utils import get_last_checkpoint

        from clarion.trainers import sft_models
        from clarion.trainers.sft_chat import chat_format

        weights = find_weights(self.model)
        template_args = dict(self.model.get("template_args") or {})
        datasets = {split: _rows(run.data.hf_dataset(split), template_args) for split in ("train", "val")}
        sizes = {split: len(rows) for split, rows in datasets.items()}
        precision = chosen_precision(self.precision, device)
        settings = self.settings(run.checkpoints / "steps", device, precision, has_validation=sizes["val"] > 0)
        dtype = sft_models.weight_dtype(self.model, precision)
        network, tokenizer = sft_models.build(self.model, weights, texts(datasets["train"]), dtype, device, self.seed)
        adapter = sft_models.lora_config(self.model)
        if adapter is not None and weights.kind == "random":
            network.save_pretrained(best.parent / "base")  # a drawn base exists nowhere else
        chat = chat_format(tokenizer, template_args)
        stop_ids = sorted({chat.stop_id, *sft_models.generation_eos(network)})
        trainer = self._trainer(network, tokenizer, adapter, settings, datasets, run)
        shares = self._check_masks(trainer, tokenizer, chat, sizes, show_text=run.data.kind != "private")
        last = get_last_checkpoint(str(run.checkpoints / "steps")) if run.resume and settings.output_dir else None
        with contextlib.redirect_stdout(sys.stderr):  # its progress bar writes log lines to stdout
            trainer.train(resume_from_checkpoint=last)
        self._save(trainer, tokenizer, best, adapter is not None, stop_ids, shares)
        shutil.rmtree(run.checkpoints / "steps", ignore_errors=True)  # optimiser states: of no use once best is whole
        return best

    def settings(self, output: Path, device: Any, precision: str, has_validation: bool = True) -> Any:
        """The one place where Clarion's settings become trl.SFTConfig; trainer.args win where Clarion owns nothing."""
        from trl import SFTConfig

        known = [f.name for f in dataclasses.fields(SFTConfig) if f.init]
        unknown = [key for key in self.args if key not in known]
        if unknown:
            near = difflib.get_close_matches(unknown[0], known, n=2)
            hint = f" Did you mean {' or '.join(near)}?" if near else ""
            names = ", trainer.args.".join(unknown)
            raise UsageError(f"trainer.args.{names}: trl.SFTConfig has no such setting.{hint}")
        mapped = {
            "output_dir": str(output),
            "num_train_epochs": self.epochs,
            "per_device_train_batch_size": self.batch_size,
            "per_device_eval_batch_size": self.batch_size,
            "use_cpu": device.type == "cpu",
            "bf16": precision == "bf16",
            "fp16": precision == "16",
            "seed": self.seed,
            "data_seed": self.seed,
            "report_to": [],
            "logging_steps": 10,
            "eval_strategy": "epoch" if has_validation else "no",
            "save_strategy": "epoch",
            "save_total_limit": 2,
            "load_best_model_at_end": has_validation,
            "activation_checkpointing": device.type != "cpu",  # saves GPU memory; on a CPU it only costs time
            "dataloader_pin_memory": device.type != "cpu",
        }
        if "gradient_checkpointing" in self.args:  # its older name decides too
            mapped.pop("activation_checkpointing")
        merged = mapped | self.args
        if not has_validation:
            merged["eval_on_start"] = False
        try:
            config = SFTConfig(**merged)
            _ = config.device
        except (ValueError, TypeError, ImportError) as error:
            raise UsageError(f"trainer.args are refused by trl: {' '.join(str(error).split())}") from error
        if device.type == "cuda":
            config._n_gpu = 1  # trainer.device names one GPU; TRL refuses nn.DataParallel over all of them
        return config

    def _trainer(self, network, tokenizer, adapter, settings, datasets, run: Run) -> Any:
        from trl import SFTTrainer

        from clarion.trainers.sft_callback import TrackerCallback

        if self.model.get("quantization") is not None:
            from peft import prepare_model_for_kbit_training

            network = prepare_model_for_kbit_training(network, settings.activation_checkpointing)
        try:
            return SFTTrainer(
                model=network,
                args=settings,
                train_dataset=datasets["train"],
                eval_dataset=datasets["val"] if len(datasets["val"]) else None,
                processing_class=tokenizer,
                peft_config=adapter,
                callbacks=[TrackerCallback(run.tracker)],
            )
        except (ValueError, TypeError, RuntimeError) as error:
            raise DataError(f"TRL refuses this data or these settings: {' '.join(str(error).split())}") from error

    def _check_masks(self, trainer, tokenizer, chat, sizes: dict[str, int], show_text: bool) -> dict[str, float]:
        """Print and check what will be trained, on the trainer's own batches. Returns split -> share supervised."""
        from clarion.trainers.sft_mask import MaskReport, inspect_mask, require, summary, table

        shares = {}
        with _same_random_state():  # looking at the batches must not change which ones are drawn
            for split, rows in (("train", trainer.train_dataset), ("val", trainer.eval_dataset)):
                if not sizes[split]:
                    continue
                report = MaskReport(split)
                if len(rows):  # a loader over nothing cannot be built
                    loader = trainer.get_train_dataloader() if split == "train" else trainer.get_eval_dataloader()
                    report = inspect_mask(loader, split, chat)
                    if split == "train":
                        print(table(report, tokenizer, chat, show_text), file=sys.stderr)
                    else:
                        print(summary(report, tokenizer, chat), file=sys.stderr)
                require(report, sizes[split], tokenizer, chat, trainer.args.max_length)
                shares[split] = report.share
        return shares

    def _save(self, trainer, tokenizer, best: Path, adapter: bool, stop_ids: list[int], shares: dict) -> None:
        """Write best/ whole: it appears under its name only when its record is in it."""
        partial = best.with_name(".best.partial")
        shutil.rmtree(partial, ignore_errors=True)
        network = trainer.accelerator.unwrap_model(trainer.model)
        network.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        (partial / "README.md").unlink(missing_ok=True)  # peft's blank model card
        if adapter and (best.parent / "base").is_dir():
            (best.parent / "base").rename(partial / "base")
        history = trainer.state.log_history
        losses = {
            "train": [row["loss"] for row in history if "loss" in row],
            "val": [row["eval_loss"] for row in history if "eval_loss" in row],
        }
        record = {
            "format": "clarion-sft-1",
            "adapter": adapter,
            "model": self.model,
            "seed": self.seed,
            "stop_ids": stop_ids,
            "supervised_share": shares,
            "steps": trainer.state.global_step,
            "loss": {split: {"first": v[0], "last": v[-1], "lowest": min(v)} for split, v in losses.items() if v},
            "versions": {p: importlib.metadata.version(p) for p in ("torch", "transformers", "trl", "peft")},
        }
        (partial / RECORD).write_text(json.dumps(record, indent=2, ensure_ascii=False), encoding="utf-8")
        shutil.rmtree(best, ignore_errors=True)
        partial.rename(best)

    def load(self, checkpoint: Path) -> Predictor:
        """A folder written by `fit` -> SftPredictor. The recorded model config is used; model.path and
        model.generation of this trainer's own config win, so that weights may lie elsewhere on another machine."""
        checkpoint = Path(checkpoint)
        if not (checkpoint / RECORD).is_file():
            raise UsageError(f"{checkpoint} is no checkpoint of the sft trainer: it has no {RECORD}.")
        record = json.loads((checkpoint / RECORD).read_text(encoding="utf-8"))
        own = {key: self.model[key] for key in ("path", "generation") if self.model.get(key) is not None}
        record["model"] = record["model"] | own
        if record["adapter"] and not (checkpoint / "base").is_dir():
            find_weights(record["model"])
        stay_offline()
        device = torch_device(self.device)

        from clarion.trainers import sft_models
        from clarion.trainers.sft_chat import chat_format
        from clarion.trainers.sft_predict import SftPredictor

        dtype = sft_models.weight_dtype(record["model"], chosen_precision(self.precision, device))
        network, tokenizer = sft_models.reload(checkpoint, record, dtype, device)
        template_args = dict(record["model"].get("template_args") or {})
        return SftPredictor(
            network,
            tokenizer,
            chat_format(tokenizer, template_args),
            record["stop_ids"],
            dict(record["model"].get("generation") or {}),
            template_args,
            self.seed,
        )


def torch_device(device: str) -> Any:
    """auto | cpu | cuda | cuda:N -> torch.device. Raises UsageError when it is not there."""
    import torch

    available = torch.cuda.is_available()
    if device == "auto":
        device = "cuda" if available else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError:
        chosen = None
    if chosen is None or chosen.type not in ("cpu", "cuda"):
        raise UsageError(f"trainer.device={device} is unknown: write auto, cpu, cuda or cuda:0.")
    if chosen.type == "cuda":
        if not available or (chosen.index or 0) >= torch.cuda.device_count():
            raise UsageError(f"trainer.device={device}: this machine has no such GPU; use trainer.device=auto.")
        torch.cuda.set_device(chosen.index or 0)
    return chosen


def chosen_precision(precision: str, device: Any) -> str:
    """auto -> bf16 on a GPU that has it, 16 on an older one, else 32; "16" needs a GPU."""
    import torch

    if precision == "auto":
        return "32" if device.type == "cpu" else "bf16" if torch.cuda.is_bf16_supported() else "16"
    if precision not in ("32", "16", "bf16"):
        raise UsageError(f"trainer.precision={precision} is unknown: write auto, 32, 16 or bf16.")
    if precision == "16" and device.type == "cpu":
        raise UsageError("trainer.precision=16 needs a GPU; on a CPU use 32 or bf16.")
    return precision


def texts(rows: Any) -> Iterator[str]:
    """All texts of a conversational or plain dataset: what a tokenizer is trained on."""
    for row in rows:
        for column in ("prompt", "completion", "messages", "text"):
            value = row.get(column)
            if isinstance(value, str):
                yield value
            elif value:
                yield from (turn["content"] for turn in value)


def _rows(dataset: Any, template_args: Mapping[str, Any]) -> Any:
    # Without this column a template may write today's date into every prompt (Llama 3.2's does).
    if not template_args:
        return dataset
    return dataset.add_column("chat_template_kwargs", [dict(template_args)] * len(dataset))


def _plain(node: Any) -> dict[str, Any]:
    from omegaconf import OmegaConf

    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else dict(node)


@contextlib.contextmanager
def _undo_global_state() -> Iterator[None]:
    """Jobs of one process share it: accelerate's state is a singleton, and its environment variables stay."""
    before = {key: value for key, value in os.environ.items() if key.startswith("ACCELERATE_")}
    try:
        yield
    finally:
        for key in [k for k in os.environ if k.startswith("ACCELERATE_")]:
            del os.environ[key]
        os.environ.update(before)
        with contextlib.suppress(ImportError):
            from accelerate.state import AcceleratorState, GradientState

            AcceleratorState._reset_state(reset_partial_state=True)
            GradientState._reset_state()


@contextlib.contextmanager
def _same_random_state() -> Iterator[None]:
    import numpy as np
    import torch

    python, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if torch.cuda.is_available() else []):
        yield
    random.setstate(python)
    np.random.set_state(numpy_state)
