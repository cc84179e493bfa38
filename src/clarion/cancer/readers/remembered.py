"""Tables read once in a process: the jobs of a sweep differ in model and fold, seldom in the file."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

from clarion.cancer.cohort import Cohort
from clarion.cancer.readers import read_cohort
from clarion.data.filecache import digest_file

MOST = 12  # cohorts held: 8 MB for 1,000 patients x 2,000 genes
_held: OrderedDict[tuple, Cohort] = OrderedDict()


def read_remembered(path: Path, format: str, **options: Any) -> Cohort:
    """`read_cohort` of one table, from memory where the same content was read with the same options before. Cohorts
    are shared between callers, who derive others from them and change none."""
    if not path.is_file():
        return read_cohort(path, format, **options)
    key = (digest_file(path), path.name, format, repr(sorted(options.items())))
    if key not in _held:
        _held[key] = read_cohort(path, format, **options)
        while len(_held) > MOST:
            _held.popitem(last=False)
    _held.move_to_end(key)
    return _held[key]
