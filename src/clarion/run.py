"""The life of a run: compose -> check -> prepare data -> fit -> predict -> evaluate -> record.

`execute` is the job of train.py, `re_evaluate` that of eval.py. Both return an outcome and raise nothing, so
that one job of a sweep never takes the others with it.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from clarion import beside, distributed, jobs
from clarion.before import predict_before
from clarion.building import build, build_data, data_identity, device_name, seed_everything
from clarion.errors import ClarionError, UsageError
from clarion.evaluating import headline, predict_and_evaluate
from clarion.predictions import image_paths
from clarion.record import RunRecord, hash_tree
from clarion.starting import trained_first
from clarion.troubles import worded

log = logging.getLogger("clarion")


def execute(cfg: DictConfig, overrides: list[str], directory: Path, number: int = 0, trial: dict | None = None) -> dict:
    """Train, predict and evaluate one configuration in its run directory; post and return the outcome.

    trial: of a study (clarion.tuning): then the test split is left alone and the score is the validation split's."""

    def work() -> tuple[str, str, str]:
        started = trained_first(cfg, execute) if not RunRecord(Path(directory)).complete else cfg
        return _train(started, overrides, Path(directory), trial)

    return _outcome(work, Path(directory), overrides, number)


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


# ------------------------------------------------------------------------------------------------ log, tracker and page


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
