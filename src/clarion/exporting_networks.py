"""Networks of the lightning trainer as onnx, torchscript, safetensors, or (timm's) in the hub's layout.

A served network takes what the room's own reader makes of a sample and gives what its predictor reads off: the inputs
are captured from a real prediction, so they are those of the checkpoint by construction.
"""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from clarion.errors import ClarionError, UsageError
from clarion.exporting import Job

OPSET = 18
SERVING_FACTS = ("class_names", "image_size", "mean", "std", "surfaces", "axial_um", "lateral_um", "horizons", "genes",
                 "cancers", "age", "edges")  # fmt: skip

# Reads a model with onnxruntime and numpy alone, in a process that knows no Clarion and no torch.
FRESH = """
import sys, numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
given = numpy.load(sys.argv[2], allow_pickle=False)
found = session.run(None, {i.name: given[i.name] for i in session.get_inputs()})
numpy.savez(sys.argv[3], **{o.name: v for o, v in zip(session.get_outputs(), found)})
assert not {"clarion", "torch"} & set(sys.modules)
"""


class Served(nn.Module):
    """A module as a function of named tensors. `inputs`: name -> {axis: name of the free axis}; `outputs`: names."""

    inputs: dict[str, dict[int, str]]
    outputs: tuple[str, ...]
    meaning: dict[str, str]

    def __init__(self, module: Any):
        super().__init__()
        self.module = module
        self.eval()


class Classifier(Served):
    inputs = {"image": {0: "batch"}}
    outputs = ("probabilities",)
    meaning = {"image": "uint8 [batch, 1, height, width], grey, resampled to the size trained on",
               "probabilities": "float32 [batch, classes]"}  # fmt: skip

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (self.module(image).float().softmax(1),)


class Layers(Served):
    inputs = {"picture": {0: "batch", 2: "rows", 3: "columns"}}
    outputs = ("probabilities",)
    meaning = {"picture": "float32 [batch, 1, rows, columns], a B-scan at the working scale of export.json's facts, "
               "normalised; rows and columns multiples of 16",
               "probabilities": "float32 [batch, 8 surfaces, rows, columns]: where in its column each surface lies",
               }  # fmt: skip

    def forward(self, picture: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (self.module.network(picture).softmax(2),)


class Presence(Served):
    inputs = {"strip": {0: "batch", 3: "columns"}}
    outputs = ("probability",)
    meaning = {"strip": "float32 [batch, 1, depth, columns], flattened along the ILM, normalised",
               "probability": "float32 [batch, columns] of a membrane, calibrated"}  # fmt: skip

    def forward(self, strip: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (self.module.network.calibrated(self.module(strip)),)


class Survival(Served):
    outputs = ("risk", "survival")
    meaning = {"risk": "float32 [batch]; higher is worse",
               "survival": "float32 [batch, horizons of export.json's facts]"}  # fmt: skip

    def __init__(self, module: Any, names: Sequence[str]):
        super().__init__(module)
        self.inputs = {name: {0: "batch"} for name in names}

    def forward(self, *arrays: torch.Tensor) -> tuple[torch.Tensor, ...]:
        from clarion.cancer.transformer.heads import survival_at

        logits = self.module(dict(zip(self.inputs, arrays, strict=True))).float()
        facts = self.module.encoder.facts
        if self.module.head == "hazard":
            survival = survival_at(logits, facts.edges, [float(t) for t in facts.horizons])
        else:
            survival = torch.sigmoid(-logits)
        return self.module.as_risk(logits), survival


class Patches(Served):
    """The encoder of a slide model: what is run over a million tiles; the pooling behind it stays with Clarion."""

    inputs = {"patch": {0: "batch"}}
    outputs = ("features",)
    meaning = {"patch": "uint8 [batch, height, width, 3], RGB tiles of the size and scale of the model's `tiles`",
               "features": "float32 [batch, width], before the pooling"}  # fmt: skip

    def forward(self, patch: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (self.module.network.encoder(patch),)


class Whole(Served):
    """A module of somebody else's: its network's first input, its first output."""

    inputs = {"input": {0: "batch"}}
    outputs = ("output",)
    meaning = {"input": "what the module gives its network", "output": "the network's own output"}

    def forward(self, given: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = self.module.network(given)
        return (found[0] if isinstance(found, (tuple, list)) else found,)


# task -> (how it is served, whether its inputs are captured from the module's call or from its network's)
SERVED = {"classification": (Classifier, "module"), "presence": (Presence, "module"), "layers": (Layers, "network")}


def served(job: Job) -> tuple[Served, list[torch.Tensor]]:
    """(the served network, its inputs for the job's samples [n, ...])."""
    module = getattr(job.predictor(), "module", None)
    if module is None or not hasattr(module, "network"):
        raise UsageError(f"model={job.cfg.model.name} has no network to export.")
    task = str(job.cfg.model.task)
    if hasattr(module, "patches"):
        return Patches(module), [module.patches(job.samples)]
    if task == "survival":
        batch = capture(module, module, job.samples)
        return Survival(module, list(batch)), list(batch.values())
    kind, where = SERVED.get(task, (Whole, "network"))
    return kind(module), [capture(module, module if where == "module" else module.network, job.samples)]


def capture(module: Any, part: nn.Module, samples: Sequence[Any]) -> Any:
    """What `part` is called with while the module answers the samples, put together along the first axis."""
    seen: list[Any] = []
    handle = part.register_forward_pre_hook(lambda _part, given: seen.append(given[0]))
    try:
        with torch.no_grad():
            module.answer(samples)
    finally:
        handle.remove()
    if not seen:
        raise UsageError("This model answers without calling its network as a module: it cannot be exported.")
    if isinstance(seen[0], Mapping):
        return {name: torch.cat([part[name] for part in seen]) for name in seen[0]}
    shape = seen[0].shape[1:]
    return torch.cat([part for part in seen if part.shape[1:] == shape]).contiguous()


def compared(model: Served, inputs: Sequence[torch.Tensor]) -> list[np.ndarray]:
    """The checkpoint's own outputs."""
    with torch.inference_mode():
        return [output.numpy() for output in model(*inputs)]


def difference(expected: Sequence[np.ndarray], found: Sequence[np.ndarray]) -> float:
    """Largest |a - b|; NaN where one has a NaN, infinity for other shapes."""
    if [e.shape for e in expected] != [f.shape for f in found]:
        return float("inf")
    return max(float(np.abs(e.astype(np.float64) - f).max()) for e, f in zip(expected, found, strict=True))


def described(job: Job, model: Served, inputs: Sequence[torch.Tensor]) -> dict[str, Any]:
    """What a program that serves it must know."""
    facts = {k: v for k, v in model.module.facts.items() if k in SERVING_FACTS}
    return {
        "inputs": {
            name: {"dtype": str(tensor.dtype).removeprefix("torch."),
                   "shape": [axes.get(k, size) for k, size in enumerate(tensor.shape)]}
            for (name, axes), tensor in zip(model.inputs.items(), inputs, strict=True)
        },
        "outputs": list(model.outputs),
        "meaning": model.meaning,
        "facts": facts,
    }  # fmt: skip


def onnx(job: Job) -> dict[str, Any]:
    """model.onnx, its free axes free, run by onnxruntime in a fresh process."""
    require("onnx", "onnxruntime", "onnxscript")
    model, inputs = served(job)
    expected = compared(model, inputs)
    path = job.folder / "model.onnx"
    few = [tensor[:2].clone() for tensor in inputs]  # another batch than the one compared: the axis is really free
    with quiet():
        torch.onnx.export(
            model, tuple(few), str(path), dynamo=True, opset_version=OPSET, input_names=list(model.inputs),
            output_names=list(model.outputs), external_data=False, verbose=False,
            dynamic_shapes=(tuple(model.inputs.values()),) if isinstance(model, Survival)
            else tuple(model.inputs.values()),
        )  # fmt: skip
    found = in_fresh_process(path, dict(zip(model.inputs, (t.numpy() for t in inputs), strict=True)))
    outputs = [found[name] for name in model.outputs]
    return {"max_difference": difference(expected, outputs), "opset": OPSET, "checked_by": "onnxruntime, fresh process",
            **described(job, model, inputs)}  # fmt: skip


def in_fresh_process(model: Path, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What onnxruntime computes in a new interpreter without Clarion. ClarionError with its last words."""
    with tempfile.TemporaryDirectory(prefix="clarion-export-") as folder:
        given, found = Path(folder) / "in.npz", Path(folder) / "out.npz"
        np.savez(given, **inputs)
        done = subprocess.run([sys.executable, "-I", "-c", FRESH, str(model), str(given), str(found)],
                              capture_output=True, text=True, cwd=folder, timeout=600)  # fmt: skip
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise ClarionError(f"onnxruntime cannot run the exported model: {last[:400]}")
        with np.load(found, allow_pickle=False) as outputs:
            return {name: outputs[name] for name in outputs.files}


def torchscript(job: Job) -> dict[str, Any]:
    """model.torchscript.pt by tracing, read again and compared on another batch than it was traced with."""
    model, inputs = served(job)
    expected = compared(model, inputs)
    path = job.folder / "model.torchscript.pt"
    model.module._jit_is_scripting = True  # lightning: without it, tracing asks for the Trainer that is long gone
    with quiet(), torch.no_grad():
        traced = torch.jit.trace(model, tuple(tensor[:2].clone() for tensor in inputs), check_trace=False)
        torch.jit.save(traced, str(path))
        found = [output.numpy() for output in torch.jit.load(str(path), map_location="cpu")(*inputs)]
    return {"max_difference": difference(expected, found), "checked_by": f"torch {torch.__version__}",
            **described(job, model, inputs)}  # fmt: skip


def safetensors(job: Job) -> dict[str, Any]:
    """The checkpoint's model.safetensors and model.json, read into a fresh network and compared."""
    from clarion.building import build

    model, inputs = served(job)
    expected = compared(model, inputs)
    for name in ("model.safetensors", "model.json"):
        shutil.copyfile(job.checkpoint / name, job.folder / name)
    job.cfg.trainer.device = "cpu"
    again = build(job.cfg.trainer, model=job.cfg.model, seed=job.cfg.seed).load(job.folder).module
    served_again = Survival(again, list(model.inputs)) if isinstance(model, Survival) else type(model)(again)
    gap = difference(expected, compared(served_again, inputs))
    return {"max_difference": gap, "checked_by": "Clarion's own reader", **described(job, model, inputs)}


def hugging_face(job: Job) -> dict[str, Any]:
    """A network of timm in the hub's layout: timm.create_model("local-dir:FOLDER", pretrained=True)."""
    if str(job.cfg.model.task) != "classification":
        raise UsageError(f"model={job.cfg.model.name} is no architecture that a hub library knows: use --format onnx, "
                         "torchscript or safetensors.")  # fmt: skip
    import timm
    from safetensors.torch import save_file

    model, inputs = served(job)
    module, network = model.module, model.module.network
    settings, facts = module.model, module.facts
    arguments = {k: v for k, v in (settings.get("network_args") or {}).items()}
    config = {
        "architecture": settings["network"],
        "num_classes": len(facts["class_names"]),
        "num_features": int(getattr(network, "num_features", 0)),
        "model_args": {**arguments, "in_chans": 1},
        "pretrained_cfg": {
            "input_size": [1, *facts["image_size"]], "mean": [facts["mean"]], "std": [facts["std"]],
            "num_classes": len(facts["class_names"]), "label_names": facts["class_names"], "interpolation": "bilinear",
            "crop_pct": 1.0, "fixed_input_size": True, **_names(network),
        },
    }  # fmt: skip
    (job.folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, job.folder / "model.safetensors",
              metadata={"format": "pt"})  # fmt: skip
    with quiet(), torch.inference_mode():
        again = timm.create_model(f"local-dir:{job.folder}", pretrained=True).eval()
        scaled = (inputs[0].float() / 255 - facts["mean"]) / facts["std"]
        found = again(scaled).softmax(1).numpy()
    return {"max_difference": difference(compared(model, inputs), [found]), "checked_by": f"timm {timm.__version__}",
            **described(job, model, inputs)}  # fmt: skip


def _names(network: nn.Module) -> dict[str, Any]:
    """Where timm finds first layer and head."""
    own = getattr(network, "pretrained_cfg", None) or {}
    return {k: own[k] for k in ("first_conv", "classifier") if k in own}


def require(*packages: str) -> None:
    import importlib.util

    if missing := [p for p in packages if importlib.util.find_spec(p) is None]:
        raise UsageError(f"--format onnx needs {', '.join(missing)}: pip install 'clarion[export]'.")


class quiet(warnings.catch_warnings):
    """Exporters warn of their own deprecations and narrate; their errors stay."""

    def __enter__(self) -> Any:
        found = super().__enter__()
        warnings.simplefilter("ignore")
        self._loggers = [logging.getLogger(n) for n in ("torch.onnx", "onnxscript", "torch.export", "onnx_ir")]
        self._levels = [logger.level for logger in self._loggers]
        for logger in self._loggers:
            logger.setLevel(logging.ERROR)
        return found

    def __exit__(self, *what: Any) -> None:
        for logger, level in zip(self._loggers, self._levels, strict=True):
            logger.setLevel(level)
        super().__exit__(*what)
