"""Guess what an unreadable body is, for the outcome's detail."""

from __future__ import annotations

from PIL import Image

_WEB = (
    ((b"<!doctype html", b"<html"), "a web page"),
    ((b"<",), "markup"),
    ((b"{", b"["), "JSON"),
)
# What files begin with. First those that Pillow reads, or would.
_STARTS = (
    (b"\xff\xd8", "damaged picture header"),
    (b"\x89PNG", "damaged picture header"),
    (b"GIF8", "damaged picture header"),
    (b"RIFF", "damaged picture header"),
    (b"II*\0", "a TIFF that is damaged, or has pixels of a kind that is not read"),
    (b"MM\0*", "a TIFF that is damaged, or has pixels of a kind that is not read"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    (b"II\xbc", "JPEG XR"),
    (b"II+\0", "a BigTIFF"),
    (b"MM\0+", "a BigTIFF"),
    (b"\0\0\1\0", "an icon"),
    (b"8BPS", "a Photoshop file"),
    (b"%PDF", "a PDF"),
    (b"%!PS", "PostScript"),
    (b"\xc5\xd0\xd3\xc6", "PostScript"),
    (b"\x1aE\xdf\xa3", "a WebM or Matroska film"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"PK\3\4", "a zip archive"),
)
_AVIF = (b"avif", b"avis")
_BRANDS = (
    (_AVIF, "AVIF"),
    ((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"), "HEIC"),
    ((b"mif1", b"msf1", b"mif2", b"miaf"), "HEIF"),
    ((b"crx ",), "a camera's raw file"),
    ((b"isom", b"iso2", b"iso4", b"iso5", b"iso6", b"mp41", b"mp42", b"avc1", b"M4V ", b"qt  ", b"3gp4"), "a film"),
)


def looks_like(content: bytes) -> str:
    """A guess at what an unreadable body is."""
    start = content[:512].lstrip().lower()
    if not start:
        return "empty body"
    format_ = _format(content)
    if format_ is not None:
        return format_
    if b"<svg" in start:
        return "an SVG drawing"
    return next((name for starts, name in _WEB if start.startswith(starts)), "unknown content")


def is_cut(content: bytes) -> bool:
    """Whether a WebP or AVIF says that it has more bytes; their decoders refuse a cut file as a whole."""
    if content.startswith(b"RIFF"):
        return int.from_bytes(content[4:8], "little") + 8 > len(content)
    if not _is_read_avif(content):
        return False
    end, size = 0, 8
    while size >= 8 and end < len(content):  # 0 means up to the end of the file, 1 a size of 64 bits.
        size = int.from_bytes(content[end : end + 4], "big")
        end += size
    return end > len(content)


def _is_read_avif(content: bytes) -> bool:
    return "AVIF" in Image.OPEN and any(brand in _AVIF for brand in _brands(content))


def _brands(content: bytes) -> list[bytes]:
    """The brands of an ISO box file, its own first."""
    if content[4:8] != b"ftyp":
        return []
    end = min(int.from_bytes(content[:4], "big"), len(content), 512)
    return [content[8:12], *(content[at : at + 4] for at in range(16, end, 4))]


def _format(content: bytes) -> str | None:
    """The format that a body begins as, and what is wrong with it."""
    for start, name in _STARTS:
        if content.startswith(start):
            return name if "damaged" in name else f"{name}, which is not read here"
    if _is_read_avif(content):
        return "damaged picture header"
    found = _brands(content)
    names = [name for brands, name in _BRANDS if any(brand in brands for brand in found)]
    return f"{names[0]}, which is not read here" if names else None
