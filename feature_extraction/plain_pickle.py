"""Read pickles of numbers without running anything else that they ask for.

A pickle names the functions that build what it holds, and `pickle.load` calls them, whatever they are. Here only those
that build containers and numpy arrays are called.
"""

from __future__ import annotations

import pickle
from typing import Any

_BUILDERS = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),  # bytes, as Python 3 writes them for Python 2
    ("collections", "OrderedDict"),
} | {
    (f"numpy.{core}.{module}", name)
    for core in ("core", "_core")  # before and since numpy 2
    for module, name in (("multiarray", "_reconstruct"), ("multiarray", "scalar"), ("numeric", "_frombuffer"))
}


class NotPlainError(ValueError):
    """A pickle that asks for something other than numbers, named by `asks_for`: MODULE.NAME."""

    def __init__(self, asks_for: str) -> None:
        super().__init__(f"it asks for {asks_for}")
        self.asks_for = asks_for


def untrusted_text(path: str, name: str) -> str:
    """The message about weights that ask for `name`."""
    return (
        f"weights {path} are more than numbers: loading them would call {name}, which can be a program; only if you "
        "trust whoever made the file, set extractor.trust_weights=true"
    )


class PlainUnpickler(pickle.Unpickler):
    """Unpickles containers, numbers, strings and numpy arrays.

    Anything else is a NotPlainError, before it is called.
    """

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _BUILDERS:
            raise NotPlainError(f"{module}.{name}")
        return super().find_class(module, name)
