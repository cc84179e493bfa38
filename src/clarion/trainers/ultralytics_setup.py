"""Ultralytics, kept off the network, off stdout and out of the user's home folder.

Left alone the library looks up DNS names at import, fetches a font and (on CUDA) a network for a test of
mixed precision, sends usage statistics, and starts every experiment logger it finds installed. Importing it
through `prepare()` stops all of that; call it before the first `import ultralytics` and at the start of each job.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

INTEGRATIONS = ("clearml", "comet", "dvc", "mlflow", "raytune", "tensorboard", "wandb")
FONTS = ("Arial.ttf", "Arial.Unicode.ttf")


def prepare() -> None:
    """Import ultralytics offline and silence what leaves the machine. May be called any number of times.

    The settings are changed in memory only, so a user's own ultralytics settings file stays as it is.
    """
    os.environ["YOLO_OFFLINE"] = "true"
    os.environ["YOLO_AUTOINSTALL"] = "false"
    if "ultralytics.utils" not in sys.modules:
        folder = tempfile.mkdtemp(prefix="clarion-ultralytics-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        os.environ["YOLO_CONFIG_DIR"] = folder
    with contextlib.redirect_stdout(io.StringIO()):  # the first import announces its settings file on stdout
        from ultralytics import utils
        from ultralytics.utils import events
    off = {"sync": False, "api_key": "", "vscode_msg": False, "openvino_msg": False}
    # dict.update, not SETTINGS.update: the latter writes the settings file
    dict.update(utils.SETTINGS, off, **dict.fromkeys(INTEGRATIONS, False))
    events.events.enabled = False
    _place_fonts(Path(utils.USER_CONFIG_DIR))
    for handler in utils.LOGGER.handlers:
        if type(handler) is logging.StreamHandler:  # the library's own, not a subclass that someone added
            handler.stream = sys.stderr  # not setStream: it flushes the old stream, which may be closed by now


def _place_fonts(folder: Path) -> None:
    """Plots ask for Arial and would fetch it: matplotlib's own DejaVu Sans stands in under that name."""
    missing = [folder / name for name in FONTS if not (folder / name).exists()]
    if missing:
        import matplotlib

        shipped = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
        for target in missing:
            shutil.copyfile(shipped, target)


@contextlib.contextmanager
def offline_training() -> Iterator[None]:
    """While training: progress bars on stderr, nothing downloaded, and nothing unpickled from the data folder.

    The library tests mixed precision by comparing a downloaded YOLO26n with and without it. Here the answer is
    simply "yes on CUDA": cards on which fp16 is known to fail (GeForce 16xx) need trainer.precision=32.
    It also keeps what it read from the labels in a pickle beside them, and believes one that it finds there; the
    labels are read anew instead (seconds for thousands of images), which leaves the user's folder untouched.
    """
    from ultralytics.data import dataset
    from ultralytics.engine import trainer as engine

    def no_cache(path: Path) -> dict:
        raise FileNotFoundError(path)

    def do_not_keep(prefix: str, path: Path, content: dict, version: str) -> None:
        content["version"] = version  # which the library's own function adds, and its caller takes out again

    patches = (
        (engine, "check_amp", lambda model: next(model.parameters()).device.type == "cuda"),
        (dataset, "load_dataset_cache_file", no_cache),
        (dataset, "save_dataset_cache_file", do_not_keep),
    )
    originals = [(module, name, getattr(module, name)) for module, name, _ in patches]
    try:
        for module, name, replacement in patches:
            setattr(module, name, replacement)
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        for module, name, original in originals:
            setattr(module, name, original)
