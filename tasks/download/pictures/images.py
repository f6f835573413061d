"""Turn a downloaded body into the picture we keep: checked, upright, RGB, no larger than asked for.

A JPEG that is already all of that keeps its original bytes: re-encoding costs quality and most of the time. Whatever
else can be read is converted once, here, so that no later stage meets an orientation flag, a palette or an alpha
channel.
"""

from __future__ import annotations

import functools
import io
import struct
import threading
import warnings
import zlib
from contextlib import nullcontext

from PIL import Image, PngImagePlugin
from PIL import _imaging as core

from tasks.download.config import DownloadConfig
from tasks.download.pictures.colour import resizable, to_srgb
from tasks.download.pictures.foreign_formats import is_cut, looks_like
from tasks.download.pictures.jpeg import END_OF_IMAGE, START_OF_SCAN, markers, with_end
from tasks.download.pictures.png import MAX_PROFILE_BYTES, needed_chunks, set_transparent_grey
from tasks.records import Outcome

# Picture formats of the web. Left out are formats that run an interpreter (EPS), hold no pixels (WMF) or hold
# several pictures of unlike size (ICO).
# The JPEG plugin opens MPO too: a phone's JPEG with a second picture behind it.
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "AVIF", "BMP", "TIFF", "JPEG2000", "PPM")

_JPEG_MAX_SIDE = 65_500
_MAX_SCANS = 100  # Encoders write about ten. Each may cost a pass over all pixels and take ten bytes.
# Decoding one of 50 megapixels takes up to half a gigabyte; of those there is one at a time, whatever the threads.
_LARGE_PIXELS = 12_000_000
_BLOCK_BYTES = 1 << 30
_ONE_LARGE = threading.Lock()
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
    LookupError,
    AttributeError,
    AssertionError,
    RuntimeError,
    struct.error,
    zlib.error,
)
_BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)


class PictureError(Exception):
    """A body that is no picture for us: its row's outcome and a phrase for people."""

    def __init__(self, outcome: Outcome, detail: str) -> None:
        super().__init__(detail)
        self.outcome = outcome
        self.detail = detail


def accept_picture(content: bytes, config: DownloadConfig) -> tuple[bytes, tuple[int, int]]:
    """The JPEG to store for a downloaded body, and its (width, height).

    The original bytes come back, up to the JPEG's own end marker and with all metadata, if they are a complete,
    upright RGB JPEG whose shorter side is at most `config.short_side`; else a converted copy without metadata:
    orientation applied, first frame, sRGB, alpha on white, shrunk.

    Raises:
        PictureError: not_an_image, bomb (more than `config.max_pixels`, or a JPEG of endless scans; found before any
            decoding), too_small, or truncated (the header is a picture's, but its pixels cannot all be read).
    """
    content = needed_chunks(content)
    image = _open(content)
    width, height = image.size
    if width * height > config.max_pixels:
        raise PictureError(Outcome.BOMB, f"{width} x {height} pixels, limit {config.max_pixels}")
    if min(width, height) < config.min_side:
        raise PictureError(Outcome.TOO_SMALL, f"{width} x {height} pixels, shortest side allowed {config.min_side}")
    target = _fit(image.size, config.short_side) if config.short_side is not None else image.size
    if max(target) > _JPEG_MAX_SIDE:
        raise PictureError(Outcome.BOMB, f"{width} x {height} pixels, longest side of a JPEG {_JPEG_MAX_SIDE}")
    with _ONE_LARGE if width * height > _LARGE_PIXELS else nullcontext():
        try:
            if image.format in ("JPEG", "MPO"):
                end = _jpeg_end(content)
                if end is None and (whole := _with_end(content)) is not None:
                    content, end = whole, len(whole)
                    image = _open(content)
                if end is not None and image.mode == "RGB" and target == image.size and _orientation(image) == 1:
                    return _checked(image, content, end), (width, height)
            return _convert(image, target, config.jpeg_quality)
        finally:
            image.close()  # Free its pixels before the next large picture is let in.


@functools.cache
def _formats() -> tuple[str, ...]:
    """The members of FORMATS that the installed Pillow supports; it fails on the name of any other.

    Its warnings about broken metadata, of which a web crawl has thousands, and about large pictures, which we count
    ourselves, are silenced along the way.
    """
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
    Image.init()
    PngImagePlugin.MAX_TEXT_CHUNK = MAX_PROFILE_BYTES
    # A picture's memory is one block, which the system has back when it is freed. Of blocks of 16 MB, as Pillow makes
    # them, the C library keeps what each thread has freed: half a gigabyte.
    core.set_block_size(_BLOCK_BYTES)
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _open(content: bytes) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(content), formats=_formats())
    except _BOMBS as error:
        raise PictureError(Outcome.BOMB, "more pixels than the decoder's own limit") from error
    except _DECODE_ERRORS as error:
        if is_cut(content):
            raise PictureError(Outcome.TRUNCATED, "shorter than its own header says") from error
        raise PictureError(Outcome.NOT_AN_IMAGE, looks_like(content)) from error
    if image.format == "PNG":
        set_transparent_grey(image, content)
    return image


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8; 1 where it is absent, unreadable or out of range."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except _DECODE_ERRORS:
        return 1  # Broken EXIF is common and says nothing about the pixels.
    return value if value in _UPRIGHT else 1


def _jpeg_end(content: bytes) -> int | None:
    """Where a JPEG's own end marker ends; None where there is none. Anything may follow it.

    Cameras append a second picture or a film, servers a newline. The markers are walked because a thumbnail inside
    a header ends with the same two bytes.

    Raises:
        PictureError: bomb, so many passes over the picture that a small file would take minutes to decode.
    """
    scans = 0
    for marker, at in markers(content):
        if marker == END_OF_IMAGE:
            return at
        scans += marker == START_OF_SCAN
        if scans > _MAX_SCANS:
            raise PictureError(Outcome.BOMB, f"more than {_MAX_SCANS} scans")
    return None


def _with_end(content: bytes) -> bytes | None:
    try:
        return with_end(content)
    except _BOMBS + _DECODE_ERRORS:
        return None


def _checked(image: Image.Image, content: bytes, end: int) -> bytes:
    """A JPEG's bytes up to its end, after all its data was read.

    Reading is at 1/8 scale, brightness only.

    That costs a third of a decode, and finds what is missing. Pillow's `verify()` does not: it stops at the header.
    """
    if end < len(content):
        content = content[:end]
        image = _open(content)  # Check exactly the bytes that are kept.
    image.draft("L", (max(1, image.width // 8), max(1, image.height // 8)))
    _load(image)
    return content


def _load(image: Image.Image) -> None:
    try:
        image.load()
    except _BOMBS as error:
        raise PictureError(Outcome.BOMB, "more pixels than the decoder's own limit") from error
    except _DECODE_ERRORS as error:
        raise PictureError(Outcome.TRUNCATED, f"pixels cannot be read: {error}"[:200]) from error


def _fit(size: tuple[int, int], short_side: int) -> tuple[int, int]:
    """The size of the same shape whose shorter side is at most `short_side`."""
    scale = min(1.0, short_side / min(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _convert(image: Image.Image, target: tuple[int, int], quality: int) -> tuple[bytes, tuple[int, int]]:
    """Decode, shrink to `target` (before rotation), make sRGB, set upright and encode as JPEG."""
    # A JPEG can be decoded at 1/2, 1/4 or 1/8 scale for less; never below the target. Other formats ignore it.
    image.draft(None, target)
    # Before the orientation is asked for: a PNG's may lie behind its pixels, and Pillow would load them unguarded.
    _load(image)
    try:
        picture = resizable(image)
        if picture.size != target:
            # Hamming is as cheap as bilinear, a third cheaper than bicubic, and on photographs 4 to 6 dB closer to
            # Lanczos than a box filter, which would save another quarter.
            picture = picture.resize(target, Image.Resampling.HAMMING, reducing_gap=2.0)
        picture = to_srgb(picture, image.info.get("icc_profile"))
    except _DECODE_ERRORS as error:
        raise PictureError(Outcome.NOT_AN_IMAGE, f"{image.mode} pixels cannot be made RGB: {error}"[:200]) from error
    if (orientation := _orientation(image)) in _UPRIGHT:
        picture = picture.transpose(_UPRIGHT[orientation])
    encoded = io.BytesIO()
    picture.save(encoded, "JPEG", quality=quality, comment=b"")  # Otherwise a GIF's comment is copied, and may not fit.
    return encoded.getvalue(), picture.size
