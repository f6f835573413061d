"""The one exception that means: the user can mend this. The command line prints it and exits with 2."""

from __future__ import annotations


class UserError(ValueError):
    """Bad input. The message is one sentence: what, where, what to do."""
