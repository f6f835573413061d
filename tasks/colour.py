"""Any decoded picture -> 8-bit sRGB as RGB, seen as a browser shows it: on white, in its own colour profile.

Resizing lies in the middle: palettes and 16 bits must be gone before it, and profiles are cheaper after it.
"""

from __future__ import annotations

import functools
import io
import itertools

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms

# The largest profiles in use, of printing presses, have 3 MB. More is no profile.
_MAX_PROFILE_BYTES = 4_000_000
_PROFILE_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
_BITS_PER_SAMPLE = 258  # TIFF tag


def resizable(image: Image.Image) -> Image.Image:
    """The pixels as RGB, L, CMYK or LAB, or where some are transparent as RGBA or LA; 8 bits each.

    Raises:
        ValueError: the pixels are floating-point, or of a mode that has no colours.
    """
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known white")
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _from_16_bit(image)
    keyed = "transparency" in image.info  # One colour, or some of a palette, stand for nothing.
    if image.mode in ("RGB", "L", "CMYK", "LAB", "RGBA", "LA") and not keyed:
        return image
    if image.has_transparency_data:
        return image.convert("RGBA")
    return image.convert("L" if image.mode == "1" else "RGB")


def to_srgb(picture: Image.Image, profile: bytes | None) -> Image.Image:
    """What `resizable` returned, now RGB: alpha on white, and the colours that its ICC profile means.

    A profile that is broken or made for pixels of another kind is ignored, as browsers do. CMYK without a profile
    is subtracted from white.
    """
    if picture.mode in ("RGBA", "LA"):
        opaque = Image.new("RGB", picture.size, "white")
        opaque.paste(picture.convert("RGBA"), mask=picture.getchannel("A"))
        picture = opaque
    if profile and len(profile) <= _MAX_PROFILE_BYTES:
        transform = _transform(profile, picture.mode)
        if transform is not None:
            converted = ImageCms.applyTransform(picture, transform)
            assert converted is not None  # It is None only for a change in place.
            return converted
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def _from_16_bit(image: Image.Image) -> Image.Image:
    """Grey of 16 bits (in a TIFF 12 are possible) by its upper 8; Pillow's own conversion clips at 255 instead."""
    samples: npt.NDArray[np.integer] = np.asarray(image)
    bits = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, (16,))[0]
    upper = np.clip(samples >> (4 if bits == 12 else 8), 0, 255).astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        upper[samples == transparent] = 255
    return Image.fromarray(upper)


@functools.lru_cache(maxsize=8)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """From a profile to sRGB; None where there is nothing to do, or nothing that can be done."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if _PROFILE_MODES.get(source.profile.xcolor_space.strip()) != mode:
            return None
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
        return None if _changes_little(transform, mode) else transform
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None


def _changes_little(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Whether colours stay within 2 of 255: most profiles on the web are one of sRGB's many spellings."""
    if mode == "CMYK":
        return False
    steps = range(0, 256, 51)
    colours = list(itertools.product(steps, steps, steps)) if mode == "RGB" else [(grey,) * 3 for grey in range(256)]
    before = Image.new("RGB", (len(colours), 1))
    before.putdata(colours)
    after = ImageCms.applyTransform(before.convert(mode), transform)
    assert after is not None  # It is None only for a change in place.
    return bool(np.abs(np.asarray(before, np.int16) - np.asarray(after, np.int16)).max() <= 2)
