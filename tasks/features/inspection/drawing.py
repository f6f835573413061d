"""Draw pictures with their regions, one by one and together on a contact sheet."""

from __future__ import annotations

import colorsys
import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

Box = tuple[float, float, float, float]
Colour = tuple[int, int, int]

SIDE = 720
"""Longest side of a drawn picture, pixels: about twice what a page shows, so that labels stay sharp."""

_FONT_SIZE = 25
_LINE_WIDTH = 4
_LONGEST_NAME = 22  # characters
_BLANK = (128, 128, 128)

_CELL, _GAP, _CAPTION_FONT = 480, 20, 20  # pixels of a contact sheet
_COLUMNS, _CAPTION_LINES, _CAPTION_WIDTH = 3, 2, 48
_PAPER, _INK = (251, 251, 250), (28, 29, 32)


@dataclass(frozen=True)
class DrawnRegion:
    """A region to draw: box (x0, y0, x1, y1) in pixels of the stored image, label number and name, score.

    `best` are its most likely labels with their probabilities, best first, where the extractor stored them.
    """

    box: Box
    label: int
    name: str
    score: float
    best: tuple[tuple[str, float], ...] = ()

    @property
    def text(self) -> str:
        """The tag `stop sign 0.98`; long names are cut."""
        name = self.name if len(self.name) <= _LONGEST_NAME else self.name[: _LONGEST_NAME - 1] + "…"
        return f"{name} {self.score:.2f}"


def draw_regions(jpeg: bytes | None, size: tuple[int, int], regions: Sequence[DrawnRegion]) -> Image.Image:
    """Draw boxes in their labels' colours, tagged with name and score.

    The picture gets the size of a page.

    Args:
        jpeg: the stored image; None where it is not there any more: the boxes are drawn on grey.
        size: (width, height) in pixels that the boxes are measured in.
        regions: best first; where tags want the same place, the best has it.

    Raises:
        OSError: the image is damaged.
    """
    scale = SIDE / max(size)
    shape = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
    picture = Image.new("RGB", shape, _BLANK) if jpeg is None else _opened(jpeg, shape)
    draw = ImageDraw.Draw(picture)
    scaled = [tuple(edge * scale for edge in region.box) for region in regions]
    for region, (x0, y0, x1, y1) in zip(reversed(regions), reversed(scaled), strict=True):
        # Widened to a line, an empty box is still seen.
        corners = (x0, y0, max(x0 + 1, x1), max(y0 + 1, y1))
        draw.rectangle(corners, outline=label_colour(region.label), width=_LINE_WIDTH)
    font = ImageFont.load_default(_FONT_SIZE)
    taken: list[Box] = []
    for region, box in zip(regions, scaled, strict=True):
        left, top, right, bottom = draw.textbbox((0, 0), region.text, font)
        width, height = right - left + 10, bottom - top + 8
        place = _tag_place((box[0], box[1], box[2], box[3]), width, height, shape, taken)
        taken.append((place[0], place[1], place[0] + width, place[1] + height))
        colour = label_colour(region.label)
        draw.rectangle(taken[-1], fill=colour)
        draw.text((place[0] + 5 - left, place[1] + 4 - top), region.text, _ink_on(colour), font)
    return picture


def label_colour(label: int) -> Colour:
    """A vivid colour for a label number, always the same: neighbours differ by the golden ratio of a turn."""
    red, green, blue = colorsys.hsv_to_rgb(label * 0.618034 % 1, 0.8 if label % 2 else 0.6, 0.95)
    return round(red * 255), round(green * 255), round(blue * 255)


def to_jpeg(picture: Image.Image) -> bytes:
    """Encode without colour subsampling, which smears coloured tags."""
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=82, subsampling=0, optimize=True)
    return stream.getvalue()


def contact_sheet(pictures: Sequence[tuple[Image.Image, str]]) -> Image.Image:
    """Drawn pictures in rows of three, each above its caption, cut to two lines."""
    font = ImageFont.load_default(_CAPTION_FONT)
    caption_height = _CAPTION_LINES * (_CAPTION_FONT + 6)
    columns = min(_COLUMNS, len(pictures))
    cells = [(picture.resize(_fitting(picture.size, _CELL)), caption) for picture, caption in pictures]
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    heights = [max(picture.height for picture, _ in row) + caption_height + _GAP for row in rows]
    sheet = Image.new("RGB", (_GAP + columns * (_CELL + _GAP), _GAP + sum(heights)), _PAPER)
    draw = ImageDraw.Draw(sheet)
    y = _GAP
    for row, height in zip(rows, heights, strict=True):
        for column, (picture, caption) in enumerate(row):
            x = _GAP + column * (_CELL + _GAP)
            sheet.paste(picture, (x, y))
            lines = textwrap.wrap(caption, _CAPTION_WIDTH, max_lines=_CAPTION_LINES, placeholder=" …")
            draw.multiline_text((x, y + picture.height + 4), "\n".join(lines), _INK, font, spacing=4)
        y += height
    return sheet


def _opened(jpeg: bytes, shape: tuple[int, int]) -> Image.Image:
    with Image.open(io.BytesIO(jpeg)) as image:
        return image.convert("RGB").resize(shape, Image.Resampling.LANCZOS)


def _tag_place(
    box: Box, width: float, height: float, shape: tuple[int, int], taken: Sequence[Box]
) -> tuple[float, float]:
    """Left and top of a tag at its box: above, inside or below, where it hides least of earlier tags."""
    x0, y0, x1, y1 = box
    candidates = [(x, y) for y in (y0 - height, y0, y1 - height, y1, (y0 + y1 - height) / 2) for x in (x0, x1 - width)]
    places = [
        (min(max(0.0, x), max(0.0, shape[0] - 1 - width)), min(max(0.0, y), max(0.0, shape[1] - 1 - height)))
        for x, y in candidates
    ]

    def hidden(place: tuple[float, float]) -> float:
        x, y = place
        return sum(
            max(0.0, min(x + width, right) - max(x, left)) * max(0.0, min(y + height, bottom) - max(y, top))
            for left, top, right, bottom in taken
        )

    return min(places, key=hidden)  # The first of equal ones.


def _fitting(size: tuple[int, int], side: int) -> tuple[int, int]:
    scale = side / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _ink_on(colour: Colour) -> Colour:
    """Black or white, whichever is easier to read on a colour: relative luminance as in WCAG 2."""
    linear = [(part / 255) ** 2.2 for part in colour]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return (0, 0, 0) if luminance > 0.18 else (255, 255, 255)
