"""Convert any decoded picture to 8-bit sRGB, on white, as a browser shows it.

Resizing lies in the middle: palettes and 16 bits must be gone before it, and profiles are cheaper after it.
"""

from __future__ import annotations

import functools
import io
import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms

from tasks.download.pictures.png import MAX_PROFILE_BYTES

_PROFILE_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
_BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339  # TIFF tags
_WHITE_IS_ZERO, _SIGNED = 0, 2


def resizable(image: Image.Image) -> Image.Image:
    """The pixels in a mode that can be resized: RGB, L, CMYK or LAB, or RGBA or LA where some are transparent; 8 bits
    each.

    Raises:
        ValueError: nobody can say which of their values is white, or they are of a mode that has no colours.
    """
    tags = getattr(image, "tag_v2", {})
    if image.mode == "F":
        raise ValueError("floating-point values have no known white")
    if _SIGNED in tags.get(_SAMPLE_FORMAT, ()):
        raise ValueError("signed values have no known black and white")
    if image.mode == "P" and image.palette is None:
        raise ValueError("there is no palette")
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _from_deep_grey(image, tags)
    if image.mode in ("La", "RGBa"):  # times alpha
        return image.convert(image.mode.upper())
    keyed = "transparency" in image.info  # One colour, or some of a palette, mean nothing.
    if image.mode in ("RGB", "L", "CMYK", "LAB", "RGBA", "LA") and not keyed:
        return image
    if image.has_transparency_data:
        return image.convert("RGBA")
    return image.convert("L" if image.mode == "1" else "RGB")


def to_srgb(picture: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert `resizable`'s result to RGB: alpha on white, colours by its ICC profile.

    A profile that is broken or made for pixels of another kind is ignored, as browsers do. CMYK without a profile
    is subtracted from white.
    """
    if picture.mode in ("RGBA", "LA"):
        opaque = Image.new("RGB", picture.size, "white")
        opaque.paste(picture.convert("RGBA"), mask=picture.getchannel("A"))
        picture = opaque
    if profile and len(profile) <= MAX_PROFILE_BYTES:
        transform = _transform(profile, picture.mode)
        if transform is not None:
            converted = ImageCms.applyTransform(picture, transform)
            assert converted is not None  # It is None only for a change in place.
            return converted
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def _from_deep_grey(image: Image.Image, tags: Mapping[int, Any]) -> Image.Image:
    """Grey of 16 bits by its upper 8.

    A TIFF may have 12 or 32. Pillow's own conversion clips at 255 instead.

    Raises:
        ValueError: nothing is in the upper 8 of 32 bits: these are numbers of some other scale.
    """
    bits = tags.get(_BITS_PER_SAMPLE, (16,))[0]
    samples: npt.NDArray[np.integer] = np.asarray(image)
    if bits == 32:
        samples = samples.view(np.uint32)
    upper = np.clip(samples >> (bits - 8), 0, 255).astype(np.uint8)
    if bits == 32 and not upper.any():
        raise ValueError("32-bit values that use none of the upper 8 bits have no known white")
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        upper = 255 - upper
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        upper[samples == transparent] = 255
    return Image.fromarray(upper)


@functools.lru_cache(maxsize=8)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """The transform from a profile to sRGB; None where none is needed or possible."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if _PROFILE_MODES.get(source.profile.xcolor_space.strip()) != mode:
            return None
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
        return None if _changes_little(transform, mode) else transform
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None


def _changes_little(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Whether colours stay within 2 of 255: most profiles on the web are spellings of sRGB."""
    if mode == "CMYK":
        return False
    steps = range(0, 256, 51)
    colours = list(itertools.product(steps, steps, steps)) if mode == "RGB" else [(grey,) * 3 for grey in range(256)]
    before = Image.new("RGB", (len(colours), 1))
    before.putdata(colours)
    after = ImageCms.applyTransform(before.convert(mode), transform)
    assert after is not None  # It is None only for a change in place.
    return bool(np.abs(np.asarray(before, np.int16) - np.asarray(after, np.int16)).max() <= 2)
