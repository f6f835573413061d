"""Images in, regions out: a stream of image samples becomes a stream of region samples in the same order."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from PIL import Image as Pillow

from feature_extraction.config import ExtractorConfig
from feature_extraction.detector import Detections, Detector, Image
from feature_extraction.samples import ImageSample, RegionSample

WINDOW_BATCHES = 8
"""Images are grouped by shape within this many batches at a time: enough to fill most batches, little to hold."""


@dataclass(frozen=True)
class ExtractFailure:
    """An image whose regions could not be had, and why."""

    key: str
    detail: str


def extract_regions(
    samples: Iterable[ImageSample], detector: Detector, config: ExtractorConfig
) -> Iterator[RegionSample | ExtractFailure]:
    """One result per image, in the order of the images.

    Images of exactly equal shape go through the detector together, up to `config.batch_size`; a padded batch would
    change the regions of its smaller images. Stored images are upright already, so their EXIF orientation is not
    looked at. A picture that cannot be decoded, or is not of the size its sample states, is one failure.

    Raises:
        ValueError: the detector gave something that is not finite.
    """
    stream = iter(samples)
    while window := list(islice(stream, WINDOW_BATCHES * config.batch_size)):
        pictures: dict[int, Image] = {}
        failures: dict[int, ExtractFailure] = {}
        for place, sample in enumerate(window):
            try:
                pictures[place] = decode_picture(sample)
            except PictureError as error:
                failures[place] = ExtractFailure(sample.key, str(error))
        found: dict[int, Detections] = {}
        for places in _equal_shapes(pictures, config.batch_size):
            found.update(zip(places, detector.detect([pictures[place] for place in places]), strict=True))
        for place, sample in enumerate(window):
            yield failures[place] if place in failures else _region_sample(sample, found[place])


class PictureError(ValueError):
    """One picture cannot be used. The message says why."""


def decode_picture(sample: ImageSample) -> Image:
    """The pixels of a stored image, (H, W, 3) RGB.

    Raises:
        PictureError: its bytes are not a whole picture, or one of another size than the sample says.
    """
    try:
        with Pillow.open(io.BytesIO(sample.jpeg)) as picture:
            pixels = np.array(picture.convert("RGB"))
    # Pillow's decoders report damage as any of these: UnidentifiedImageError and a cut file are OSErrors, a broken
    # PNG chunk is a SyntaxError.
    except (OSError, SyntaxError, ValueError, Pillow.DecompressionBombError) as error:
        raise PictureError(f"{type(error).__name__}: {error}") from error
    height, width, _ = pixels.shape
    if (width, height) != sample.size:
        raise PictureError(f"the picture is {width}x{height}, its sample says {sample.size[0]}x{sample.size[1]}")
    return pixels


def _equal_shapes(pictures: dict[int, Image], batch_size: int) -> list[Sequence[int]]:
    """Places of the pictures in groups of equal shape, each at most `batch_size`, in a fixed order."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for place, picture in pictures.items():
        groups.setdefault(picture.shape, []).append(place)
    return [
        group[start : start + batch_size] for group in groups.values() for start in range(0, len(group), batch_size)
    ]


def _region_sample(sample: ImageSample, found: Detections) -> RegionSample:
    return RegionSample(
        key=sample.key,
        size=sample.size,
        boxes=found.boxes,
        labels=found.labels,
        scores=found.scores,
        background=found.background,
        features=found.features,
    )
