"""The exception of this room that means: the input is at fault and the user can mend it."""

from __future__ import annotations


class InputError(ValueError):
    """Bad input. The message is one sentence: what, where, what to do. Commands print it and exit with 2."""
