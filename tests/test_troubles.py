"""Troubles of the machine become one sentence, whichever library met them; other errors stay what they are."""

from __future__ import annotations

import errno

import pytest
from safetensors import SafetensorError

from clarion.errors import ClarionError, DataError
from clarion.troubles import worded


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        OSError(errno.EFBIG, "File too large"),
        SafetensorError("Error while serializing: IoError(Os { code: 28, message: 'No space left on device' })"),
        RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0"),
        RuntimeError("PytorchStreamWriter failed writing file data/3: file write failed"),
    ],
)
def test_a_full_disk(error):
    found = worded(error)
    assert isinstance(found, ClarionError) and found.exit_code == 1
    assert "disk is full" in str(found) and "resume=true" in str(found)


def test_a_full_disk_behind_another_error():
    try:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as inner:
            raise ValueError("could not save") from inner
    except ValueError as outer:
        assert "disk is full" in str(worded(outer))


def test_too_little_memory_names_the_remedy():
    assert "trainer.batch_size" in str(worded(MemoryError()))


@pytest.mark.parametrize("error", [DataError("no"), ValueError("no"), OSError(errno.ENOENT, "gone"), RuntimeError("x")])
def test_other_errors_stay_what_they_are(error):
    assert worded(error) is error
