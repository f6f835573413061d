"""Workers of one machine take its GPUs and cores in turn; those of another have to make the same features."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import torch

from feature_extraction.config import ExtractorConfig
from feature_extraction.detectors import load as detectors
from tasks.errors import UserError
from tasks.extract.pool import _check_same
from tasks.extract.shard import load_on_device

CONFIG = ExtractorConfig(backend="detectron2", model="any.yaml")


@pytest.fixture
def asked_for(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The devices that detectors are asked for on, on a machine of four GPUs."""
    devices: list[str] = []
    threads = torch.get_num_threads()
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(detectors, "load_detector", lambda config: devices.append(config.device))
    yield devices
    torch.set_num_threads(threads)


def test_a_worker_takes_the_gpu_of_its_number(asked_for: list[str]) -> None:
    for worker in range(6):
        load_on_device(CONFIG, worker, num_workers=6)
    assert asked_for == ["cuda:0", "cuda:1", "cuda:2", "cuda:3", "cuda:0", "cuda:1"]


@pytest.mark.parametrize("device", ["cpu", "cuda:2"])
def test_a_device_that_is_named_is_taken(asked_for: list[str], device: str) -> None:
    load_on_device(CONFIG.model_copy(update={"device": device}), 1, num_workers=2)
    assert asked_for == [device]


def test_gpus_that_would_idle_are_told_of_once(asked_for: list[str], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "tasks"):
        for worker in range(2):
            load_on_device(CONFIG, worker, num_workers=2)
    assert caplog.messages == ["2 of 4 GPUs are used; --workers 4 would use all of them"]


def test_the_small_detector_has_one_thread_and_large_ones_share_the_cores(asked_for: list[str]) -> None:
    load_on_device(CONFIG, num_cores=3)
    assert torch.get_num_threads() == 3
    load_on_device(ExtractorConfig(backend="torchvision", model="small", weights="w"), num_cores=3)
    assert torch.get_num_threads() == 1


def test_a_machine_with_another_extractor_is_refused_by_what_differs() -> None:
    wanted = {"format": 1, "versions": {"torch": "2.11.0"}, "weights_sha256": "a"}
    _check_same(wanted, dict(wanted))
    with pytest.raises(UserError, match=r"versions: \{'torch': '2.15.0'\} instead of .*2.11.0'\}\); install the same"):
        _check_same(wanted, wanted | {"versions": {"torch": "2.15.0"}})
