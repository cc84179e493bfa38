"""Detectors trained by ultralytics' own DetectionTrainer, behind the protocol of clarion.trainers.base.

`trainer.args` goes to the library verbatim (its documented training settings: imgsz, optimizer, mosaic, ...).
Ultralytics is AGPL-3.0.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clarion.errors import DataError, UsageError
from clarion.record import write_atomic
from clarion.trainers import ultralytics_setup
from clarion.trainers.base import Run
from clarion.trainers.plain import plain
from clarion.trainers.states import forget_all

if TYPE_CHECKING:
    from clarion.trainers.ultralytics_predictor import DetectionPredictor

log = logging.getLogger(__name__)

# Settings of the library that something else in the config decides, and what to write instead.
DECIDED_ELSEWHERE = {
    "epochs": "trainer.epochs", "batch": "trainer.batch_size", "device": "trainer.device", "seed": "seed",
    "amp": "trainer.precision", "half": "trainer.precision", "quantize": "trainer.precision",
    "model": "model", "pretrained": "model.weights", "data": "data", "resume": "resume",
    "project": "runs_dir", "name": "runs_dir", "save_dir": "runs_dir", "exist_ok": "resume",
    "task": "model", "mode": "eval.py", "save": None, "save_period": None, "cfg": None, "distill_model": None,
}  # fmt: skip
VOID_UNDER_AUTO = ("lr0", "momentum", "warmup_bias_lr")


def map_device(device: str) -> str:
    """trainer.device (auto | cpu | cuda | cuda:0 | mps) -> a torch device name; UsageError if it is not there."""
    import torch

    name = str(device).lower()
    cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return "cuda:0" if cuda else "cpu"
    if name == "cpu" or (name == "mps" and torch.backends.mps.is_available()):
        return name
    if name == "cuda" or (name.startswith("cuda:") and name[5:].isdigit()):
        index = int(name[5:] or 0) if ":" in name else 0
        if index < cuda:
            return f"cuda:{index}"
        raise UsageError(f"trainer.device={device}: this machine has {cuda} CUDA device(s); use trainer.device=auto.")
    raise UsageError(f"trainer.device={device} is not known here; use auto, cpu, cuda or cuda:0 (one device a run; "
                     "hydra/launcher spreads several runs over several).")


def map_precision(precision: str | int, device: str) -> bool | str:
    """trainer.precision (auto | 32 | 16 | bf16) -> the library's `amp`: False, "fp16" or "bf16".

    auto is fp16 with loss scaling on CUDA, the library's default and the published system's, and fp32 elsewhere.
    """
    name = str(precision).lower()
    on_cuda = device.startswith("cuda")
    if name not in ("auto", "32", "16", "bf16"):
        raise UsageError(f"trainer.precision={precision} is not known; use auto, 32, 16 or bf16.")
    if name in ("16", "bf16") and not on_cuda:
        raise UsageError(f"trainer.precision={precision} needs a CUDA device, this run is on {device}; "
                         "use trainer.precision=auto or 32.")
    return {"auto": "fp16" if on_cuda else False, "32": False, "16": "fp16", "bf16": "bf16"}[name]


def default_workers(device: str) -> int:
    """Loader processes: none beside a CPU training (it needs the cores itself), up to 8 beside a GPU."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, max(cpus - 1, 0)) if device.startswith("cuda") else 0


@contextmanager
def readable_images() -> Iterator[None]:
    """An image that turns unreadable while it is trained on: a sentence, and its name stays off the record."""
    try:
        yield
    except FileNotFoundError as error:  # raised in a loader process too, where its text holds a whole trace
        found = re.search(r"Image Not Found (.+)", str(error))
        if not found:
            raise
        fix = "restore it, then the same command with resume=true goes on from the last whole epoch"
        failed = DataError(f"{Path(found.group(1).strip())} became unreadable during the training: {fix}.")
        failed.recorded = f"An image became unreadable during the training: {fix}."
        raise failed from error


class UltralyticsTrainer:
    """Trains and loads detectors: ultralytics' YOLOv8 and YOLO11, and clarion.detectors' original YOLOv5.

    model: the model config {name, network, network_class?, weights?}; args: the library's own settings.
    """

    def __init__(
        self, model: Any, epochs: int, batch_size: int, device: str = "auto", precision: str | int = "auto",
        args: Any = None, name: str = "ultralytics", seed: int = 0,
    ):  # fmt: skip
        self.model, self.args = dict(plain(model)), dict(plain(args) or {})
        self.epochs, self.batch_size, self.seed = int(epochs), int(batch_size), int(seed)
        self.device, self.precision, self.name = device, precision, name

    def fit(self, run: Run) -> Path:
        """Train; return `checkpoints/best`. With run.resume, go on from the last whole state in `checkpoints/resume`
        and end as if the training had never stopped (see ultralytics_state)."""
        ultralytics_setup.prepare()
        finished, best = run.checkpoints / "training.json", run.checkpoints / "best"
        overrides = self.overrides(run)

        from clarion.trainers import ultralytics_checkpoint, ultralytics_state
        from clarion.trainers.ultralytics_training import RecordedDetectionTrainer, states_of

        ultralytics_checkpoint.finish_replacing(best)
        if run.resume and finished.is_file() and best.is_dir():
            return best
        if not run.resume:
            forget_all(states_of(run))
        state = ultralytics_state.read_newest(states_of(run))
        if state and not state.facts["ended"]:
            log.info("going on after epoch %d of %d", state.facts["epochs"], self.epochs)
            overrides["batch"] = state.facts["batch_size"]  # which the library halves where memory is too small
        if not (state and state.facts["ended"]):
            with ultralytics_setup.offline_training(), readable_images():
                trainer = RecordedDetectionTrainer(run, self.model, overrides, state)
                trainer.train()
            state = ultralytics_state.read_newest(states_of(run))
        done, chosen = state.facts, state.facts["optimizer"]
        record = {"finished": True, "epochs": done["epochs"], "optimizer": chosen["name"], "lr0": chosen["lr0"],
                  "batch_size": done["batch_size"]}
        write_atomic(finished, json.dumps(record, indent=1))
        forget_all(states_of(run))  # a finished training cannot be continued, and best/ holds its result
        shutil.rmtree(run.work / "ultralytics" / "weights", ignore_errors=True)
        return best

    def check(self) -> None:
        """Settings the library would refuse or ignore, an absent device, start weights that are not there."""
        ultralytics_setup.prepare()
        from clarion.trainers import ultralytics_checkpoint

        self.check_args()
        map_precision(self.precision, map_device(self.device))
        if self.model.get("weights"):
            ultralytics_checkpoint.find_start_weights(self.model["weights"])

    def parameters(self, classes: int | None = None) -> int:
        """Weights of the unfused network; without `classes`, for one class (as the published table counts)."""
        ultralytics_setup.prepare()
        from clarion.trainers.ultralytics_checkpoint import build_network

        network = build_network(self.model["network"], self.model.get("network_class"), classes or 1)
        return sum(p.numel() for p in network.parameters())

    def load(self, checkpoint: Path) -> DetectionPredictor:
        """A checkpoint folder that `fit` wrote -> its predictor, on trainer.device."""
        ultralytics_setup.prepare()
        import torch

        from clarion.trainers import ultralytics_checkpoint
        from clarion.trainers.ultralytics_predictor import DetectionPredictor

        device = map_device(self.device)
        # fp32 unless asked otherwise; a detector trained in mixed precision on a GPU predicts on a laptop too
        amp = device.startswith("cuda") and str(self.precision) != "auto" and map_precision(self.precision, device)
        model, record = ultralytics_checkpoint.load(Path(checkpoint), allowed_class=self.model.get("network_class"))
        limits = {k: self.args[k] for k in ("conf", "iou", "max_det") if self.args.get(k) is not None}
        return DetectionPredictor(
            model.fuse(verbose=False), record["imgsz"], self.batch_size, device,
            autocast={"fp16": torch.float16, "bf16": torch.bfloat16}.get(amp or ""),
            agnostic=bool(self.args.get("agnostic_nms") or self.args.get("single_cls")),
            workers=default_workers(device), **limits,
        )  # fmt: skip

    def overrides(self, run: Run) -> dict[str, Any]:
        """Everything handed to DetectionTrainer; UsageError on settings it would refuse or silently ignore."""
        self.check()
        device = map_device(self.device)
        return {
            "workers": default_workers(device), "plots": False, "deterministic": True,
            **self.args,
            "task": "detect", "mode": "train", "model": f"{self.model['name']}.yaml", "pretrained": False,
            "data": str(run.data.yolo_yaml()), "epochs": self.epochs, "batch": self.batch_size,
            "device": device, "amp": map_precision(self.precision, device), "seed": self.seed,
            "save_dir": str((run.work / "ultralytics").resolve()), "exist_ok": True, "save": True,
            "resume": False,
        }  # fmt: skip

    def check_args(self) -> None:
        """Let the library judge `trainer.args`, and refuse what it would accept but not do."""
        for key, instead in DECIDED_ELSEWHERE.items():
            if key in self.args:
                fix = f"set {instead} instead" if instead else "leave it out: Clarion decides it"
                raise UsageError(f"trainer.args.{key} is not taken from here; {fix}.")
        void = [k for k in VOID_UNDER_AUTO if k in self.args]
        if void and str(self.args.get("optimizer", "auto")).lower() == "auto":
            raise UsageError(f"trainer.args.{void[0]} would be ignored: ultralytics' optimizer=auto chooses its own; "
                             "add +trainer.args.optimizer=SGD (or AdamW, ...), or leave it out.")
        if not str(self.model.get("network") or "").endswith((".yaml", ".yml")):
            raise UsageError(f"model.network={self.model.get('network')} must name a structure such as yolo11n.yaml; "
                             "start weights go to model.weights.")
        import io

        from ultralytics.cfg import get_cfg
        from ultralytics.utils import LOGGER

        level = LOGGER.level
        LOGGER.setLevel("ERROR")  # its refusal also prints two screens of help
        try:
            with redirect_stdout(io.StringIO()):
                get_cfg(overrides=dict(self.args))
        except (SyntaxError, TypeError, ValueError) as error:
            raise UsageError(f"trainer.args was refused by ultralytics: {' '.join(str(error).split())}") from None
        finally:
            LOGGER.setLevel(level)
