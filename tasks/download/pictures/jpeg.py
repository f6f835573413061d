"""The markers of a JPEG, and whether only the end marker is missing."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator

from PIL import Image

END_OF_IMAGE, START_OF_SCAN = 0xD9, 0xDA
_RESTART_INTERVAL = 0xDD
_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive; others are rare
# FF begins a marker unless a stuffed zero, a restart number or a fill byte follows: those belong to the pixels.
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
# What may take the place of missing data. One alone may happen to begin with the code that ends a block.
_FILLS = tuple(64 * bytes([first, 0x5A, 0x1F]) for first in (0x55, 0xB4, 0x6D, 0xCC, 0xEE, 0x93, 0x2B, 0xF7))


def markers(content: bytes) -> Iterator[tuple[int, int]]:
    """Every marker of a JPEG and the start of its segment, in order; the end marker's start lies behind it.

    The markers are walked because a thumbnail within a segment has markers of its own.
    """
    at = 2
    while found := _MARKER.search(content, at):
        at = found.end()
        yield content[at - 1], at
        at += int.from_bytes(content[at : at + 2], "big")


def with_end(content: bytes) -> bytes | None:
    """Add the end marker to a JPEG that lacks nothing else; None where pixels are missing, too.

    Decoders go on with zeros where data is missing, and pass over what is left once all pixels are there. So noise in
    front of the new end marker changes the picture exactly where it was cut.

    Raises:
        OSError: it cannot be decoded at all, or another of Pillow's errors.
    """
    if not _has_all_scans(content):
        return None
    stem = content[:-1] if content.endswith(b"\xff") else content  # half of an end marker
    end = b"\xff\xd9"
    expected = _digest(stem + end)
    fills = list(_FILLS)
    if any(marker == _RESTART_INTERVAL for marker, _ in markers(content)):
        # Between intervals decoders look for the next one's number, and pass over all else.
        last = _RESTART.findall(stem)[-1:]
        number = (last[0][1] - 0xD0 + 1) % 8 if last else 0
        fills += [bytes([0xFF, 0xD0 + number]) + fill for fill in _FILLS]
    return stem + end if all(_digest(stem + fill + end) == expected for fill in fills) else None


def _digest(content: bytes) -> bytes:
    """Hash a picture's pixels."""
    with Image.open(io.BytesIO(content), formats=("JPEG",)) as image:
        return hashlib.sha256(image.tobytes()).digest()


def _has_all_scans(content: bytes) -> bool:
    """Whether there are scans for every coefficient of every component, down to its last bit."""
    missing: set[tuple[int, int]] = set()
    for marker, at in markers(content):
        if marker in _FRAMES:
            number = content[at + 7]
            missing = {(content[at + 8 + 3 * nth], place) for nth in range(number) for place in range(64)}
        elif marker == START_OF_SCAN:
            number = content[at + 2]
            first, last, bits = content[at + 3 + 2 * number : at + 6 + 2 * number]
            if not bits & 15:
                components = [content[at + 3 + 2 * nth] for nth in range(number)]
                missing -= {(component, place) for component in components for place in range(first, last + 1)}
    return not missing
