"""Text alone in the words of the world's captions: a passage a line, each about one scene that nobody sees."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tasks.storage.root import Root
from tasks.world.captions import clean_caption, noisy_caption
from tasks.world.scenes import render_scene

_SET = 4
"""Separates these random numbers from those of the world's four sets of pictures."""
_OBJECTS = (3, 5)
_SENTENCES = 5
_CLEAN = 0.6


def make_passages(path: Path, seed: int, passages: int = 2000) -> None:
    """Write a file of text, unless it is there; it takes some seconds.

    A passage is five captions of one scene, clean and noisy ones in random order: so text, too, says that a crimson
    disc is a red circle.

    Args:
        path: of the file.
        seed: of the world.
        passages: lines.
    """
    folder = Root(str(path.parent))
    if not folder.exists(path.name):
        lines = [f"{_passage(seed, row)}\n" for row in range(passages)]
        folder.publish_bytes(path.name, "".join(lines).encode())


def _passage(seed: int, row: int) -> str:
    scene = render_scene(np.random.default_rng([seed, _SET, row, 0]), *_OBJECTS)
    rng = np.random.default_rng([seed, _SET, row, 1])
    sentences = [
        clean_caption(scene, rng) if rng.random() < _CLEAN else noisy_caption(scene, rng, other_scene=scene)
        for _ in range(_SENTENCES)
    ]
    return " ".join(sentences)
