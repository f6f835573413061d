"""GPUs are counted as CUDA counts them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.workers.gpus import visible_gpus


@pytest.mark.parametrize(
    ("chosen", "seen"),
    [(None, 4), ("0,1", 2), ("2", 1), ("", 0), ("-1", 0), ("0,7,1", 1), ("GPU-8f2a, GPU-31bc", 2), ("0,-1,1", 1)],
)
def test_the_variable_chooses_among_those_that_the_driver_lists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chosen: str | None, seen: int
) -> None:
    for number in range(4):
        (tmp_path / f"0000:0{number}:00.0").mkdir()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if chosen is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    assert visible_gpus(tmp_path) == seen


def test_a_machine_without_the_driver_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert visible_gpus(tmp_path / "nothing") == 0
