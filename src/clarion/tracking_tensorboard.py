"""TensorBoard beside the local files."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pandas
from PIL import Image

from clarion.errors import UsageError
from clarion.tracking import Finite, floats, numbers, picture_columns


class TensorboardTracker:
    """Event files in <run directory>/tensorboard; `tensorboard --logdir runs` shows them."""

    def __init__(self, directory: str | os.PathLike, run_name: str = "", data_kind: str = "private", **_: Any):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UsageError(
                f"tracker=tensorboard needs the package tensorboard ({error}): pip install it, or tracker=local."
            ) from error
        self._writer = SummaryWriter(str(Path(directory) / "tensorboard"))
        self._finite = Finite(warn=False)  # the local tracker has warned already
        self._first_step = True

    def log(self, metrics, step):
        if self._first_step:  # a purge marker: viewers hide what a killed run wrote from this step on
            from tensorboard.compat.proto.event_pb2 import Event, SessionLog

            start = Event(step=int(step), session_log=SessionLog(status=SessionLog.START))
            self._writer.file_writer.add_event(start, int(step))
            self._first_step = False
        for name, value in self._finite.only(metrics).items():
            self._writer.add_scalar(name, value, int(step))
        self._writer.flush()

    def config(self, config):
        self._writer.add_text("config", _markdown_code(json.dumps(config, indent=2, default=str, ensure_ascii=False)))

    def summary(self, values):
        for name, value in self._finite.only(numbers(values)).items():
            self._writer.add_scalar(f"summary/{name}", value, 0)

    def image(self, name, picture, caption=""):
        import numpy

        opened = picture if isinstance(picture, Image.Image) else Image.open(picture)
        self._writer.add_image(name, numpy.asarray(opened.convert("RGB")), 0, dataformats="HWC")

    def table(self, name, table):
        pictures = picture_columns(table)
        for column in pictures:
            for row, picture in enumerate(table[column]):
                self.image(f"{name}/{row:03d}", picture)
        self._writer.add_text(name, _markdown_code(table.drop(columns=pictures).to_string(index=False)))

    def curve(self, name, x, y, x_label="x", y_label="y"):
        from matplotlib.figure import Figure  # not pyplot: no global state, no display

        figure = Figure(figsize=(4.5, 3.5), layout="constrained")
        axes = figure.subplots()
        axes.plot(floats(x), floats(y))
        axes.set(title=name, xlabel=x_label, ylabel=y_label)
        self._writer.add_figure(name, figure, close=False)

    def confusion(self, labels, matrix, name="confusion"):
        self.table(name, pandas.DataFrame(matrix, columns=list(labels), index=list(labels)).reset_index(names="truth"))

    def artifact(self, name, kind, facts, files):
        self._writer.add_text(f"{kind}/{name}", _markdown_code(json.dumps(facts, indent=2, ensure_ascii=False)))

    def finish(self, status="complete"):
        self._writer.close()


def _markdown_code(text: str) -> str:
    """Indented, so that markdown shows it as it is."""
    return "\n".join("    " + line for line in text.splitlines())
