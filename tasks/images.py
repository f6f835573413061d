"""A downloaded body -> the picture we keep: checked, upright, RGB, not larger than asked for.

A JPEG that is already all of that keeps its original bytes: re-encoding costs quality and most of the time. Whatever
else can be read is converted once, here, so that no later stage meets an orientation flag, a palette or an alpha
channel.
"""

from __future__ import annotations

import functools
import io
import struct
import warnings
import zlib

import numpy as np
from PIL import Image

from tasks.config import DownloadConfig
from tasks.records import Outcome

# What the web calls a picture. Left out are formats that run an interpreter (EPS), hold no pixels (WMF) or hold
# several pictures of unlike size (ICO).
# The JPEG plugin opens MPO too: a phone's JPEG with a second picture behind it.
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "AVIF", "BMP", "TIFF", "JPEG2000", "PPM")

_JPEG_MAX_SIDE = 65_500
_JPEG_END = b"\xff\xd9"
_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Pillow's decoders answer damaged input with any of these. MemoryError is not among them: that is our machine.
_DECODE_ERRORS = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    TypeError,
    ArithmeticError,
    struct.error,
    zlib.error,
)
_BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)


class PictureError(Exception):
    """A body that is no picture for us: the outcome it ends as, and one human phrase."""

    def __init__(self, outcome: Outcome, detail: str) -> None:
        super().__init__(detail)
        self.outcome = outcome
        self.detail = detail


def accept_picture(content: bytes, config: DownloadConfig) -> tuple[bytes, tuple[int, int]]:
    """The JPEG to store for a downloaded body, and its (width, height).

    The original bytes come back if they are a complete, upright RGB JPEG whose shorter side is at most
    `config.short_side`; else a converted copy: orientation applied, first frame, RGB, alpha on white, shrunk.

    Raises:
        PictureError: not_an_image, bomb (more than `config.max_pixels`; found in the header, before any decoding),
            too_small, or truncated (the header is a picture's, but its pixels cannot all be read).
    """
    image = _open(content)
    width, height = image.size
    if width * height > config.max_pixels:
        raise PictureError(Outcome.BOMB, f"{width} x {height} pixels, limit {config.max_pixels}")
    if min(width, height) < config.min_side:
        raise PictureError(Outcome.TOO_SMALL, f"{width} x {height} pixels, shortest side allowed {config.min_side}")
    orientation = _orientation(image)
    shrink = config.short_side is not None and min(width, height) > config.short_side
    # A JPEG without its end marker may still hold every pixel; converted, it is whole again.
    complete = content.endswith(_JPEG_END)
    if image.format == "JPEG" and image.mode == "RGB" and orientation == 1 and complete and not shrink:
        _check_pixels(image)
        return content, (width, height)
    target = _fit(image.size, config.short_side) if config.short_side is not None else image.size
    if max(target) > _JPEG_MAX_SIDE:
        raise PictureError(Outcome.BOMB, f"{width} x {height} pixels, longest side of a JPEG {_JPEG_MAX_SIDE}")
    return _convert(image, target, orientation, config.jpeg_quality)


@functools.cache
def _formats() -> tuple[str, ...]:
    """Those of FORMATS that the installed Pillow was built with; it fails on the name of one that it was not.

    Its warnings about broken metadata, of which a web crawl has thousands, and about large pictures, which we count
    ourselves, are silenced along the way.
    """
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _open(content: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(content), formats=_formats())
    except _BOMBS as error:
        raise PictureError(Outcome.BOMB, "more pixels than the decoder's own limit") from error
    except _DECODE_ERRORS as error:
        raise PictureError(Outcome.NOT_AN_IMAGE, _looks_like(content)) from error


def _looks_like(content: bytes) -> str:
    """A guess at what a body that is no picture may be, for the outcome's detail."""
    start = content[:512].lstrip().lower()
    if not start:
        return "empty body"
    if start.startswith((b"<!doctype html", b"<html")):
        return "a web page"
    if b"<svg" in start:
        return "an SVG drawing"
    if start.startswith(b"<"):
        return "markup"
    if start.startswith((b"{", b"[")):
        return "JSON"
    if start.startswith((b"\xff\xd8", b"\x89png", b"gif8", b"riff")):
        return "damaged picture header"
    return "unknown content"


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8; 1 where it is absent, unreadable or out of range."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except _DECODE_ERRORS:
        return 1  # Broken EXIF is common and says nothing about the pixels.
    return value if value in _UPRIGHT else 1


def _check_pixels(image: Image.Image) -> None:
    """Read a JPEG's whole data at 1/8 scale, brightness only: a third of a decode, and it finds what is missing.

    Pillow's `verify()` does not: it stops at the header.
    """
    image.draft("L", (max(1, image.width // 8), max(1, image.height // 8)))
    _load(image)


def _load(image: Image.Image) -> None:
    try:
        image.load()
    except _BOMBS as error:
        raise PictureError(Outcome.BOMB, "more pixels than the decoder's own limit") from error
    except _DECODE_ERRORS as error:
        raise PictureError(Outcome.TRUNCATED, f"pixels cannot be read: {error}"[:200]) from error


def _fit(size: tuple[int, int], short_side: int) -> tuple[int, int]:
    """The size whose shorter side is at most `short_side`, of the same shape."""
    scale = min(1.0, short_side / min(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _convert(
    image: Image.Image, target: tuple[int, int], orientation: int, quality: int
) -> tuple[bytes, tuple[int, int]]:
    """Decode, make RGB, shrink to `target` (before rotation), set upright and encode as JPEG."""
    # A JPEG can be decoded at 1/2, 1/4 or 1/8 scale for less; never below the target. Other formats ignore it.
    image.draft(None, target)
    _load(image)
    try:
        picture = _to_rgb(image)
    except _DECODE_ERRORS as error:
        raise PictureError(Outcome.NOT_AN_IMAGE, f"{image.mode} pixels cannot be made RGB") from error
    if picture.size != target:
        # Hamming costs what bilinear does, a third less than bicubic, without the uneven steps of a box filter.
        picture = picture.resize(target, Image.Resampling.HAMMING, reducing_gap=2.0)
    if orientation in _UPRIGHT:
        picture = picture.transpose(_UPRIGHT[orientation])
    encoded = io.BytesIO()
    picture.save(encoded, "JPEG", quality=quality)
    return encoded.getvalue(), picture.size


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _from_16_bit(image).convert("RGB")
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known white")
    if image.has_transparency_data:
        pixels = image.convert("RGBA")
        white = Image.new("RGBA", pixels.size, "white")
        return Image.alpha_composite(white, pixels).convert("RGB")
    return image.convert("RGB")


def _from_16_bit(image: Image.Image) -> Image.Image:
    """16-bit grey to 8-bit grey by its upper byte; Pillow's own conversion of mode I clips at 255 instead."""
    upper = np.clip(np.asarray(image).astype(np.int64) >> 8, 0, 255)
    return Image.fromarray(upper.astype(np.uint8))
