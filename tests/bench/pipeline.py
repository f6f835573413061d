"""Whether whoever detects has to wait: JPEGs to a feature shard on disk, with a stand-in that only takes its time.

The stand-in holds no core, as a GPU does not, and gives 100 regions of 2,048-d. It is so fast that decoding, encoding
and writing take a quarter, half or three quarters of the cores there are. Wall time: run it on a quiet machine.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image as Pillow

from feature_extraction.config import ExtractorConfig
from feature_extraction.detectors.interface import Detections, Detector, Image, Prepared
from feature_extraction.extract import BusyClock, ExtractFailure, extract_regions
from feature_extraction.pictures import decode_picture
from feature_extraction.samples.images import ImageSample
from feature_extraction.samples.regions import RegionLayout, RegionSample, encode_regions
from feature_extraction.samples.tars import write_tar
from tests.bench.clock import cpu_seconds
from tests.bench.photos import write_photos

IMAGES, REGIONS, WIDTH, SHORT_SIDE = 192, 100, 2048, 600
CORE_SHARES = (0.25, 0.5, 0.75)


class StandIn:
    """Resizes as a detector would, and sleeps instead of detecting."""

    labels = ("thing",)
    feature_dim = WIDTH
    device = torch.device("cpu")

    def __init__(self, seconds: float) -> None:
        """`seconds` an image."""
        self._seconds = seconds
        rng = np.random.default_rng(0)
        self._features = np.maximum(rng.normal(0.3, 1, (REGIONS, WIDTH)), 0).astype(np.float32)
        self._scores = np.linspace(0.9, 0.1, REGIONS, dtype=np.float32)

    def prepare(self, image: Image) -> Prepared:
        height, width, _ = image.shape
        scale = SHORT_SIDE / min(width, height)
        size = (round(width * scale), round(height * scale))
        return Prepared(np.asarray(Pillow.fromarray(image).resize(size, Pillow.Resampling.BILINEAR)), (width, height))

    def detect(self, pictures: Sequence[Prepared]) -> list[Detections]:
        time.sleep(self._seconds * len(pictures))
        boxes = np.tile(np.array([0, 0, 10, 10], np.float32), (REGIONS, 1))
        labels = np.zeros(REGIONS, np.int16)
        return [Detections(boxes, labels, self._scores, 1 - self._scores, self._features) for _ in pictures]


def run() -> Iterator[str]:
    torch.set_num_threads(1)
    config = ExtractorConfig(max_regions=REGIONS)
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        made_of = write_photos(Path(folder))
        files = sorted(Path(folder).glob("*.jpg"), key=lambda path: int(path.stem))
        samples = [photo_sample(number, files[number % len(files)]) for number in range(IMAGES)]
        shard = Path(folder, "regions.tar")
        begun = cpu_seconds()
        write_shard(shard, samples, StandIn(0), config, cores)
        host = (cpu_seconds() - begun) / IMAGES
        yield f"decoding, resizing to {SHORT_SIDE}, sqrt8 and tar: {1000 * host:.1f} ms CPU an image ({made_of})"
        for share in CORE_SHARES:
            seconds, clock = host / (share * cores), BusyClock()
            write_shard(shard, samples, StandIn(seconds), config, cores, clock)
            begun = time.perf_counter()
            _write_one_by_one(shard, samples, StandIn(seconds), config)
            plain = seconds * IMAGES / (time.perf_counter() - begun)
            yield (
                f"  beside that on {cores} cores, a detector of {1 / seconds:.0f} images/s is busy {clock.share:.0%} "
                f"of its time; one image after the other: {plain:.0%}"
            )


def photo_sample(number: int, file: Path) -> ImageSample:
    """A picture on disk as one of an image shard."""
    with Pillow.open(file) as picture:
        return ImageSample(f"{number:09d}", "", "", picture.size, "", file.read_bytes())


def write_shard(
    path: Path,
    samples: list[ImageSample],
    detector: Detector,
    config: ExtractorConfig,
    num_threads: int,
    clock: BusyClock | None = None,
) -> None:
    """Write the regions of the samples as extraction does."""
    layout = RegionLayout(config.max_regions, detector.feature_dim, config.encoding)

    def members() -> Iterator[tuple[str, bytes]]:
        for result in extract_regions(samples, detector, config, num_threads=num_threads, clock=clock):
            assert not isinstance(result, ExtractFailure)
            yield f"{result.key}.rgn", encode_regions(result, layout)

    with path.open("wb") as stream:
        write_tar(stream, members())


def _write_one_by_one(path: Path, samples: list[ImageSample], detector: StandIn, config: ExtractorConfig) -> None:
    layout = RegionLayout(config.max_regions, detector.feature_dim, config.encoding)

    def members() -> Iterator[tuple[str, bytes]]:
        for sample in samples:
            (found,) = detector.detect([detector.prepare(decode_picture(sample))])
            regions = vars(found) | {"key": sample.key, "size": sample.size}
            yield f"{sample.key}.rgn", encode_regions(RegionSample(**regions), layout)

    with path.open("wb") as stream:
        write_tar(stream, members())
