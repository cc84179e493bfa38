"""Language models that are not fitted here: what they answer as they come, as a recorded run like any other.

`fit` trains nothing; its checkpoint says which weights were used, by hash, and `load` opens those and no others.
model.engine: transformers (folder, adapter, GGUF), openai (a server that speaks OpenAI's protocol) or vllm.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clarion.errors import UsageError
from clarion.record import hash_file, write_atomic
from clarion.trainers.base import Predictor, Run
from clarion.trainers.plain import plain
from clarion.trainers.sft_codes import check_constraint, constrained
from clarion.trainers.sft_weights import Weights, check_architecture, find_weights, stay_offline

log = logging.getLogger(__name__)

RECORD = "clarion.json"
FORMAT = "clarion-pretrained-1"
ENGINES = ("transformers", "openai", "vllm")
ADAPTER = "adapter_config.json"


class PretrainedTrainer:
    """Trainer of the protocol whose fit trains nothing. model: the model config (conf/model/_pretrained.yaml, or any
    language model's: its lora and its trainer settings do not apply); epochs, batch_size and args change nothing."""

    trains = False  # so a run of it has no training texts, whatever its data hold

    def __init__(
        self,
        model: Mapping[str, Any],
        epochs: float = 1,
        batch_size: int = 8,
        device: str = "auto",
        precision: str = "auto",
        args: Mapping[str, Any] | None = None,
        name: str = "pretrained",
        seed: int = 0,
    ):
        # quantisation for training needs an adapter, and there is none
        self.model = plain(model) | {"lora": None, "quantization": None}
        self.device, self.precision, self.name, self.seed = str(device), str(precision), name, int(seed)
        self.engine = str(self.model.get("engine") or "transformers")
        if self.engine not in ENGINES:
            raise UsageError(f"model.engine={self.engine} is unknown: write {', '.join(ENGINES)}.")

    def check(self) -> None:
        """Refuse absent weights or libraries, and a server that does not answer, before data are prepared."""
        check_constraint(self.model)
        if self.engine == "openai":
            from clarion.trainers.api import connect

            connect(self.model).check()
            return
        if self.engine == "vllm" and self.model.get("path"):
            if (Path(str(self.model["path"])).expanduser() / ADAPTER).is_file():
                raise UsageError(
                    f"model=vllm takes whole models, and model.path={self.model['path']} is an adapter: merge it first "
                    "(clarion merge RUN --out FOLDER), or use model=hf_causal."
                )
        if self.engine == "vllm" and importlib.util.find_spec("vllm") is None:
            raise UsageError(
                "model=vllm needs the package vllm, which is not installed: pip install vllm (CUDA), or use "
                "model=hf_causal model.path=/folder."
            )
        weights = source(self.model)
        check_architecture(self.model.get("architecture"), weights)
        if weights.kind == "random":
            raise UsageError(
                f"model={self.model.get('name')} is drawn at random before it is trained: there is nothing to evaluate "
                "untrained; drop trainer=pretrained."
            )
        from clarion.trainers.sft import chosen_precision, torch_device

        chosen_precision(self.precision, torch_device(self.device))

    def parameters(self, classes: int | None = None) -> int | None:
        """Weights of the model, from its architecture on the meta device; None where no file here states it."""
        if self.engine == "openai":
            return None
        stay_offline()
        weights = source(self.model)
        if self.model.get("architecture"):
            from clarion.trainers.sft_models import parameter_counts

            return parameter_counts(self.model)["total"]
        if weights.kind != "folder" or not (weights.path / "config.json").is_file():
            return None
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM

        with torch.device("meta"):
            config = AutoConfig.from_pretrained(weights.path, local_files_only=True)
            return AutoModelForCausalLM.from_config(config).num_parameters()

    def fit(self, run: Run) -> Path:
        """Train nothing; write checkpoints/best, which says what was used: model config, files and their hashes."""
        self.check()
        best = run.checkpoints / "best"
        shutil.rmtree(best, ignore_errors=True)
        record: dict[str, Any] = {"format": FORMAT, "engine": self.engine, "model": self.model}
        if self.engine != "openai":
            record["files"] = file_hashes(source(self.model), self.model)
            record["versions"] = {p: importlib.metadata.version(p) for p in ("torch", "transformers")}
        log.info("%s is evaluated as it is: nothing is trained", self.model.get("name"))
        write_atomic(best / RECORD, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
        return best

    def load(self, checkpoint: Path) -> Predictor:
        """A folder written by `fit` -> predictor. model.path, base_url, model.generation and model.constrain of this
        trainer's own config win: weights and servers may lie elsewhere on another machine; weights of another hash do
        not."""
        path = Path(checkpoint) / RECORD
        record = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        if record.get("format") != FORMAT:
            raise UsageError(f"{checkpoint} is no checkpoint of the pretrained trainer.")
        if record["engine"] != self.engine:
            raise UsageError(
                f"{checkpoint} was recorded with model.engine={record['engine']}, the model config says {self.engine}: "
                "choose the model it was recorded with."
            )
        own = {k: self.model[k] for k in ("path", "base", "base_url", "generation") if self.model.get(k) is not None}
        model = record["model"] | own | {"constrain": self.model.get("constrain")}
        if self.engine == "openai":
            from clarion.trainers.api import ApiPredictor, connect

            return ApiPredictor(connect(model), model)
        weights = source(model)
        if (found := file_hashes(weights, model)) != record["files"]:
            changed = sorted(k for k in found.keys() | record["files"].keys() if found.get(k) != record["files"].get(k))
            raise UsageError(
                f"{weights.path} is not what was recorded: {', '.join(changed[:3])} differ(s); give the same weights "
                "with model.path, or record a new run."
            )
        if self.engine == "vllm":
            from clarion.trainers.api_vllm import VllmPredictor

            return VllmPredictor(weights.path, model, self.seed)
        return self._open(model, weights)

    def untuned(self) -> Predictor:
        """The weights that the config names, as they come. Raises UsageError as `check` does."""
        self.check()
        return self._open(self.model, source(self.model))

    def _open(self, model: Mapping[str, Any], weights: Weights) -> Predictor:
        from clarion.trainers.sft import chosen_precision, torch_device

        stay_offline()
        device = torch_device(self.device)
        from clarion.trainers import sft_models
        from clarion.trainers.sft_chat import chat_format
        from clarion.trainers.sft_predict import SftPredictor

        # There is no optimiser whose small steps need float32: weights may be as short as the arithmetic.
        precision = chosen_precision(self.precision, device)
        short = {"bf16": "bfloat16", "16": "float16"}.get(precision, "float32")
        dtype = sft_models.DTYPES[short] if model.get("dtype") in (None, "auto") else None
        dtype = dtype or sft_models.weight_dtype(model, precision)
        if (weights.path / ADAPTER).is_file():
            network, tokenizer = open_adapter(weights.path, model, dtype, device)
        else:
            network, tokenizer = sft_models.build(model, weights, [], dtype, device, self.seed)
        template_args = dict(model.get("template_args") or {})
        network = network.to(device).eval()
        predictor = SftPredictor(
            network,
            tokenizer,
            chat_format(tokenizer, template_args),
            sft_models.generation_eos(network),
            dict(model.get("generation") or {}),
            template_args,
            self.seed,
        )
        return constrained(predictor, model)


def source(model: Mapping[str, Any]) -> Weights:
    """The weights that the config names; model.path may be an adapter's folder too. Raises UsageError."""
    name = model.get("name")
    if model.get("weights") in ("folder", "file") and not model.get("path"):
        what = "FILE.gguf" if model["weights"] == "file" else "/folder"
        raise UsageError(f"model={name} is any model of yours: say where it lies with model.path={what}")
    if model.get("path"):
        path = Path(str(model["path"])).expanduser()
        if (path / ADAPTER).is_file():
            if not (path / "adapter_model.safetensors").is_file():
                raise UsageError(f"model.path={path} is an adapter without adapter_model.safetensors; download that.")
            return Weights("folder", path.resolve(), path.name)
    return find_weights(model)


def adapter_base(path: Path, model: Mapping[str, Any]) -> Weights | None:
    """The base of the adapter in `path`: model.base, else what the adapter itself names; None where the folder is a
    checkpoint of the sft trainer, which knows its base."""
    if (path / RECORD).is_file() and not model.get("base"):
        return None
    named = model.get("base") or json.loads((path / ADAPTER).read_text(encoding="utf-8")).get("base_model_name_or_path")
    if not named:
        raise UsageError(f"the adapter {path} names no base model: give its folder with model.base=/folder.")
    local = Path(str(named)).expanduser()
    return find_weights({"path": str(local)} if local.exists() else {"weights": named, "name": model.get("name")})


def open_adapter(path: Path, model: Mapping[str, Any], dtype: Any, device: Any) -> tuple[Any, Any]:
    """A peft adapter's folder, or a checkpoint of the sft trainer -> network with it applied, and tokenizer."""
    from clarion.trainers import sft_models
    from clarion.trainers.sft_chat import use_pad, use_template

    base = adapter_base(path, model)
    if base is None:
        record = json.loads((path / RECORD).read_text(encoding="utf-8"))
        return sft_models.reload(path, record, dtype, device)
    from peft import PeftModel
    from transformers import AutoTokenizer

    folder = sft_models.converted(base)
    own = (path / "tokenizer_config.json").is_file()
    tokenizer = AutoTokenizer.from_pretrained(path if own else folder, local_files_only=True)
    use_template(tokenizer, model.get("template"))
    use_pad(tokenizer, model.get("pad_token"))
    network = sft_models.read_folder(folder, dtype, None, device)
    return PeftModel.from_pretrained(network, path, local_files_only=True), tokenizer


def file_hashes(weights: Weights, model: Mapping[str, Any]) -> dict[str, str]:
    """File name -> sha256 of everything that decides what a model answers (weights, config, tokenizer, template)."""
    if weights.path.is_file():
        return {weights.path.name: hash_file(weights.path)}
    kinds = (".safetensors", ".json", ".jinja", ".model", ".txt")
    places = [weights.path, weights.path / "base"]  # the sft trainer keeps a base that exists nowhere else
    files = sorted(p for place in places for p in place.glob("*") if p.is_file() and p.suffix in kinds)
    found = {p.relative_to(weights.path).as_posix(): hash_file(p) for p in files}
    base = adapter_base(weights.path, model) if (weights.path / ADAPTER).is_file() else None
    return found | {f"base: {name}": value for name, value in (file_hashes(base, {}) if base else {}).items()}
