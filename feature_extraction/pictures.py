"""Decode stored pictures to pixels."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image as Pillow

from feature_extraction.detectors.interface import Image
from feature_extraction.samples.images import ImageSample


class PictureError(ValueError):
    """One picture that cannot be used. The message says why."""


def decode_picture(sample: ImageSample) -> Image:
    """Decode a stored image to pixels (H, W, 3) RGB.

    It is upright already: its EXIF orientation is not looked at.

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
