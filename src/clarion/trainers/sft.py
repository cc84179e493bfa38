"""Fine-tuning and continued pre-training of language models with TRL's SFTTrainer, with peft adapters or in full.

`fit` refuses to train on a wrong token mask (sft_mask.py, sft_documents.py) or on packs that leak (sft_packing.py); the
library's own settings pass verbatim through trainer.args, which are fields of trl.SFTConfig.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import logging
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from clarion import distributed
from clarion.errors import DataError, UsageError
from clarion.trainers import sft_fusion
from clarion.trainers.base import Predictor, Run
from clarion.trainers.sft_codes import check_constraint, constrained
from clarion.trainers.sft_resume import last_whole, tokens_until
from clarion.trainers.sft_settings import (
    chosen_precision,
    refuse_new_tokens,
    refuse_owned,
    same_random_state,
    sft_config,
    torch_device,
    undo_global_state,
)
from clarion.trainers.sft_weights import check_architecture, find_weights, stay_offline

log = logging.getLogger(__name__)

RECORD = "clarion.json"


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
        refuse_new_tokens(self.model.get("new_tokens"))
        check_architecture(self.model.get("architecture"), find_weights(self.model))
        check_constraint(self.model)
        refuse_owned(self.args)
        if self.model.get("fusion"):
            sft_fusion.check(self.model, self.args)
        distributed.share(self.batch_size)
        for key in ("fsdp", "deepspeed"):
            distributed.needs_cuda(key if self.args.get(key) else None, self.device)
        stay_offline()
        from clarion.trainers import sft_models

        device = torch_device(self.device)
        with undo_global_state():
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
        with undo_global_state():
            return sft_fusion.fit(self, run) if self.model.get("fusion") else self._fit(run, device, best)

    def _fit(self, run: Run, device: Any, best: Path) -> Path:
        from clarion.trainers import sft_documents, sft_models
        from clarion.trainers.sft_chat import chat_format, system_prompts
        from clarion.trainers.sft_lora import add_tokens, require_new_tokens

        weights = find_weights(self.model)
        template_args = dict(self.model.get("template_args") or {})
        datasets = {split: run.data.hf_dataset(split) for split in ("train", "val")}
        if not len(datasets["train"]):
            raise DataError("the training split is empty: give it rows.")
        plain = sft_documents.is_documents(datasets["train"])
        precision = chosen_precision(self.precision, device)
        settings = self.settings(run.checkpoints / "steps", device, precision, has_validation=len(datasets["val"]) > 0)
        dtype = sft_models.weight_dtype(self.model, precision)
        network, tokenizer = sft_models.build(self.model, weights, texts(datasets["train"]), dtype, device, self.seed)
        new_ids = add_tokens(network, tokenizer, self.model.get("new_tokens") or [])
        adapter = sft_models.lora_config(self.model, network, new_ids)
        if adapter is not None and weights.kind == "random" and not distributed.rank():
            network.save_pretrained(best.parent / "base")  # a drawn base exists nowhere else
        if plain:
            form = sft_documents.document_format(tokenizer, self.model.get("document_tokens"))
            stop_ids = sorted({form.eos_id, *sft_models.generation_eos(network)})
        else:
            form = chat_format(tokenizer, template_args)
            stop_ids = sorted({form.stop_id, *sft_models.generation_eos(network)})
        counts = {split: len(rows) for split, rows in datasets.items()}
        windowed = plain and bool(settings.packing) and settings.packing_strategy == "wrapped"
        rows = self._document_rows(datasets, tokenizer, form, settings, windowed) if plain else {
            split: _with_template_args(rows, template_args) for split, rows in datasets.items()
        }  # fmt: skip
        supports = self._structure(network)
        trainer = self._trainer(network, tokenizer, adapter, settings, rows, run)
        guard = None
        if supports is not None:
            from clarion.trainers.structured_lora import StructureGuard

            guard = StructureGuard(trainer.model, supports, self.model["lora"].get("variant"), run.tracker)
            trainer.add_callback(guard)
        require_new_tokens(trainer.model, new_ids, trainer.train_dataset, tokenizer)
        with same_random_state():  # looking at the batches must not change which ones are drawn
            if plain:
                shares = _check_documents(trainer, tokenizer, form, counts, windowed)
            else:
                shares = _check_masks(trainer, tokenizer, form, counts, show_text=run.data.kind != "private")
            if trainer.padding_free:
                from clarion.trainers.sft_packing import prove_isolation

                difference = prove_isolation(trainer)
                print(f"packing: documents are isolated (a changed neighbour changes the loss by {difference:.1g})",
                      file=sys.stderr)  # fmt: skip
        last = last_whole(run.checkpoints / "steps") if run.resume else None
        trainer._total_train_tokens = tokens_until(last) if last else 0
        with contextlib.redirect_stdout(sys.stderr):  # its progress bar writes log lines to stdout
            result = trainer.train(resume_from_checkpoint=last)
        facts = {
            "rows": "documents" if plain else "conversations",
            "supervised_share": shares,
            "stop_ids": stop_ids,
            "system_prompts": None if plain else system_prompts(datasets["train"]),
            "train_s": round(float(result.metrics["train_runtime"]), 2),
            "tokens": int(trainer._total_train_tokens),
        }
        if guard is not None:
            guard.verify()
            facts["structure"] = guard.report()
        # Of a model that is sharded over processes, all of them together give the weights, and process 0 writes.
        sharded = trainer.accelerator.get_state_dict(trainer.model) if trainer.is_fsdp_enabled else None
        if distributed.rank():
            return best
        self._save(trainer, tokenizer, best, adapter is not None, facts, sharded)
        shutil.rmtree(run.checkpoints / "steps", ignore_errors=True)  # optimiser states: of no use once best is whole
        return best

    def settings(self, output: Path, device: Any, precision: str, has_validation: bool = True) -> Any:
        """trl.SFTConfig of this trainer (sft_settings.sft_config)."""
        return sft_config(
            self.args, output, device, precision, self.epochs, distributed.share(self.batch_size), self.seed,
            has_validation,
        )  # fmt: skip

    def _document_rows(self, datasets, tokenizer, form, settings, windowed: bool) -> dict[str, Any]:
        """Token rows of documents; in full windows where packing is wrapped, which TRL would cut batch by batch."""
        from clarion.trainers import sft_documents

        sft_documents.refuse_masks(self.args)
        rows = {split: sft_documents.tokenized(d, tokenizer, form) if len(d) else d for split, d in datasets.items()}
        if windowed:
            length = settings.max_length
            # The validation loss is over all of its text; only training drops what fills no window.
            rows = {s: sft_documents.windows(d, length, s == "train", s) if len(d) else d for s, d in rows.items()}
            settings.packing = False  # done
        return rows

    def _trainer(self, network, tokenizer, adapter, settings, datasets, run: Run) -> Any:
        from trl import SFTTrainer

        from clarion.trainers.sft_attention import use_packed_attention
        from clarion.trainers.sft_callback import TrackerCallback
        from clarion.trainers.sft_lora import complete_head
        from clarion.trainers.sft_packing import refuse_leaks

        refuse_leaks(settings, conversations="input_ids" not in datasets["train"].column_names)
        if self.model.get("quantization") is not None:
            from peft import prepare_model_for_kbit_training

            network = prepare_model_for_kbit_training(network, settings.activation_checkpointing)
        try:
            trainer = SFTTrainer(
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
        distributed.confirm(trainer.accelerator.num_processes, "TRL")
        complete_head(trainer.model)
        if trainer.padding_free:
            use_packed_attention(network)
        return trainer

    def _structure(self, network) -> Any:
        """The declared support of a structured adapter on this network (None without model.lora.structure)."""
        lora = self.model.get("lora") or {}
        if not lora.get("structure"):
            return None
        from clarion.trainers.structured_lora import declared

        return declared(network, lora)

    def _save(self, trainer, tokenizer, best: Path, adapter: bool, facts: dict[str, Any], state: Any = None) -> None:
        """Write best/ whole: it appears under its name only when its record is in it."""
        partial = best.with_name(".best.partial")
        shutil.rmtree(partial, ignore_errors=True)
        network = trainer.accelerator.unwrap_model(trainer.model)
        # Plain transformers then stops where the model learnt to (a Base model knows only its end of text).
        network.generation_config.eos_token_id = facts["stop_ids"]
        network.save_pretrained(partial, state_dict=state)
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
            **facts,
            "steps": trainer.state.global_step,
            "loss": {split: {"first": v[0], "last": v[-1], "lowest": min(v)} for split, v in losses.items() if v},
            "versions": {p: importlib.metadata.version(p) for p in ("torch", "transformers", "trl", "peft")},
        }
        (partial / RECORD).write_text(json.dumps(record, indent=2, ensure_ascii=False), encoding="utf-8")
        shutil.rmtree(best, ignore_errors=True)
        partial.rename(best)

    def load(self, checkpoint: Path) -> Predictor:
        """A folder written by `fit` -> SftPredictor. The recorded model config is used; model.path,
        model.generation and model.constrain of this trainer's own config win: weights may lie elsewhere on another
        machine, and how a model is asked is not trained."""
        checkpoint = Path(checkpoint)
        if not (checkpoint / RECORD).is_file():
            raise UsageError(f"{checkpoint} is no checkpoint of the sft trainer: it has no {RECORD}.")
        record = json.loads((checkpoint / RECORD).read_text(encoding="utf-8"))
        own = {key: self.model[key] for key in ("path", "generation") if self.model.get(key) is not None}
        own |= {"constrain": self.model.get("constrain")}
        record["model"] = record["model"] | own
        if record["adapter"] and not (checkpoint / "base").is_dir():
            find_weights(record["model"])
        stay_offline()
        if record.get("fusion"):
            return sft_fusion.load(self, checkpoint, record)
        device = torch_device(self.device)

        from clarion.trainers import sft_documents, sft_models
        from clarion.trainers.sft_chat import chat_format
        from clarion.trainers.sft_likelihood import ChatOrDocuments, DocumentPredictor

        dtype = sft_models.weight_dtype(record["model"], chosen_precision(self.precision, device))
        network, tokenizer = sft_models.reload(checkpoint, record, dtype, device)
        template_args = dict(record["model"].get("template_args") or {})
        generation = dict(record["model"].get("generation") or {})
        form = sft_documents.document_format(tokenizer, record["model"].get("document_tokens"))
        documents = DocumentPredictor(network, tokenizer, form, int(generation.get("batch_size", 16)))
        if record.get("rows") == "documents" and not tokenizer.chat_template:
            return documents
        chat = chat_format(tokenizer, template_args)
        predictor = ChatOrDocuments(
            network, tokenizer, chat, record["stop_ids"], generation, template_args, self.seed
        )
        predictor.documents = documents
        return constrained(predictor, record["model"])


def _check_masks(trainer, tokenizer, chat, counts: Mapping[str, int], show_text: bool) -> dict[str, float]:
    """Print and check what will be trained, on the trainer's own batches. Returns split -> share supervised."""
    from clarion.trainers.sft_mask import MaskReport, inspect_mask, require, summary, table

    shares = {}
    for split, rows in (("train", trainer.train_dataset), ("val", trainer.eval_dataset)):
        if not counts[split]:
            continue
        report = MaskReport(split)
        if len(rows):  # a loader over nothing cannot be built
            report = inspect_mask(_loader(trainer, split), split, chat)
            if split == "train":
                print(table(report, tokenizer, chat, show_text), file=sys.stderr)
            else:
                print(summary(report, tokenizer, chat), file=sys.stderr)
        require(report, counts[split], tokenizer, chat, trainer.args.max_length)
        shares[split] = report.share
    return shares


def _check_documents(trainer, tokenizer, form, counts: Mapping[str, int], windowed: bool) -> dict[str, float]:
    """The same for plain documents: each with one BOS and its end, everything in the loss."""
    from clarion.trainers.sft_documents import inspect_documents, require_documents

    shares = {}
    for split, count in counts.items():
        if count:
            report = inspect_documents(_loader(trainer, split), split, form, count)
            said = require_documents(report, tokenizer, form, windowed, trainer.args.max_length)
            print(said, file=sys.stderr)
            shares[split] = report.share
    return shares


def _loader(trainer, split: str) -> Any:
    if distributed.world_size() > 1:  # every process looks at all rows, not at its share
        rows = trainer.train_dataset if split == "train" else trainer.eval_dataset
        return distributed.whole_loader(trainer, rows)
    return trainer.get_train_dataloader() if split == "train" else trainer.get_eval_dataloader()


def texts(rows: Any) -> Iterator[str]:
    """All texts of a conversational or plain dataset: what a tokenizer is trained on."""
    for row in rows:
        for column in ("prompt", "completion", "messages", "text"):
            value = row.get(column)
            if isinstance(value, str):
                yield value
            elif value:
                yield from (turn["content"] for turn in value)


def _with_template_args(dataset: Any, template_args: Mapping[str, Any]) -> Any:
    # Without this column a template may write today's date into every prompt (Llama 3.2's does).
    if not template_args:
        return dataset
    return dataset.add_column("chat_template_kwargs", [dict(template_args)] * len(dataset))


def _plain(node: Any) -> dict[str, Any]:
    from omegaconf import OmegaConf

    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else dict(node)
