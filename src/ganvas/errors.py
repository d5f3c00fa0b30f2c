"""Everything ganvas can say went wrong: what it is, in which file, and what to do next.

Every message is one line: the value, the rule it breaks, the next step. The command line prints that line and exits
with the class's `exit_code`; nothing here is ever shown as a traceback.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches


class GanvasError(Exception):
    """Base of all errors that a user can meet and mend."""

    exit_code = 2


class SettingError(GanvasError):
    """A setting's value is outside what it allows, or two settings contradict each other."""


class DataError(GanvasError):
    """The pictures cannot be used: none found, a hostile archive, a source that does not exist."""


class CheckpointError(GanvasError):
    """A run folder or a file in it is missing, damaged, or not what it claims to be."""


class StorageError(GanvasError):
    """The disk is full, the folder cannot be written, or another process holds it."""


class MissingExtra(GanvasError):
    """An optional dependency is needed; the message holds the line that installs it."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs the '{extra}' extra: pip install 'ganvas[{extra}]'")


class TrainingError(GanvasError):
    """Training cannot go on: numbers that are not finite, or a machine that cannot hold the networks."""


def did_you_mean(value: str, known: Sequence[str]) -> str:
    """Return `" (did you mean 'x'?)"` for the closest of `known`, or `""` where nothing is close."""
    close = get_close_matches(value, known, n=1, cutoff=0.5)
    return f" (did you mean '{close[0]}'?)" if close else ""
