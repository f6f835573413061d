"""Extraction on a GPU: the demo's trained detector through the whole pipeline, two batches at a time."""

from __future__ import annotations

import io
import logging
from pathlib import Path

import numpy as np
import pytest
import torch

import tasks.world
from feature_extraction.config import ExtractorConfig
from feature_extraction.detectors.interface import detect_images
from feature_extraction.detectors.load import load_detector
from feature_extraction.extract import BusyClock, extract_regions
from feature_extraction.pictures import decode_picture
from feature_extraction.samples.images import ImageSample
from feature_extraction.samples.regions import RegionSample
from tasks.world.scenes import render_scene

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: torch sees none"),
]
ON_CPU = ExtractorConfig(
    backend="torchvision",
    model="small",
    weights=str(Path(tasks.world.__file__).with_name("detector.safetensors")),
    max_regions=6,
    num_proposals=32,
    device="cpu",
)
ON_GPU = ON_CPU.model_copy(update={"device": "cuda"})


@pytest.fixture(scope="module")
def samples() -> list[ImageSample]:
    made = []
    for number in range(60):
        buffer = io.BytesIO()
        image = render_scene(np.random.default_rng(number), 2, 4).image
        image.save(buffer, "JPEG", quality=92)
        made.append(ImageSample(f"{number:09d}", "", "", image.size, "", buffer.getvalue()))
    return made


def regions(samples: list[ImageSample], config: ExtractorConfig) -> list[RegionSample]:
    found = list(extract_regions(samples, load_detector(config), config, num_threads=2))
    assert [one.key for one in found] == [sample.key for sample in samples]
    return [one for one in found if isinstance(one, RegionSample)]


def test_a_gpu_finds_what_a_cpu_finds(samples: list[ImageSample]) -> None:
    for here, there in zip(regions(samples, ON_CPU), regions(samples, ON_GPU), strict=True):
        sure = here.scores > 0.3  # The order of nearly equal scores is not the same to the last bit.
        assert here.labels[sure].tolist() == there.labels[: sure.sum()].tolist()
        np.testing.assert_allclose(there.scores[: sure.sum()], here.scores[sure], atol=2e-3)
        np.testing.assert_allclose(there.boxes[: sure.sum()], here.boxes[sure], atol=0.2)
        np.testing.assert_allclose(there.features[: sure.sum()], here.features[sure], atol=2e-2)


def test_two_lanes_give_what_one_batch_after_the_other_gives(samples: list[ImageSample]) -> None:
    detector = load_detector(ON_GPU)
    through_lanes = regions(samples, ON_GPU.model_copy(update={"batch_size": 4}))
    for sample, found in zip(samples, through_lanes, strict=True):
        (alone,) = detect_images(detector, [decode_picture(sample)])
        assert len(alone.boxes) == len(found.boxes)
        np.testing.assert_allclose(alone.scores, found.scores, atol=2e-3)


def test_memory_that_runs_short_halves_the_batch(samples: list[ImageSample], caplog: pytest.LogCaptureFixture) -> None:
    config = ON_GPU.model_copy(update={"batch_size": 32})
    detector = load_detector(config)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    clock = BusyClock()
    expected = [one.key for one in extract_regions(samples, detector, config, clock=clock)]
    assert 0 < clock.share <= 1
    needed, total = torch.cuda.max_memory_reserved(), torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(0.6 * needed / total)
    try:
        with caplog.at_level(logging.WARNING):
            found = [one.key for one in extract_regions(samples, detector, config)]
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert found == expected
    assert "at a time from here on" in caplog.text
