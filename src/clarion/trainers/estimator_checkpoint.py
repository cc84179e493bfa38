"""The checkpoint of an estimator: a folder of model.skops and model.json, without pickle.

The same fit gives the same bytes, so that the hash in a run's manifest identifies the model. skops itself names files
and nodes by the addresses of objects and stamps them with the time: `_canonical` gives numbers in their order instead.
"""

from __future__ import annotations

import io
import json
import logging
import shutil
import warnings
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import sklearn
from skops import io as skops_io

from clarion.errors import UsageError

log = logging.getLogger(__name__)

FORMAT = "clarion-estimator/1"
MAX_BYTES = 2**30  # of an unpacked checkpoint
SCHEMA = "schema.json"


def ours(estimator: Any) -> tuple[str, ...]:
    """The name of the estimator's own class if it is of this package: what is trusted beside what skops knows."""
    kind = type(estimator)
    return (f"{kind.__module__}.{kind.__qualname__}",) if kind.__module__.startswith("clarion.") else ()


def export(estimator: Any, description: dict[str, Any], folder: Path, trusted: Iterable[str] = ()) -> Path:
    """Write the fitted estimator without pickle; the folder appears whole or not at all.

    trusted: types that it may hold beside those that skops knows."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    (partial / "model.skops").write_bytes(_canonical(skops_io.dumps(estimator)))
    unknown = [t for t in skops_io.get_untrusted_types(file=partial / "model.skops") if t not in trusted]
    if unknown:
        shutil.rmtree(partial)
        raise UsageError(
            f"{type(estimator).__name__} holds types that cannot be stored safely ({', '.join(unknown)}): "
            "choose an estimator of scikit-learn that skops knows."
        )
    (partial / "model.json").write_text(json.dumps(description, indent=2), encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    return folder


def _canonical(archive: bytes) -> bytes:
    """A skops archive with its nodes and files numbered in the order of its schema, and without times."""
    numbers: dict[int, int] = {}
    names: dict[str, str] = {}
    with zipfile.ZipFile(io.BytesIO(archive)) as given:
        schema, files = json.loads(given.read(SCHEMA)), set(given.namelist())
        for node in _nodes(schema):
            if isinstance(node.get("__id__"), int):
                node["__id__"] = numbers.setdefault(node["__id__"], len(numbers))
            if isinstance(node.get("file"), str) and node["file"] in files:
                name = f"{len(names)}{Path(node['file']).suffix}"
                node["file"] = names.setdefault(node["file"], name)
        written = io.BytesIO()
        with zipfile.ZipFile(written, "w") as kept:
            for old, name in names.items():
                kept.writestr(_undated(name), given.read(old))
            kept.writestr(_undated(SCHEMA), json.dumps(schema, indent=2))
    return written.getvalue()


def _nodes(part: Any) -> Iterator[dict[str, Any]]:
    """Every mapping of a schema, outer before inner."""
    if isinstance(part, dict):
        yield part
        part = list(part.values())
    if isinstance(part, list):
        for inner in part:
            yield from _nodes(inner)


def _undated(name: str) -> zipfile.ZipInfo:
    return zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))  # the earliest that a zip can hold


def read(folder: Path, trusted: Iterable[str] = ()) -> tuple[Any, dict[str, Any]]:
    """(estimator, description) of a folder written by export; only types that skops trusts, or trusted, are built."""
    try:
        description = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        if description.get("format") != FORMAT:
            raise UsageError(f"{folder} has format {description.get('format')!r}; this version reads {FORMAT!r}.")
        with zipfile.ZipFile(folder / "model.skops") as archive:
            if sum(entry.file_size for entry in archive.infolist()) > MAX_BYTES:
                raise UsageError(f"{folder} unpacks to more than {MAX_BYTES:,} bytes: it is not loaded.")
        unknown = [t for t in skops_io.get_untrusted_types(file=folder / "model.skops") if t not in trusted]
        if unknown:
            raise UsageError(f"{folder} holds types that are not trusted ({', '.join(unknown)}): it is not loaded.")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the version is compared below, in words of ours
            estimator = skops_io.load(folder / "model.skops", trusted=list(trusted))
    except FileNotFoundError as error:
        raise UsageError(
            f"{folder} is no checkpoint of the estimator trainer: {Path(error.filename or folder).name} is missing "
            "(a folder with model.skops and model.json is needed)."
        ) from None
    except UsageError:
        raise
    except Exception as error:  # a damaged zip or json: skops raises what its parts raise
        raise UsageError(f"{folder} cannot be read as a checkpoint: {error}.") from error
    if description["scikit_learn"] != sklearn.__version__:
        log.warning(
            "%s was fitted with scikit-learn %s, this is %s: scores may differ",
            folder,
            description["scikit_learn"],
            sklearn.__version__,
        )
    return estimator, description
