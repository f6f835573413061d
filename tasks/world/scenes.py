"""Pictures of coloured shapes on cluttered backgrounds, with the truth about where each shape is.

They replace photographs: small enough to be drawn 500 times a second, hard enough that a detector has to be trained.
Only the detector's training may see the truth; everything after it works from the picture alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

SIDE = 128
"""Width and height of every picture, pixels."""

SHAPES = ("circle", "square", "triangle", "diamond", "star", "cross", "ring", "heart")
COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "white")
LABELS: tuple[str, ...] = tuple(f"{colour} {shape}" for shape in SHAPES for colour in COLOURS)
"""Names of the object classes in label order: "red circle" is 0."""

Size = Literal["small", "large"]
Box = tuple[float, float, float, float]
Points = NDArray[np.floating[Any]]

_RADII: dict[Size, tuple[float, float]] = {"small": (7.0, 11.0), "large": (14.0, 20.0)}  # pixels
_RGB = {
    "red": (214, 40, 40),
    "orange": (245, 140, 30),
    "yellow": (245, 225, 60),
    "green": (50, 170, 65),
    "cyan": (60, 210, 220),
    "blue": (45, 80, 215),
    "purple": (145, 60, 180),
    "white": (242, 242, 242),
}
_SUPERSAMPLING = 2
_COLOUR_JITTER = 18
_TILT_DEGREES = 8.0  # a square tilted by 45 degrees would be a diamond
_MOST_OVERLAP = 0.1  # shared area of two boxes, as a share of the smaller one
_PLACES_TRIED = 24
_NOISE = 9


@dataclass(frozen=True)
class SceneObject:
    """One shape in a picture. `box` is (x0, y0, x1, y1) in pixels and encloses the drawn outline tightly."""

    shape: str
    colour: str
    size: Size
    box: Box

    @cached_property
    def label(self) -> int:
        """Index into LABELS."""
        return SHAPES.index(self.shape) * len(COLOURS) + COLOURS.index(self.colour)

    @property
    def centre(self) -> tuple[float, float]:
        """(x, y) of the middle of the box, pixels."""
        x0, y0, x1, y1 = self.box
        return (x0 + x1) / 2, (y0 + y1) / 2


@dataclass(frozen=True)
class Scene:
    """A picture (RGB, 128 x 128) and its shapes in drawing order."""

    image: Image.Image
    objects: tuple[SceneObject, ...]


def render_scene(rng: np.random.Generator, min_objects: int, max_objects: int) -> Scene:
    """Draw one random picture; its shapes differ in kind or colour, and their boxes hardly overlap.

    Args:
        rng: the only source of randomness, so equal generators give equal pictures.
        min_objects: fewest shapes, at least 1.
        max_objects: most shapes, inclusive; up to 5 find room.

    Raises:
        ValueError: the range of shapes is empty or out of bounds.
    """
    if not 1 <= min_objects <= max_objects <= len(LABELS):
        raise ValueError(f"a picture has 1 to {len(LABELS)} objects, not {min_objects} to {max_objects}")
    canvas = _background(rng)
    draw = ImageDraw.Draw(canvas)
    objects: list[SceneObject] = []
    count = int(rng.integers(min_objects, max_objects + 1))
    for label in rng.choice(len(LABELS), count, replace=False):
        shape, colour = SHAPES[label // len(COLOURS)], COLOURS[label % len(COLOURS)]
        size: Size = "small" if rng.random() < 0.5 else "large"
        outline = _tilted(_OUTLINES[shape], rng) * rng.uniform(*_RADII[size])
        outline += _free_place(outline, [item.box for item in objects], rng)
        paint = np.clip(np.array(_RGB[colour]) + rng.integers(-_COLOUR_JITTER, _COLOUR_JITTER + 1, 3), 0, 255)
        draw.polygon((outline * _SUPERSAMPLING).ravel().tolist(), fill=tuple(paint.tolist()))
        (x0, y0), (x1, y1) = outline.min(axis=0).tolist(), outline.max(axis=0).tolist()
        objects.append(SceneObject(shape, colour, size, (x0, y0, x1, y1)))
    return Scene(_with_noise(canvas.reduce(_SUPERSAMPLING), rng), tuple(objects))


def _background(rng: np.random.Generator) -> Image.Image:
    """A dim gradient between four corners, crossed by 4 to 10 lines and arcs.

    It has the supersampled size.
    """
    side = SIDE * _SUPERSAMPLING
    corners = rng.integers(30, 125, (2, 2, 3), dtype=np.uint8)
    canvas = Image.fromarray(corners).resize((side, side), Image.Resampling.BILINEAR)
    draw = ImageDraw.Draw(canvas)
    for _ in range(int(rng.integers(4, 11))):
        paint = tuple(rng.integers(40, 190, 3).tolist())
        width = int(rng.integers(2, 7))
        ax, ay, bx, by = rng.integers(0, side, 4).tolist()
        if rng.random() < 0.5:
            draw.line((ax, ay, bx, by), fill=paint, width=width)
        else:
            start = float(rng.uniform(0, 360))
            frame = (min(ax, bx), min(ay, by), max(ax, bx) + 1, max(ay, by) + 1)
            draw.arc(frame, start, start + float(rng.uniform(60, 240)), fill=paint, width=width)
    return canvas


def _with_noise(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    pixels = np.asarray(image).astype(np.int16)
    pixels += rng.integers(-_NOISE, _NOISE + 1, pixels.shape, dtype=np.int8)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _tilted(outline: Points, rng: np.random.Generator) -> Points:
    angle = np.deg2rad(rng.uniform(-_TILT_DEGREES, _TILT_DEGREES))
    cos, sin = np.cos(angle), np.sin(angle)
    rotated: Points = outline @ np.array([[cos, sin], [-sin, cos]])
    return rotated


def _free_place(outline: Points, taken: list[Box], rng: np.random.Generator) -> Points:
    """An (x, y) shift that keeps the outline inside the picture: of some random ones, the first that is free enough.

    Where none is, the one that shares the least area with the boxes already taken.
    """
    low, high = outline.min(axis=0), outline.max(axis=0)
    places = rng.uniform(1 - low, SIDE - 1 - high, (_PLACES_TRIED, 2))
    if not taken:
        first: Points = places[0]
        return first
    boxes = np.array(taken)
    top_left = np.maximum((places + low)[:, None], boxes[None, :, :2])
    bottom_right = np.minimum((places + high)[:, None], boxes[None, :, 2:])
    shared = np.clip(bottom_right - top_left, 0, None).prod(axis=2)
    smaller = np.minimum((high - low).prod(), (boxes[:, 2:] - boxes[:, :2]).prod(axis=1))
    overlap = (shared / smaller).max(axis=1)
    free = np.flatnonzero(overlap <= _MOST_OVERLAP)
    place: Points = places[free[0] if free.size else overlap.argmin()]
    return place


def _polar(angles_degrees: Points, radii: Points | float) -> Points:
    angles = np.deg2rad(angles_degrees)
    return np.stack([np.cos(angles) * radii, np.sin(angles) * radii], axis=1)


def _outlines() -> dict[str, Points]:
    """Every shape as a polygon of radius 1 or hardly more, y downwards."""
    turn = np.linspace(-90, 270, 33)
    star_angles = -90.0 + 36.0 * np.arange(10)
    arm = 0.34
    cross = [(-arm, -1), (arm, -1), (arm, -arm), (1, -arm), (1, arm), (arm, arm)]
    cross += [(-x, -y) for x, y in cross]
    t = np.deg2rad(turn)
    heart_x = np.sin(t) ** 3
    heart_y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)) / 16
    return {
        "circle": _polar(turn[:-1], 1.0),
        "square": np.array([(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)]),
        "triangle": _polar(np.array([-90.0, 30.0, 150.0]), 1.0),
        "diamond": np.array([(0.0, -1.0), (0.75, 0.0), (0.0, 1.0), (-0.75, 0.0)]),
        "star": _polar(star_angles, np.where(np.arange(10) % 2 == 0, 1.0, 0.42)),
        "cross": np.array(cross),
        # Round the rim, down to the hole, and back round it. The two edges between rim and hole are upright, where
        # Pillow's row by row filling leaves no seam.
        "ring": np.concatenate([_polar(turn, 1.0), _polar(turn[::-1], 0.55)]),
        "heart": np.stack([heart_x, heart_y], axis=1),
    }


_OUTLINES = _outlines()
