"""What the tests of the sft trainer share: a small Llama, data of given rows, a tracker that keeps its rows."""

from __future__ import annotations

from pathlib import Path

from datasets import Dataset
from omegaconf import OmegaConf

from clarion.config import compose_config
from clarion.trainers.base import Run
from clarion.trainers.sft import SftTrainer

SMALL = {
    "num_hidden_layers": 2, "hidden_size": 96, "intermediate_size": 192, "num_attention_heads": 4,
    "num_key_value_heads": 2,
}  # fmt: skip


class Log:
    """A tracker that keeps what it is given, and fails at a step when told to."""

    def __init__(self, fail_at: int | None = None):
        self.rows: list[tuple[int, dict]] = []
        self.fail_at = fail_at

    def log(self, metrics, step):
        if self.fail_at is not None and step >= self.fail_at:
            raise KeyboardInterrupt
        self.rows.append((step, dict(metrics)))


class Rows:
    """Data that hands the trainer exactly these rows as train and no val."""

    kind = "phantom"

    def __init__(self, rows: list[dict]):
        self.rows = rows

    def hf_dataset(self, split):
        return Dataset.from_list(self.rows if split == "train" else [])


def model_config(name: str, **changes) -> dict:
    model = OmegaConf.to_container(compose_config([f"model={name}"]).model, resolve=True)
    for key, value in changes.items():
        model[key] = model[key] | value if isinstance(value, dict) and isinstance(model.get(key), dict) else value
    return model


def trainer_for(model: dict, epochs=1, batch_size=8, **args) -> SftTrainer:
    return SftTrainer(model, epochs, batch_size, "cpu", "auto", {"learning_rate": 5e-3, **args}, seed=0)


def run_in(folder: Path, data, tracker=None, resume=False) -> Run:
    return Run(cfg=None, directory=folder, data=data, tracker=tracker or Log(), resume=resume)
