"""The life of a run: compose -> check -> prepare data -> fit -> predict -> evaluate -> record.

`execute` is the job of train.py, `re_evaluate` that of eval.py. Both return an outcome and raise nothing, so
that one job of a sweep never takes the others with it.
"""

from __future__ import annotations

import json
import logging
import os
import random
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from clarion import beside, config, distributed, jobs
from clarion.before import add_before, predict_before
from clarion.errors import ClarionError, UsageError
from clarion.record import RunRecord, hash_tree, now, to_json, write_atomic
from clarion.troubles import worded

log = logging.getLogger("clarion")
HEADLINE = ("map50", "c_index", "auroc", "balanced_accuracy", "rouge_l", "accuracy")  # what a job's row shows first


def execute(
    cfg: DictConfig, overrides: list[str], directory: Path, number: int = 0, trial: dict | None = None
) -> dict:
    """Train, predict and evaluate one configuration in its run directory; post and return the outcome.

    trial: of a study (clarion.tuning): then the test split is left alone and the score is the validation split's."""
    return _outcome(lambda: _train(cfg, overrides, Path(directory), trial), Path(directory), overrides, number)


def _outcome(work: Callable[[], tuple[str, str, str]], directory: Path, overrides: list[str], number: int) -> dict:
    began, code = time.time(), 0
    try:
        with jobs.isolated():
            status, reason, score = work()
    except KeyboardInterrupt:
        raise
    except Exception as error:
        error = worded(error)
        if isinstance(error, ClarionError):
            status, code = ("refused" if error.exit_code == 2 else "failed"), error.exit_code
            reason, score = str(error), ""
            if getattr(error, "status", None) == "pruned":  # by the study this run is a trial of
                status, code = "pruned", 0
            if not distributed.rank():  # process 0 says it for all
                log.log(logging.ERROR if code else logging.INFO, "%s", error)
        else:
            status, reason, score, code = "failed", f"{type(error).__name__}: {error}", "", 1
            log.error("%s: %s (the whole trace is in %s)", type(error).__name__, error, directory / "error.txt")
    outcome = {
        "number": number,
        "directory": str(directory),
        "status": status,
        "reason": reason,
        "score": score,
        "seconds": time.time() - began,
        "command": jobs.command_of(overrides),
        "exit_code": code,
    }
    if not distributed.rank():
        jobs.post(outcome)
    return outcome


def _train(cfg: DictConfig, overrides: list[str], directory: Path, given: dict | None) -> tuple[str, str, str]:
    distributed.refuse(cfg.trainer.name)
    team = distributed.join(cfg.trainer.device)
    if team and team.rank:
        return _follow(cfg, directory, team)
    with distributed.Leader(team, lambda why: RunRecord(directory).fail(ClarionError(why), "")) as leader:
        record = RunRecord.open(directory, resume=bool(cfg.resume))
        if record.complete:
            log.info("%s is complete: skipped (runs_dir=OTHER makes another copy).", record.directory)
            if not (record.directory / "report.html").is_file():  # killed after its last score, before its page
                finish_page(cfg, record.directory)
            return "skipped", "already complete", headline(record.metrics())
        leader.say(True, resume=record.resumable and bool(cfg.resume))
        try:
            with run_log(record.directory / "run.log"):
                return _train_open(cfg, overrides, record, given)
        except BaseException as error:
            record.fail(error, traceback.format_exc())
            raise
        finally:
            record.close()


def _follow(cfg: DictConfig, directory: Path, team: distributed.Team) -> tuple[str, str, str]:
    """A process that shares the training of process 0, writes nothing of the record and leaves after it."""
    from clarion.trainers.base import Run

    go, resume = distributed.orders(team)
    if not go:
        return "skipped", "process 0 does not train", ""
    try:
        with distributed.silent():
            seed_everything(cfg.seed)
            trainer = build(cfg.trainer, model=started_model(cfg)[0], seed=cfg.seed)
            trainer.check()
            data, tracker = build_data(cfg), distributed.NoTracker()
            trainer.fit(Run(cfg=cfg, directory=Path(directory).resolve(), data=data, tracker=tracker, resume=resume))
            distributed.leave()
    except BaseException as error:
        distributed.report(team, error)
        raise
    return "done", "", ""


def started_model(cfg: DictConfig) -> tuple[dict, dict[str, Path]]:
    """(the model's config with the checkpoints that init_from names, those checkpoints)."""
    starts = {name: start_checkpoint(name, str(run)) for name, run in (cfg.init_from or {}).items()}
    return OmegaConf.to_container(cfg.model, resolve=True) | {name: str(path) for name, path in starts.items()}, starts


def _train_open(cfg: DictConfig, overrides: list[str], record: RunRecord, given: dict | None) -> tuple[str, str, str]:
    from clarion import tracking
    from clarion.trainers.base import Run
    from clarion.tuning.trial import Trial

    trial = Trial(given) if given else None

    resume = record.resumable and bool(cfg.resume)
    model, starts = started_model(cfg)
    init_hashes = {name: hash_tree(checkpoint) for name, checkpoint in starts.items()}
    kind = {"kind": "trial"} if trial else {}
    record.start(cfg, overrides, {"run": record.directory.name, "init_from": init_hashes, **kind})
    seed_everything(cfg.seed)
    trainer = build(cfg.trainer, model=model, seed=cfg.seed)
    trainer.check()
    beside.names(cfg)
    data = build_data(cfg)
    record.update(
        processes=distributed.world_size(),
        data=data_identity(data),
        device=device_name(cfg.trainer.device),
        parameters=trainer.parameters(len(getattr(data, "class_names", None) or []) or None),
    )
    tracker = tracking.trackers(cfg.tracker, record.directory, data.kind)
    tracker = trial.watched(tracker) if trial else tracker
    status = "failed"
    try:
        tracker.config(trackable(cfg, data.kind))
        run = Run(cfg=cfg, directory=record.directory, data=data, tracker=tracker, resume=resume)
        predict_before(cfg, model, data, record.directory)
        log.info("training %s on %s (%s) in %s", cfg.model.name, cfg.data.name, data.kind, record.directory)
        began = time.time()
        checkpoint = trainer.fit(run)
        distributed.leave()
        record.update(
            fit_s=round(time.time() - began, 1),
            checkpoint=checkpoint.relative_to(record.directory).as_posix(),
            checkpoint_hash=hash_tree(checkpoint),
        )
        if data.task == "generation" and getattr(trainer, "trains", True):
            from clarion.llm.overlaps import given_weights, write_index

            write_index(record.directory, data, [*starts.values(), *given_weights(model)])
        splits = ["val"] if trial else ["val", "test"]
        metrics = predict_and_evaluate(cfg, data, trainer.load(checkpoint), record, splits, checkpoint)
        publish(tracker, record.directory, metrics, data)
        record.finish(metrics)
        status = "complete"
    finally:
        tracker.finish(status)
    page = write_report(record.directory, data)
    score = headline(metrics)
    log.info("done: %s  %s", score, f"page: {page}" if page else "")
    return "done", "", score


def start_checkpoint(name: str, run: str) -> Path:
    """The best checkpoint of the complete run that init_from.NAME gives; it stands in for model.NAME."""
    record = RunRecord(Path(run).expanduser().resolve())
    checkpoint = (record.directory / str(record.manifest().get("checkpoint"))).resolve()
    if record.directory not in checkpoint.parents or not checkpoint.exists():
        raise UsageError(f"init_from.{name}={run}: the run has no checkpoint below it.")
    return checkpoint


def trackable(cfg: DictConfig, data_kind: str) -> dict:
    """The config as a tracker may have it: the folder of private data may be named after a patient."""
    plain = OmegaConf.to_container(cfg, resolve=True)
    plain.pop("hydra", None)
    if data_kind == "private" and plain["data"].get("root"):
        plain["data"]["root"] = "(private)"
    return plain


# --------------------------------------------------------------------------------------------- predict, evaluate


def predict_and_evaluate(
    cfg: DictConfig, data: Any, predictor: Callable, record: RunRecord, splits: list[str], checkpoint: Path
) -> dict:
    """Predictions of each split to files, then every evaluator on the last split; the others are its context.

    checkpoint: of the model; the run it lies in holds the index of what a language model was trained on."""
    tables: dict[str, tuple] = {}
    if hasattr(predictor, "use_cache"):  # language models: an interrupted evaluation goes on where it stopped
        predictor.use_cache(cfg.model.get("cache", "auto"), data.kind)
    for split in splits:
        if not data.splits.get(split):
            continue
        predictions = predict(predictor, data.samples(split), len(data.splits[split]), split)
        truth = data.truth(split)
        save_table(record.directory / "predictions" / f"{split}.parquet", predictions)
        if truth is not None:
            save_table(record.directory / "truth" / f"{split}.parquet", truth)
            if data.kind != "private" and split == splits[-1]:  # private paths may hold names: not kept
                paths = image_paths(data, split)
                write_atomic(record.directory / "truth" / f"{split}_images.json", json.dumps(paths)) if paths else None
        tables[split] = (predictions, truth)
    final = splits[-1]
    if final not in tables:
        raise ClarionError(f"data={cfg.data.name} has no {final} split to evaluate on.")
    predictions, truth = tables[final]
    if truth is None:
        raise UsageError(f"data={cfg.data.name} has no truth to score against: use `clarion predict` for predictions.")
    others, absent = beside.baselines(cfg, data, final, record, checkpoint)
    context = {
        "task": cfg.model.task,
        "class_names": list(getattr(data, "class_names", [])),
        "seed": cfg.seed,
        "data_kind": data.kind,
        "validation": tables.get("val") if final != "val" else None,
        "train_counts": train_counts(data),
        "train_truth": train_truth(data),
        "baselines": others,
        "baseline_notes": absent,
    }
    results, overlaps = {}, find_overlaps(cfg, data, final, checkpoint)
    for name, node in cfg.evaluators.items():
        log.info("evaluating: %s on %d samples of %s", name, len(truth), final)
        evaluator = build(node)
        results[name] = evaluator.evaluate(predictions, truth, context)
        if overlaps is not None:
            overlaps.apply(results[name], evaluator.evaluate, predictions, truth, context)
        add_before(results[name], evaluator, record.directory, final, truth, context)
    if cfg.model.get("explain"):
        write_explanation(data, predictor, final, record.directory)
    return {
        "run": record.directory.name,
        "model": cfg.model.name,
        "data": cfg.data.name,
        "data_kind": data.kind,
        "split": final,
        "seed": cfg.seed,
        "finished": now(),
        "device": record.manifest().get("device"),
        "evaluators": results,
        "data_card": data.card(),
    }


def write_explanation(data: Any, predictor: Callable, split: str, directory: Path) -> None:
    """explanation.json: what the data say a model looked at (model.explain); a run is complete without it."""
    try:
        write_atomic(directory / "explanation.json", to_json(data.explain(predictor, split)))
    except ClarionError as error:
        log.info("no explanation is kept: %s", error)
    except Exception:
        log.exception("the model could not be explained; the run goes on without")


def predict(predictor: Callable, samples: Iterable, total: int, split: str):
    """Run a predictor over samples; one row a sample. Returns a pandas DataFrame."""
    import pandas as pd
    from tqdm import tqdm

    rows = [
        {"sample_id": p.sample_id, "patient_id": p.patient_id, **p.values}
        for p in tqdm(predictor(samples), total=total, desc=f"predict {split}", unit="sample")
    ]
    return pd.DataFrame(rows)


def save_table(path: Path, table: Any) -> None:
    """Parquet, renamed into place when whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    table.to_parquet(partial, index=False)
    os.replace(partial, path)


def train_counts(data: Any) -> list[int] | None:
    """Samples per class in training: what a majority baseline is allowed to know."""
    if data.task != "classification" or not data.splits.get("train"):
        return None
    labels = data.truth("train")["label"]
    return [int((labels == k).sum()) for k in range(len(data.class_names))]


def train_truth(data: Any):
    """Times and events of the training patients (DataFrame): from them survival scores learn the censoring."""
    if data.task != "survival" or not data.splits.get("train"):
        return None
    truth = data.truth("train")
    return truth[[c for c in ("time", "event", "cancer") if c in truth.columns]]


def find_overlaps(cfg: DictConfig, data: Any, split: str, checkpoint: Path):
    """Evaluated items of a language model against its recorded training texts (clarion.llm.overlaps), else None."""
    if data.task != "generation":
        return None
    from clarion.llm.overlaps import Overlaps

    return Overlaps.of(data, split, checkpoint, cfg.model)


def headline(metrics: dict) -> str:
    """'map50 0.631 [0.58, 0.68]': the score a job's row shows."""
    for result in metrics.get("evaluators", {}).values():
        values = result.get("metrics", {})
        name = next((h for h in HEADLINE if h in values), next(iter(values), None))
        if name and values[name].get("value") is not None:
            entry = values[name]
            interval = f" [{entry['low']:.3f}, {entry['high']:.3f}]" if entry.get("low") is not None else ""
            return f"{name} {entry['value']:.3f}{interval}"
    return ""


# ------------------------------------------------------------------------------------------------ re-evaluation


def re_evaluate(
    cfg: DictConfig, overrides: list[str], checkpoint: Path, source: str, directory: Path, split: str
) -> dict:
    """Evaluate a trained model on cfg.data with cfg.evaluators, into a directory of its own."""

    def work() -> tuple[str, str, str]:
        record = RunRecord.open(directory, resume=True)
        if record.complete:
            log.info("%s is complete: skipped (delete it or use runs_dir=OTHER to evaluate again).", directory)
            return "skipped", "already complete", headline(record.metrics())
        try:
            with run_log(record.directory / "run.log"):
                seed_everything(cfg.seed)
                record.start(
                    cfg,
                    overrides,
                    {
                        "run": record.directory.name,
                        "kind": "evaluation",
                        "source": source,
                        "checkpoint_hash": hash_tree(checkpoint),
                    },
                )
                data = build_data(cfg)
                record.update(data=data_identity(data), device=device_name(cfg.trainer.device))
                trainer = build(cfg.trainer, model=cfg.model, seed=cfg.seed)
                splits = [split] if split == "val" else ["val", split]
                metrics = predict_and_evaluate(cfg, data, trainer.load(checkpoint), record, splits, checkpoint)
                track_evaluation(cfg, record.directory, metrics, data)
                record.finish(metrics)
        except BaseException as error:
            record.fail(error, traceback.format_exc())
            raise
        finally:
            record.close()
        page = write_report(record.directory, data)
        log.info("done: %s  %s", headline(metrics), f"page: {page}" if page else "")
        return "done", "", headline(metrics)

    return _outcome(work, directory, overrides, 0)


# ------------------------------------------------------------------------------------------------------- pieces


def build(node: Any, **extra: Any) -> Any:
    """The one place that instantiates a config. Hydra hides the cause of a failure; this names it.

    extra: further arguments; configs among them (a trainer's `model`) arrive as plain dicts, nothing in them built.
    """
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    resolved = OmegaConf.to_container(node, resolve=True)  # while it still hangs in the whole config
    if problems := config.target_problems(resolved):
        raise UsageError(config.numbered(problems))
    # these keys serve the pre-flight and the composition; `task` also the objects that take it
    plain = OmegaConf.create(
        {
            k: v
            for k, v in resolved.items()
            if k not in ("layouts", "expected", "suggest") and (k != "task" or _takes(node, k))
        }
    )
    extra = {k: OmegaConf.to_container(v, resolve=True) if OmegaConf.is_config(v) else v for k, v in extra.items()}
    if problems := config.target_problems(extra):
        raise UsageError(config.numbered(problems))
    try:
        return instantiate(plain, _convert_="all", _partial_=True)(**extra)
    except ClarionError:
        raise
    except (InstantiationException, TypeError) as error:
        cause = error.__cause__ or error
        while not isinstance(cause, ClarionError) and cause.__cause__ is not None:
            cause = cause.__cause__
        if isinstance(cause, ClarionError):
            raise cause from error
        raise ClarionError(
            f"{node.get('_target_')} could not be built: {type(cause).__name__}: {' '.join(str(cause).split())[:500]}"
        ) from error


def _takes(node: Any, name: str) -> bool:
    import inspect

    from hydra.utils import get_object

    try:
        parameters = inspect.signature(get_object(node["_target_"])).parameters
    except Exception:
        return True  # instantiate says what is wrong with the target
    return name in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def build_data(cfg: DictConfig) -> Any:
    """The data of a run, prepared and checked: what must not be trained on stops here, with the list."""
    data = build(cfg.data, seed=cfg.seed)
    data.prepare()
    report = data.check()
    for warning in getattr(report, "warnings", []):
        log.warning("data: %s", warning)
    return data


def data_identity(data: Any) -> dict:
    from clarion.data.splits import split_hash

    own = getattr(data, "split_hash", None)  # of the user's own names: the same on every machine
    return {
        "name": data.name,
        "kind": data.kind,
        "fingerprint": data.fingerprint(),
        "split_hash": own() if own else split_hash(data.splits),
        "counts": {k: len(v) for k, v in data.splits.items()},
    }


def seed_everything(seed: int) -> None:
    """Python, numpy and torch (all devices) from one seed; hash seeds of workers come from these."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    torch.set_num_threads(jobs.default_threads())


def device_name(device: str) -> str:
    """What the run computed on, in words: 'NVIDIA H100 80GB HBM3' or the processor's name and cores."""
    import torch

    if str(device) != "cpu" and torch.cuda.is_available():
        return torch.cuda.get_device_name(0)
    model = "CPU"
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next((l.split(":", 1)[1].strip() for l in lines if l.startswith("model name")), model)
    except OSError:
        pass
    return f"{model}, {torch.get_num_threads()} threads"


class run_log:
    """Everything that is logged also goes to the run's own file."""

    def __init__(self, path: Path):
        self.path = path

    def __enter__(self) -> None:
        self.handler = logging.FileHandler(self.path, encoding="utf-8")
        self.handler.handleError = lambda _record: None  # the disk is full: what writes the results says so
        self.handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        logging.getLogger().addHandler(self.handler)

    def __exit__(self, *_: Any) -> None:
        logging.getLogger().removeHandler(self.handler)
        self.handler.close()


def image_paths(data: Any, split: str) -> dict[str, str]:
    """sample_id -> image of a split, for overlays."""
    return {s.sample_id: str(s.inputs["image"]) for s in data.samples(split) if "image" in s.inputs}


def publish(tracker: Any, directory: Path, metrics: dict, data: Any) -> None:
    """Final scores, curves and overlays to the tracker; trouble there must not undo a finished training."""
    try:
        from clarion.report import publish_results

        publish_results(tracker, directory, results=metrics, images=image_paths(data, metrics["split"]))
    except Exception:
        log.exception("the results could not be published to the tracker; they are recorded all the same")


def finish_page(cfg: DictConfig, directory: Path) -> None:
    """The page of a complete run that has none; where its data are gone, it stays without."""
    try:
        write_report(directory, build_data(cfg))
    except ClarionError as error:
        log.warning("the page of %s could not be written: %s", directory, error)


def track_evaluation(cfg: DictConfig, directory: Path, metrics: dict, data: Any) -> None:
    """A run of its own in the tracker (job type eval), for an evaluation without training."""
    from clarion import tracking

    tracker = tracking.trackers(cfg.tracker, directory, data.kind)
    tracker.config(trackable(cfg, data.kind))
    publish(tracker, directory, metrics, data)
    tracker.finish()


def write_report(directory: Path, data: Any) -> Path | None:
    """The run's page; a page that fails must not undo a finished run."""
    try:
        from clarion.report import write_run_report

        return write_run_report(directory, images=image_paths(data, RunRecord(directory).metrics()["split"]))
    except Exception:
        log.exception("the run is complete, but its page could not be written")
        return None
