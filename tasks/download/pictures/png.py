"""Prepare a PNG so that Pillow reads it safely and right.

Metadata that no picture is made from are left out.

Pillow unpacks texts and refuses a whole picture for a long one, or for one whose checksum is wrong. Nobody here reads
them, so they are left out before it sees the file, except for those in which some programs keep the orientation.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from PIL import Image

MAX_PROFILE_BYTES = 4_000_000
"""The largest colour profiles in use, of printing presses, have 3 MB. More is no profile, and no orientation either."""

_START = b"\x89PNG\r\n\x1a\n"
# Beside the critical ones, whose names begin with a capital: transparency, frames.
_NEEDED = (b"tRNS", b"acTL", b"fcTL", b"fdAT")
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_ORIENTED = (b"Raw profile type exif\0", b"XML:com.adobe.xmp\0")  # texts that may hold an orientation


def needed_chunks(content: bytes) -> bytes:
    """A PNG's bytes without the metadata that its picture does not need; other content unchanged."""
    if not content.startswith(_START):
        return content
    kept = [content[: len(_START)]]
    kept += [content[start:end] for start, end in _chunks(content) if _is_needed(content, start, end)]
    return b"".join(kept)


def set_transparent_grey(image: Image.Image, content: bytes) -> None:
    """Correct the grey value that means transparent.

    Pillow spreads 2 or 4 bits over 8, but not this one value.
    """
    depth, kind = content[24:26]
    transparent = image.info.get("transparency")
    if kind == 0 and depth in (2, 4) and isinstance(transparent, int):
        image.info["transparency"] = transparent % (1 << depth) * (255 // ((1 << depth) - 1))


def _chunks(content: bytes) -> Iterator[tuple[int, int]]:
    """Start and end of each chunk; what follows the end marker, or damage, comes as one."""
    start = len(_START)
    while start < len(content):
        kind = content[start + 4 : start + 8]
        end = start + 12 + int.from_bytes(content[start : start + 4], "big")
        if kind == b"IEND" or not kind.isalpha():
            end = len(content)
        yield start, end
        start = end


def _is_needed(content: bytes, start: int, end: int) -> bool:
    kind = content[start + 4 : start + 8]
    if not kind.isalpha() or kind[:1].isupper() or kind in _NEEDED:
        return True
    body = content[start + 8 : end - 4]
    if kind not in (b"iCCP", b"eXIf") and not (kind in _TEXTS and body.startswith(_ORIENTED)):
        return False
    if zlib.crc32(kind + body) != int.from_bytes(content[end - 4 : end], "big"):
        return False
    rest = body.partition(b"\0")[2]
    match kind:
        case b"iCCP" | b"zTXt":
            return _unpacks(rest[1:], MAX_PROFILE_BYTES)
        case b"iTXt" if rest[:1] != b"\0":
            return _unpacks(rest[2:].split(b"\0", 2)[-1], MAX_PROFILE_BYTES)
        case _:
            return len(body) <= MAX_PROFILE_BYTES


def _unpacks(packed: bytes, most: int) -> bool:
    """Whether the data is packed and unpacks to no more than so many bytes."""
    unpacking = zlib.decompressobj()
    try:
        unpacking.decompress(packed, most)
    except zlib.error:
        return False
    return unpacking.eof
