"""Numbers are read from pickles of every kind; what would run a program is refused before it runs."""

from __future__ import annotations

import io
import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from feature_extraction.plain_pickle import NotPlainError, PlainUnpickler


def read(content: bytes) -> Any:
    return PlainUnpickler(io.BytesIO(content), encoding="latin1").load()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_and_plain_values_are_read_as_they_were_written(protocol: int) -> None:
    value = {
        "model": OrderedDict(weight=np.arange(6, dtype=np.float32).reshape(2, 3), steps=np.int64(7)),
        "__author__": "someone",
        "bytes": b"\x00\xff",
        "plain": [1, 2.5, None, True, ("a", {"b"})],
    }
    # A set is built by the pickle itself from protocol 4 on, and before by a call of builtins.set.
    if protocol < 4:
        value["plain"] = [1, 2.5, None, True, ("a", "b")]
    found = read(pickle.dumps(value, protocol))
    np.testing.assert_array_equal(found["model"].pop("weight"), value["model"].pop("weight"))
    assert found == value


class Call:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.called = function, arguments

    def __reduce__(self) -> Any:
        return self.called


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_a_call_is_refused_and_not_made(tmp_path: Path, protocol: int) -> None:
    content = pickle.dumps({"model": Call(os.mkdir, str(tmp_path / "it ran"))}, protocol)
    with pytest.raises(NotPlainError, match=r"asks for (posix|nt)\.mkdir"):
        read(content)
    assert not (tmp_path / "it ran").exists()
    array = np.array([Call(os.mkdir, str(tmp_path / "it ran"))], object)
    with pytest.raises(NotPlainError):
        read(pickle.dumps(array, protocol))
    assert not (tmp_path / "it ran").exists()


@pytest.mark.parametrize("function", [eval, getattr, __import__, np.load])
def test_nor_are_functions_that_lead_to_others(function: Any) -> None:
    with pytest.raises(NotPlainError):
        read(pickle.dumps(Call(function, "x")))
