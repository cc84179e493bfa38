"""Train any LightningModule with `lightning`: networks of timm today, of MONAI or our own in later rooms.

What a module class must offer to be named by `model.module` (ClassificationModule is the first):

    Module(model: dict, facts: dict)      model: the model config; facts: what the data's module says of the data
                                          (class names, image size, grey statistics ...); both JSON-able
    Module.build(model, classes)          staticmethod: a fresh network, to count its weights
    module.network                        the torch.nn.Module whose state_dict is the checkpoint
    module.load_start_weights(path)       optional: for model.weights
    module.answer(samples) -> list[dict]  values of one Prediction per Sample (the module is on its device, in eval)
    self.log("train/...") / ("val/...")   on_epoch; `model.monitor` and `model.monitor_mode` pick the best epoch

and the data: `run.data.datamodule(batch_size=, seed=, **model.datamodule)` -> LightningDataModule with `.facts`; where
it takes `start`, it is given model.weights, the checkpoint that training starts from; where it takes `device`, the
device that this process trains on. What it learned on the training patients beside the facts it writes by
`write_tables(folder)`, where it has that.
A new task is a new module class named in a model's config; nothing here changes.
"""

from __future__ import annotations

import inspect
import json
import logging
import math
import random
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from hydra.utils import get_class, instantiate
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, RichProgressBar
from safetensors.torch import load_file, save_file

from clarion import distributed
from clarion.config import nearest, numbered, target_problems
from clarion.errors import ClarionError, UsageError
from clarion.networks import ModulePredictor
from clarion.record import write_atomic
from clarion.trained import start_weights
from clarion.trainers import lightning_ddp, lightning_states
from clarion.trainers.after import check_after
from clarion.trainers.base import Predictor, Run
from clarion.trainers.plain import plain
from clarion.trainers.states import forget_all

log = logging.getLogger(__name__)

FORMAT = "clarion-lightning/1"
DEFAULT_MODULE = "clarion.trainers.lightning_classification.ClassificationModule"


class LightningTrainer:
    """The Trainer protocol over `L.Trainer`; `args` go to it verbatim and win over what Clarion sets.

    epochs -> max_epochs; batch_size -> the data's loaders; device, precision -> see library_settings().
    """

    def __init__(
        self,
        model: Any,
        epochs: int,
        batch_size: int,
        device: str = "auto",
        precision: str | int = "auto",
        args: Any = None,
        name: str = "lightning",
        seed: int = 0,
    ):
        self.model = plain(model)
        self.epochs, self.batch_size, self.device, self.precision = int(epochs), int(batch_size), device, precision
        self.args = plain(args or {})
        self.name, self.seed = name, int(seed)

    # ---- the four settings that mean the same for every trainer --------------------------------------------

    def library_settings(self) -> dict[str, Any]:
        """Map epochs, device and precision to the words of L.Trainer (batch_size goes to the data)."""
        device = resolve_device(self.device)
        if device.type == "cpu":
            where: dict[str, Any] = {"accelerator": "cpu", "devices": 1}
        else:
            where = {"accelerator": "gpu", "devices": [device.index or 0]}
        where |= lightning_ddp.settings(self.args)
        words = {"32": "32-true", "16": "16-mixed", "bf16": "bf16-mixed"}
        asked = str(self.precision)
        if asked == "auto":
            asked = "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "32"
        if asked not in words:
            raise UsageError(f"trainer.precision={self.precision} is unknown: use auto, {', '.join(words)}.")
        return {"max_epochs": self.epochs, "precision": words[asked], **where}

    def _own_device(self) -> torch.device:
        """Where this process trains: of several, each on the device of its local rank."""
        device, team = resolve_device(self.device), distributed.team()
        return torch.device("cuda", team.local_rank) if team and device.type == "cuda" else device

    def check(self) -> None:
        """Device, precision, module class and shipped start weights that would be refused once training starts."""
        distributed.share(self.batch_size)
        distributed.needs_cuda(self.args.get("strategy"), self.device)
        self.library_settings()
        check_after(self.model)
        self._start_weights()

    def parameters(self, classes: int | None = None) -> int:
        """Weights of the network, counted on the meta device; without `classes`, for 3 (the stage groups)."""
        with torch.device("meta"):
            network = self._module_class().build(self.model, classes or 3)
        return sum(p.numel() for p in network.parameters())

    # ---- fit -----------------------------------------------------------------------------------------------

    def fit(self, run: Run) -> Path:
        """Train and return checkpoints/best (model.safetensors + model.json).

        checkpoints/resume holds Lightning's own state after each of the last two epochs; with run.resume the training
        goes on from it, and ends as if it had never stopped (random state depends on seed and epoch alone).
        """
        finished, states = run.checkpoints / "training.json", run.checkpoints / "resume"
        if run.resume and finished.is_file() and (run.checkpoints / "best").is_dir():
            return run.checkpoints / "best"
        if not run.resume and not distributed.rank():
            forget_all(states)
        L.seed_everything(self.seed, workers=True, verbose=False)
        options = dict(self.model.get("datamodule", {}))
        start = self._start_weights()
        taken = inspect.signature(run.data.datamodule).parameters
        if start and "start" in taken:
            options["start"] = str(start)  # data whose inputs are learned: those the weights know
        if "device" in taken:
            options["device"] = str(self._own_device())  # data whose inputs a network makes first
        data = run.data.datamodule(batch_size=distributed.share(self.batch_size), seed=self.seed, **options)
        data.setup("fit")
        if hasattr(data, "write_tables") and not distributed.rank():
            data.write_tables(run.directory / "tables")
        if team := distributed.team():
            data = lightning_ddp.SharedData(data, team)
        module = self._module_class()(model=self.model, facts=data.facts)
        if start:
            module.load_start_weights(start)

        monitor, mode = self.model.get("monitor", "val/loss"), self.model.get("monitor_mode", "min")
        best = ModelCheckpoint(
            run.checkpoints,
            "best",
            monitor=monitor,
            mode=mode,
            save_weights_only=True,
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        )
        keep = lightning_states.KeepStates(states)
        ours = [EpochSeed(self.seed), EpochMetrics(run.tracker), best, keep]
        state, callbacks = lightning_states.read_newest(states) or (None, {})
        with restored_torch_state(), quiet(logging.getLogger("lightning.pytorch")), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            warnings.filterwarnings("ignore", message=".*exists and is not empty.*")  # resuming, on purpose
            warnings.filterwarnings("ignore", message=".*isinstance.treespec.*")  # torch's own, inside lightning
            trainer = self._lightning_trainer(run, ours)
            distributed.confirm(trainer.world_size, "lightning")
            if lightning_states.is_ended(callbacks):  # killed after its last epoch
                best.load_state_dict(callbacks[best.state_key])
                keep.load_state_dict(callbacks[keep.state_key])
            else:
                with distributed.kept():
                    trainer.fit(module, datamodule=data, ckpt_path=state, weights_only=True)

        if distributed.rank():
            return run.checkpoints / "best"  # process 0 writes it
        score = best.best_model_score
        if score is None or not (run.checkpoints / "best.ckpt").is_file():
            raise ClarionError(f"No epoch was finished with a value of {monitor}: nothing to keep as a checkpoint.")
        state = torch.load(run.checkpoints / "best.ckpt", map_location="cpu", weights_only=True)
        if "strategy" in self.args:  # it may have taken the module apart
            module = type(module)(model=self.model, facts=data.facts)
        module.load_state_dict(state["state_dict"])
        trained = {
            "epochs": keep.epochs,
            "best_epoch": int(state["epoch"]),
            "seed": self.seed,
            "monitor": monitor,
            "score": float(score),
        }
        log.info("best epoch %d of %d (%s %.4f)", trained["best_epoch"] + 1, trained["epochs"], monitor, score)
        checkpoint = self._export(module, trained, run.checkpoints / "best")
        write_atomic(finished, json.dumps(trained, indent=1))
        forget_all(states)
        (run.checkpoints / "best.ckpt").unlink(missing_ok=True)  # checkpoints/best holds its weights
        return checkpoint

    def _lightning_trainer(self, run: Run, ours: list[Callback]) -> L.Trainer:
        """L.Trainer from our settings and the user's args; only what the four common settings own is refused."""
        if "max_epochs" in self.args:
            raise UsageError("trainer.args.max_epochs: set trainer.epochs instead, it means the same everywhere.")
        args = dict(instantiate(self.args, _convert_="all"))
        theirs = args.pop("callbacks", None) or []
        theirs = list(theirs) if isinstance(theirs, (list, tuple)) else [theirs]
        if args.get("enable_progress_bar", True):
            theirs.append(RichProgressBar(leave=False, console_kwargs={"stderr": True}))
        settings = {
            "default_root_dir": run.work,
            "logger": False,
            "num_sanity_val_steps": 0,
            "enable_model_summary": False,
            **self.library_settings(),
            **args,
        }
        if str(settings.get("strategy", "auto")) in ("auto", "ddp") and "plugins" not in settings:
            settings["plugins"] = [lightning_states.WholeFiles()]
        if settings["accelerator"] != "cpu":
            settings.setdefault("deterministic", "warn")  # a seed gives the same metrics on one device
        known = inspect.signature(L.Trainer.__init__).parameters
        for key in settings:
            if key not in known:
                raise UsageError(f"trainer.args.{key} is no argument of lightning's Trainer.{nearest(key, known)}")
        return L.Trainer(**settings, callbacks=[*ours, *theirs])

    def _module_class(self) -> type[L.LightningModule]:
        """The class named by model.module, of an admitted package only (a config from others is data, not code)."""
        named = self.model.get("module") or DEFAULT_MODULE
        if problems := target_problems({"_target_": named}, "model.module"):
            raise UsageError(numbered(problems))
        try:
            found = get_class(named)
        except (ImportError, ValueError) as error:
            raise UsageError(f"model.module={named} cannot be imported: {error}.") from error
        if not issubclass(found, L.LightningModule):
            raise UsageError(f"model.module={named} is no LightningModule.")
        return found

    def _start_weights(self) -> Path | None:
        kind = class_name(self._module_class())
        return start_weights(self.model["weights"], kind) if self.model.get("weights") else None

    def _export(self, module: L.LightningModule, trained: dict[str, Any], folder: Path) -> Path:
        """Write weights and description without pickle; the folder appears whole or not at all."""
        partial = folder.with_name(folder.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in module.network.state_dict().items()}
        save_file(tensors, partial / "model.safetensors", metadata={"format": "pt"})
        model = {key: value for key, value in self.model.items() if key != "weights"}  # a path of this machine only
        description = {
            "format": FORMAT,
            "module": class_name(type(module)),
            "model": model,
            "facts": module.facts,
            "trained": trained,
        }
        (partial / "model.json").write_text(json.dumps(description, indent=2), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
        return folder

    # ---- load ----------------------------------------------------------------------------------------------

    def load(self, checkpoint: Path) -> Predictor:
        """A folder with model.safetensors + model.json -> a Predictor on this trainer's device, in 32 bit.

        The module's class comes from this trainer's own config, never from the checkpoint: a file from others may
        not choose what code runs. Raises UsageError for another format, class, or weights that do not fit.
        """
        checkpoint = Path(checkpoint)
        try:
            description = json.loads((checkpoint / "model.json").read_text(encoding="utf-8"))
            weights = load_file(checkpoint / "model.safetensors")
        except FileNotFoundError as error:
            raise UsageError(
                f"{checkpoint} is no checkpoint of the lightning trainer: {Path(error.filename or checkpoint).name} "
                "is missing (a folder with model.safetensors and model.json is needed)."
            ) from None
        except Exception as error:  # safetensors raises its own type for every broken header
            raise UsageError(f"{checkpoint} cannot be read as a checkpoint: {error}.") from error
        module_class = self._module_class()
        if description.get("format") != FORMAT:
            raise UsageError(f"{checkpoint} has format {description.get('format')!r}; this version reads {FORMAT!r}.")
        if description.get("module") != class_name(module_class):
            raise UsageError(
                f"{checkpoint} holds a {description.get('module')}, the model config names {class_name(module_class)}: "
                "choose the model it was trained with."
            )
        module = module_class(model=description["model"], facts=description["facts"])
        try:
            module.network.load_state_dict(weights, strict=True)
        except RuntimeError as error:
            raise UsageError(f"{checkpoint}: the weights do not fit the described network ({error}).") from error
        return ModulePredictor(module, self.batch_size, resolve_device(self.device))


# ---- callbacks ---------------------------------------------------------------------------------------------


class EpochSeed(Callback):
    """Random state from (seed, epoch) at every epoch's start: a resumed run draws what the unbroken one drew."""

    def __init__(self, seed: int):
        self.seed = seed

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        state = int(
            np.random.SeedSequence([self.seed, trainer.current_epoch, trainer.global_rank]).generate_state(1)[0]
        )
        random.seed(state)
        np.random.seed(state)
        torch.manual_seed(state)


class EpochMetrics(Callback):
    """Per-epoch train and val metrics and the learning rate to the run's tracker; stops a diverged training."""

    def __init__(self, tracker: Any):
        self.tracker = tracker

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        metrics = lightning_ddp.mean_over_processes({n: float(v) for n, v in trainer.callback_metrics.items()})
        if trainer.optimizers:
            metrics["train/lr"] = float(trainer.optimizers[0].param_groups[0]["lr"])
        if not math.isfinite(metrics.get("train/loss", 0.0)):
            done = trainer.current_epoch
            kept = f"; what was learned in {done} epoch(s) is kept, and resume=true goes on from there" if done else ""
            raise ClarionError(
                f"The training diverged in epoch {done + 1} (train/loss is {metrics['train/loss']}){kept}: "
                "lower model.lr or set trainer.precision=32."
            )
        if trainer.is_global_zero:
            self.tracker.log(metrics, step=trainer.current_epoch)
            shown = "  ".join(f"{name} {value:.4g}" for name, value in sorted(metrics.items()))
            log.info("epoch %d/%d  %s", trainer.current_epoch + 1, trainer.max_epochs, shown)


# ---- small things ------------------------------------------------------------------------------------------


@contextmanager
def restored_torch_state() -> Iterator[None]:
    """L.Trainer sets determinism and cuDNN's benchmark for the whole process: the next job must not inherit them."""
    deterministic, warn = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    benchmark = torch.backends.cudnn.benchmark
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(deterministic, warn_only=warn)
        torch.backends.cudnn.benchmark = benchmark


@contextmanager
def quiet(logger: logging.Logger) -> Iterator[None]:
    """Warnings only: lightning announces devices it does not use and products of its maker."""
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def resolve_device(device: str) -> torch.device:
    """auto | cpu | cuda | cuda:<i> -> torch.device; UsageError when it is not there."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        found = torch.device(device)
    except RuntimeError:
        raise UsageError(f"trainer.device={device} is unknown: use auto, cpu, cuda or cuda:0.") from None
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"trainer.device={device}: this machine shows {torch.cuda.device_count()} CUDA devices; use auto or cpu."
        )
    return found


def class_name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
