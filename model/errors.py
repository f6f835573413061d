"""The exceptions of this room."""

from __future__ import annotations


class InputError(ValueError):
    """Bad input. The message is one sentence: what, where, what to do. Commands print it and exit with 2."""


class TrainingError(RuntimeError):
    """Training cannot go on. The message is one sentence: where, why, what to do. Commands print it and exit with 1."""
