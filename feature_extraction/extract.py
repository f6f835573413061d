"""Images in, regions out: a stream of image samples becomes a stream of region samples in the same order."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from PIL import Image as Pillow

from feature_extraction.config import ExtractorConfig
from feature_extraction.detector import Detections, Detector, Image
from feature_extraction.samples import ImageSample, RegionSample

logger = logging.getLogger(__name__)

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

    Where a batch does not fit in the GPU's memory, batches are half as large from then on, and the log says so. The
    regions are those of any batch size.

    Raises:
        ValueError: the detector gave something that is not finite, or one image is too much for the GPU's memory.
    """
    stream = iter(samples)
    batch_size = config.batch_size
    while window := list(islice(stream, WINDOW_BATCHES * config.batch_size)):
        pictures: dict[int, Image] = {}
        failures: dict[int, ExtractFailure] = {}
        for place, sample in enumerate(window):
            try:
                pictures[place] = decode_picture(sample)
            except PictureError as error:
                failures[place] = ExtractFailure(sample.key, str(error))
        found: dict[int, Detections] = {}
        for places in _equal_shapes(pictures):
            while places:
                batch = places[:batch_size]
                detected = _detect(detector, [pictures[place] for place in batch])
                if detected is None:
                    batch_size = max(1, len(batch) // 2)
                    continue
                found.update(zip(batch, detected, strict=True))
                places = places[len(batch) :]
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


def _equal_shapes(pictures: dict[int, Image]) -> list[Sequence[int]]:
    """Places of the pictures in groups of equal shape, in a fixed order."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for place, picture in pictures.items():
        groups.setdefault(picture.shape, []).append(place)
    return list(groups.values())


def _detect(detector: Detector, images: Sequence[Image]) -> list[Detections] | None:
    """Regions of the images; None where they are too many for the GPU's memory.

    Raises:
        ValueError: one image is too much already.
    """
    height, width, _ = images[0].shape
    try:
        return detector.detect(images)
    except torch.OutOfMemoryError as error:
        if len(images) == 1:
            raise ValueError(
                f"one image of {width}x{height} is too much for the GPU's memory; lower extractor.num_proposals, set "
                "extractor.precision='bf16', or take a larger GPU"
            ) from error
        logger.warning(
            "%d images of %dx%d are too much for the GPU's memory: %d at a time from here on",
            len(images),
            width,
            height,
            len(images) // 2,
        )
    # Only here, when nothing of the failed call is alive any more, can its memory be given back.
    torch.cuda.empty_cache()
    return None


def _region_sample(sample: ImageSample, found: Detections) -> RegionSample:
    return RegionSample(
        key=sample.key,
        size=sample.size,
        boxes=found.boxes,
        labels=found.labels,
        scores=found.scores,
        background=found.background,
        features=found.features,
        top_labels=found.top_labels,
        top_scores=found.top_scores,
    )
