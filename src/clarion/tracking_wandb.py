"""Weights & Biases beside the local files: offline until the user signs in, and never with identifiers.

Mode: WANDB_MODE if set (online | offline | disabled), else `tracker.mode`, else online where an API key is
configured on this machine (WANDB_API_KEY or netrc), else offline. Nothing is asked, and offline no connection
is opened. `wandb sync <directory>` uploads an offline run later.

Under `wandb agent` (docs/wandb_sweep.yaml) the agent's run id is kept, so that the sweep finds its runs.
"""

from __future__ import annotations

import json
import logging
import netrc
import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from PIL import Image

from clarion.errors import UsageError
from clarion.tracking import Finite, first_line, floats, picture_columns, safe_name, without_paths

logger = logging.getLogger(__name__)

MODES = ("online", "offline", "disabled")
ENVIRONMENT = ("WANDB_ERROR_REPORTING", "WANDB_DATA_DIR", "WANDB_CACHE_DIR")
PER_SAMPLE = {"sample_id", "patient_id"}
PER_GROUP = {"group"}  # values of a user's own columns (a clinic, an operator): held back of private data
DATA_TOLD = ("name", "kind", "task", "fold", "folds")  # of the configuration of private data


def api_key_configured(environment: Mapping[str, str] = os.environ) -> bool:
    """Is there a key for the W&B host in WANDB_API_KEY or in netrc? Reads files only."""
    if environment.get("WANDB_API_KEY"):
        return True
    host = urlsplit(environment.get("WANDB_BASE_URL") or "https://api.wandb.ai").netloc
    home = Path(environment.get("HOME") or Path.home())
    named = environment.get("NETRC")
    for path in [Path(named).expanduser()] if named else [home / ".netrc", home / "_netrc"]:
        try:
            found = netrc.netrc(str(path)).authenticators(host)
        except (OSError, netrc.NetrcParseError, UnicodeDecodeError):
            continue
        if found and found[2]:
            return True
    return False


def choose_mode(configured: str | None, environment: Mapping[str, str] = os.environ) -> str:
    """The order stated at the top of this module. Raises UsageError for an unknown mode."""
    mode = environment.get("WANDB_MODE") or configured
    if not mode:
        return "online" if api_key_configured(environment) else "offline"
    mode = {"dryrun": "offline", "run": "online"}.get(mode, mode)  # W&B's old names
    if mode not in MODES:
        raise UsageError(f"tracker.mode (or WANDB_MODE) is {mode!r}; write one of {', '.join(MODES)}.")
    if mode == "online" and not api_key_configured(environment):
        raise UsageError(
            "W&B is set to online but no API key is configured: run `wandb login`, or tracker.mode=offline."
        )
    return mode


class WandbTracker:
    """One W&B run in <run directory>/wandb.

    `log_images`: send pictures, and tables with one row a sample, of data that is no phantom; of private data also
    subgroups, whose values are the user's own words. `log_checkpoint`: send the weights; else their hashes alone.
    A resumed run keeps its W&B id (wandb/id.txt), a run of a W&B sweep the agent's.
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        run_name: str,
        data_kind: str,
        project: str = "clarion",
        entity: str | None = None,
        group: str | None = None,
        job_type: str | None = None,
        tags: list[str] | None = None,
        mode: str | None = None,
        log_images: bool = False,
        log_checkpoint: bool = False,
    ):
        mode = choose_mode(mode)
        self._environment = {name: os.environ.get(name) for name in ENVIRONMENT}  # put back by finish
        os.environ["WANDB_ERROR_REPORTING"] = "false"  # crash reports to W&B: read when its service starts
        try:
            import wandb
        except ImportError as error:
            raise UsageError(
                f"tracker=wandb needs the package wandb ({error}): pip install wandb, or tracker=local."
            ) from error
        self._wandb = wandb
        self._may_send_samples = log_images or data_kind == "phantom"
        self._private = data_kind == "private" and not log_images
        self._log_checkpoint = log_checkpoint
        self._held_back: set[str] = set()
        self._finite = Finite(warn=False)  # the local tracker has warned already
        folder = Path(directory).resolve() / "wandb"
        folder.mkdir(parents=True, exist_ok=True)
        # staging of tables and caches: below the run directory too, else copies stay in the home folder
        os.environ["WANDB_DATA_DIR"] = os.environ["WANDB_CACHE_DIR"] = str(folder)

        def start(mode: str):
            return wandb.init(
                project=project,
                entity=entity,
                group=group,
                job_type=job_type,
                tags=list(tags or []),
                name=run_name,
                id=_run_id(folder),
                resume="allow" if mode == "online" else None,
                dir=str(folder.parent),
                mode=mode,
                reinit="finish_previous",  # jobs of a sweep share this process
                settings=_settings(wandb, mode),
            )

        try:
            self._run = start(mode)
        except Exception as error:
            if mode != "online":
                raise
            logger.warning("W&B is out of reach (%s); tracking offline.", first_line(error))
            mode = "offline"
            self._run = start(mode)
        # our own axis: W&B's step may only grow, which two logging calls of one epoch would break
        self._run.define_metric("step", hidden=True)
        self._run.define_metric("*", step_metric="step")
        self._run.config.update({"data_kind": data_kind}, allow_val_change=True)
        if mode == "offline":
            logger.info("W&B is offline; `wandb sync %s` uploads this run.", Path(self._run.dir).parent)

    def log(self, metrics, step):
        self._run.log({**self._finite.only(metrics), "step": int(step)})

    def config(self, config):
        told = without_paths(config)
        if self._private and isinstance(told.get("data"), dict):
            told["data"] = {key: value for key, value in told["data"].items() if key in DATA_TOLD}
        self._run.config.update(told, allow_val_change=True)

    def summary(self, values):
        self._run.summary.update(without_paths(values))

    def image(self, name, picture, caption=""):
        if not self._may_send(name):
            return
        opened = picture if isinstance(picture, Image.Image) else Image.open(picture)
        self._run.log({name: self._wandb.Image(opened, caption=caption or None)})

    def table(self, name, table):
        if PER_SAMPLE & set(table.columns) and not self._may_send(name):
            return
        if PER_GROUP & set(table.columns) and self._private:
            self._held_back.add(name)
            return
        frame = table.astype(object).where(table.notna(), None)
        for column in picture_columns(table):
            frame[column] = [self._wandb.Image(picture) for picture in table[column]]
        self._run.log({name: self._wandb.Table(columns=[str(c) for c in frame.columns], data=frame.values.tolist())})

    def curve(self, name, x, y, x_label="x", y_label="y"):
        if x_label == y_label:
            y_label += " (y)"
        table = self._wandb.Table(columns=[x_label, y_label], data=list(zip(floats(x), floats(y), strict=True)))
        self._run.log({name: self._wandb.plot.line(table, x_label, y_label, title=name)})

    def confusion(self, labels, matrix, name="confusion"):
        fields = {"Actual": "Actual", "Predicted": "Predicted", "nPredictions": "nPredictions"}
        counts = [
            [str(truth), str(guess), int(count)]
            for truth, row in zip(labels, matrix, strict=True)
            for guess, count in zip(labels, row, strict=True)
        ]
        table = self._wandb.Table(columns=list(fields), data=counts)
        chart = self._wandb.plot_table("wandb/confusion_matrix/v1", table, fields, {"title": name})
        self._run.log({name: chart})

    def artifact(self, name, kind, facts, files):
        short = {key: value for key, value in without_paths(facts).items() if not isinstance(value, (dict, list))}
        made = self._wandb.Artifact(re.sub(r"[^\w.\-]", "_", name)[:128], type=kind, metadata=short)
        with made.new_file("facts.json", encoding="utf-8") as file:
            json.dump(without_paths(facts), file, indent=2, ensure_ascii=False)
        if self._log_checkpoint and kind == "model":
            for inside, path in files.items():
                made.add_file(str(path), inside)
        self._run.log_artifact(made)

    def finish(self, status="complete"):
        if self._run is None:
            return
        run, self._run = self._run, None
        if self._held_back:
            names = ", ".join(sorted(self._held_back))
            logger.info("Kept from W&B, as the data is no phantom: %s (tracker.log_images=true sends them).", names)
        try:
            run.finish(exit_code=0 if status == "complete" else 1)
        finally:
            for name, value in self._environment.items():
                os.environ.pop(name, None) if value is None else os.environ.update({name: value})

    def _may_send(self, name: str) -> bool:
        if not self._may_send_samples:
            self._held_back.add(name)
        return self._may_send_samples


def _settings(wandb: Any, mode: str) -> Any:
    """Quiet, and without what identifies the machine, its user or its repository."""
    return wandb.Settings(
        silent=True,
        sweep_id=os.environ.get("WANDB_SWEEP_ID") or None,
        console="off",
        init_timeout=30,
        disable_git=True,
        disable_code=True,
        save_code=False,
        host="local",
        x_disable_meta=True,
        x_disable_machine_info=True,
        x_save_requirements=False,
        # use of CPU and GPU is worth a plot online; offline its probes (a cloud's metadata address) are not
        x_disable_stats=mode != "online",
    )


def _run_id(folder: Path) -> str:
    given = os.environ.get("WANDB_RUN_ID", "") if os.environ.get("WANDB_SWEEP_ID") else ""
    if re.fullmatch(r"[\w\-]{1,128}", given):
        return given
    path = folder / "id.txt"
    known = safe_name(path.read_text(encoding="utf-8").strip()) if path.exists() else ""
    if re.fullmatch(r"[0-9a-f]{12}", known):
        return known
    path.write_text(secrets.token_hex(6), encoding="utf-8")
    return path.read_text(encoding="utf-8")
