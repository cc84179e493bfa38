"""The one exception a user should ever meet: a sentence that names the problem and the fix."""

from __future__ import annotations


class ClarionError(Exception):
    """Bad input or failed work, worded for the user. `exit_code` 2: wrong usage; 1: failed work."""

    def __init__(self, message: str, exit_code: int = 1):
        super().__init__(message)
        self.exit_code = exit_code


class UsageError(ClarionError):
    """Wrong usage: a command line, config or data root the user must change."""

    def __init__(self, message: str):
        super().__init__(message, exit_code=2)


class DataError(ClarionError):
    """Data that must not be trained on or scored: leaks, unreadable files, labels out of range.

    `recorded`: the wording for run directories and trackers, where names of the user's files (which may hold a
    patient's) must not go; None where the message holds none."""

    recorded: str | None = None
