"""Troubles of the machine, whichever library met them, in one sentence: a full disk, too little memory."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator

from clarion.errors import ClarionError

# Libraries written in other languages wrap the system's error in one of their own: only its text is left.
_FULL = re.compile(r"No space left on device|Disk quota exceeded|File too large|os error (28|122|27)\b", re.I)
_TORCH_WRITER = re.compile(r"PytorchStreamWriter failed writing|inline_container.*unexpected pos", re.I)
_FULL_CODES = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def worded(error: BaseException) -> BaseException:
    """A ClarionError that says what to do, where the cause is the machine; else the error itself."""
    if isinstance(error, ClarionError):
        return error
    chain = list(_causes(error))
    if any(_is_full(e) for e in chain):
        return ClarionError(
            "The disk is full: a file could not be written. Free space (or take it from another run), then the same "
            "command with resume=true goes on from the last whole checkpoint."
        )
    if any(type(e).__name__ in ("OutOfMemoryError", "MemoryError") for e in chain):
        device = "GPU's" if any("CUDA" in str(e) for e in chain) else "machine's"
        return ClarionError(
            f"The {device} memory is too small for this run: take a smaller trainer.batch_size, image size or model."
        )
    return error


def _is_full(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno in _FULL_CODES:
        return True
    return bool(_FULL.search(str(error)) or (isinstance(error, RuntimeError) and _TORCH_WRITER.search(str(error))))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
