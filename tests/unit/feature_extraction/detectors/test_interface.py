import sys

import pytest
import torch

from feature_extraction.config import ExtractorConfig
from feature_extraction.detectors.interface import pick_device
from feature_extraction.detectors.load import load_detector


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"model": "large"}, "set extractor.model='small'"),
        ({"model": "small"}, "extractor.weights is not set"),
        ({"model": "small", "weights": "random"}, "extractor.vocabulary is not set"),
        ({"model": "small", "device": "tpu9"}, "give auto, cpu, cuda or cuda:N"),
        ({"model": "small", "device": "meta"}, "give auto, cpu, cuda or cuda:N"),
        ({"model": "small", "device": "cuda:99"}, "this machine has"),
    ],
)
def test_a_detector_that_cannot_be_had_is_an_error_that_says_what_to_do(fields, problem):
    with pytest.raises(ValueError, match=problem):
        load_detector(ExtractorConfig(backend="torchvision", **fields))


def test_cpu_is_cpu():
    assert pick_device("cpu").type == "cpu"


@pytest.mark.parametrize(("capability", "warned"), [("AVX2", True), ("AVX512", False)])
def test_bf16_on_a_cpu_without_it_is_warned_of(monkeypatch, caplog, capability, warned):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    with pytest.raises(ValueError, match=r"extractor\.weights is not set"):
        load_detector(ExtractorConfig(backend="torchvision", model="small", device="cpu", precision="bf16"))
    assert ("this CPU has no instructions for it" in caplog.text) == warned


def test_without_detectron2_the_error_is_the_install_command(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "detectron2"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [])  # nothing can be found any more
    with pytest.raises(ValueError, match="uv pip install --no-build-isolation-package detectron2"):
        load_detector(ExtractorConfig(backend="detectron2", device="cpu"))
