"""Fine-tuning throughput: the sft trainer against a bare SFTTrainer script, and packed against unpacked.

    python benchmarks/sft.py                                  # the claims: >= 0.97 of bare; packing >= 1.5x unpacked
    python benchmarks/sft.py --rows 16 --repeats 1            # a quick look
    python benchmarks/sft.py --root /data/llm                 # packing also on the public mixture below this folder

A token counts when it is in a training row, supervised or context; padding does not. Seconds are those of
SFTTrainer.train: the steps, without reading weights or preparing rows; wall time, and CPU time of the process beside it
(the cpu_ ones: less disturbed where the machine is busy with something else). Each round trains bare, ours and packed,
in turning order, on the same rows, weights, tokenizer and settings (llama_tiny in full, float32, CPU, batches of 8 rows
padded to their longest); packed puts the same rows into packs of --pack tokens, one a step: about as many tokens a
step. ratio and packing_ratio are medians over the rounds. The bare script is what the TRL documentation shows:
SFTConfig, SFTTrainer, train. The last line is JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
    os.environ.setdefault(name, "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


class Rows:
    """The first rows of a data set as train, none as val."""

    kind = "private"  # the mask table shows no texts

    def __init__(self, dataset: Any):
        self.dataset = dataset

    def hf_dataset(self, split: str) -> Any:
        return self.dataset if split == "train" else self.dataset.select([])


class Silent:
    def log(self, metrics: dict, step: int) -> None:
        pass


def dataset(name: str, root: str | None, rows: int) -> Any:
    """`rows` rows of a data set of conf/data, shuffled: lengths mix as they do in a real epoch."""
    from clarion.config import compose_config
    from clarion.run import build

    overrides = ["model=llama_tiny", f"data={name}"] + ([f"data.root={root}"] if root else [])
    data = build(compose_config(overrides).data, seed=0)
    data.prepare()
    found = data.hf_dataset("train").shuffle(seed=0)
    return found.select(range(min(rows, len(found)))).select_columns(["prompt", "completion"])


def weights(folder: Path, data: Any) -> dict:
    """Draw llama_tiny once, so that all trainers read the same folder; returns its model config."""
    import torch
    from omegaconf import OmegaConf

    from clarion.config import compose_config
    from clarion.trainers import sft_models
    from clarion.trainers.sft import texts
    from clarion.trainers.sft_weights import find_weights

    model = OmegaConf.to_container(compose_config(["model=llama_tiny"]).model, resolve=True)
    device = torch.device("cpu")
    network, tokenizer = sft_models.build(model, find_weights(model), texts(data), torch.float32, device, 0)
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model | {"path": str(folder)}


SHARED = {"learning_rate": 2e-3, "max_length": 1024, "logging_steps": 10, "save_strategy": "no", "eval_strategy": "no"}


Rate = tuple[float, float]  # tokens a second of wall time, and of CPU time
CLOCK: dict[str, Any] = {}


def timed_train(self: Any, *args: Any, **kwargs: Any) -> Any:
    """SFTTrainer.train with both clocks read around it, for every way alike."""
    wall, cpu = time.perf_counter(), time.process_time()
    done = CLOCK["train"](self, *args, **kwargs)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    CLOCK["rate"] = (self._total_train_tokens / wall, self._total_train_tokens / cpu)
    return done


def ours(model: dict, data: Any, batch_size: int, **args: Any) -> Rate:
    """The trainer behind train.py."""
    from clarion.trainers.base import Run
    from clarion.trainers.sft import SftTrainer

    settings = SHARED | {"load_best_model_at_end": False} | args
    trainer = SftTrainer(model, 1, batch_size, "cpu", "32", settings, seed=0)
    with tempfile.TemporaryDirectory() as folder:
        trainer.fit(Run(None, Path(folder), Rows(data), Silent()))
    return CLOCK["rate"]


def bare(model: dict, data: Any, batch_size: int) -> Rate:
    """A script with TRL alone."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    with tempfile.TemporaryDirectory() as folder:
        config = SFTConfig(
            output_dir=folder, num_train_epochs=1, per_device_train_batch_size=batch_size, use_cpu=True, bf16=False,
            seed=0, report_to=[], gradient_checkpointing=False, dataloader_pin_memory=False, **SHARED,
        )  # fmt: skip
        trainer = SFTTrainer(
            model=AutoModelForCausalLM.from_pretrained(model["path"]),
            args=config,
            train_dataset=data,
            processing_class=AutoTokenizer.from_pretrained(model["path"]),
        )
        with contextlib.redirect_stdout(sys.stderr):  # its log lines
            trainer.train()
    return CLOCK["rate"]


def measure(
    name: str, root: str | None, args: argparse.Namespace, with_bare: bool
) -> tuple[dict[str, list[Rate]], float]:
    """Tokens a second of each way, one entry a round; and the padding factor of the rows."""
    data = dataset(name, root, args.rows)
    found: dict[str, list[Rate]] = {"ours": [], "packed": [], **({"bare": []} if with_bare else {})}
    with tempfile.TemporaryDirectory() as folder:
        model = weights(Path(folder), data)
        ways = {
            "ours": lambda d: ours(model, d, 8),
            "packed": lambda d: ours(model, d, 1, packing=True, max_length=args.pack),
            "bare": lambda d: bare(model, d, 8),
        }
        for way in found:
            ways[way](data.select(range(8)))  # imports, caches, thread pools
        for k in range(args.repeats):
            order = list(found)[k % len(found) :] + list(found)[: k % len(found)]
            for way in order:
                found[way].append(ways[way](data))
            rates = ", ".join(f"{way} {values[-1][0]:,.0f}" for way, values in found.items())
            print(f"{name}, round {k + 1}: tokens/s {rates}", file=sys.stderr)
        factor = padding_factor(data, folder)
    return found, factor


def padding_factor(data: Any, folder: str, batch_size: int = 8) -> float:
    """Tokens with padding over tokens without, in batches of shuffled rows: what packing can save at most, but for the
    cost of a step."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    lengths = [len(tokenizer.apply_chat_template(r["prompt"] + r["completion"])["input_ids"]) for r in data]
    batches = [lengths[k : k + batch_size] for k in range(0, len(lengths), batch_size)]
    return round(sum(max(b) * len(b) for b in batches) / sum(lengths), 3)


def ratio(a: list[Rate], b: list[Rate], clock: int = 0) -> float:
    """Median over the rounds; clock: 0 wall, 1 CPU."""
    return round(statistics.median(x[clock] / y[clock] for x, y in zip(a, b, strict=True)), 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--pack", type=int, default=1024, help="tokens of a pack")
    parser.add_argument("--root", default=None, help="folder with pubmedqa/ and medquad/ (data=ophtimus_public)")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)

    from trl import SFTTrainer

    CLOCK["train"], SFTTrainer.train = SFTTrainer.train, timed_train
    demo, padding = measure("ophtimus_demo", None, args, with_bare=True)
    result = {
        "name": "SFT throughput (tokens/s without padding, llama_tiny, CPU)",
        "ratio": ratio(demo["ours"], demo["bare"]),
        "peer": "a bare trl.SFTTrainer script with the same rows and settings",
        "n": args.repeats,
        "rows": args.rows,
        "cpu_ratio": ratio(demo["ours"], demo["bare"], 1),
        "tokens_per_s": {way: round(statistics.median(wall for wall, _ in rates)) for way, rates in demo.items()},
        "packing_ratio": ratio(demo["packed"], demo["ours"]),
        "cpu_packing_ratio": ratio(demo["packed"], demo["ours"], 1),
        "packing_peer": "the same trainer unpacked, batches of 8 padded to their longest row, ophtimus_demo",
        "padding_factor": padding,
        "packing_ratio_public": None,
        "cpu_packing_ratio_public": None,
        "padding_factor_public": None,
    }
    if args.root:
        public, result["padding_factor_public"] = measure("ophtimus_public", args.root, args, with_bare=False)
        result["packing_ratio_public"] = ratio(public["packed"], public["ours"])
        result["cpu_packing_ratio_public"] = ratio(public["packed"], public["ours"], 1)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
