"""A small grammar of scene descriptions: clean as an annotator's, or noisy as a web page's alt-text.

Captions are lower-case ASCII words with single spaces, so every word is one token of `vocabulary()`.
"""

from __future__ import annotations

import numpy as np

from tasks.world.scenes import COLOURS, SHAPES, Scene, SceneObject

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

SIZES = ("small", "large")
SYNONYMS = {
    "circle": "disc",
    "square": "box",
    "triangle": "pyramid",
    "diamond": "rhombus",
    "star": "asterisk",
    "cross": "plus",
    "ring": "hoop",
    "heart": "valentine",
    "red": "crimson",
    "orange": "amber",
    "yellow": "golden",
    "green": "emerald",
    "cyan": "turquoise",
    "blue": "navy",
    "purple": "violet",
    "white": "ivory",
    "small": "tiny",
    "large": "big",
}
JOINTS = ("and", "with")
RELATIONS = ("left of", "right of", "above", "below")
JUNK = ("stock", "photo", "image", "vector", "free", "download", "sale", "new")

_CLEAN_OBJECTS = (2, 4)
_CLEAN_COLOUR = 0.9
_CLEAN_SIZE = 0.25
_CLEAN_RELATION = 0.5
_NOISY_OBJECTS = (1, 3)
_NOISY_COLOUR = 0.75
_NOISY_SIZE = 0.15
_NOISY_RELATION = 0.25
_NOISY_SYNONYM = 0.3
_NOISY_WRONG_PICTURE = 0.1
_MOST_JUNK = 2  # words, before and again behind


def clean_caption(scene: Scene, rng: np.random.Generator) -> str:
    """Describe 2 to 4 of the scene's objects, in random order; every stated relation is true.

    A relation holds between the two objects named beside it: "a red circle above a star left of a ring" says that the
    circle is above the star, and the star left of the ring. A scene of one object gets a caption of one object.
    """
    objects = _some(scene, _CLEAN_OBJECTS, rng)
    words: list[str] = []
    for i, item in enumerate(objects):
        if i > 0:
            words += _joint(objects[i - 1], item, _CLEAN_RELATION, rng)
        phrase = _phrase(item, _CLEAN_COLOUR, _CLEAN_SIZE, rng)
        words += ["an" if phrase[0][0] in "aeiou" else "a", *phrase]
    return " ".join(words)


def noisy_caption(scene: Scene, rng: np.random.Generator, other_scene: Scene) -> str:
    """Describe 1 to 3 objects as alt-text does: no articles, odd synonyms, junk words in front and behind.

    One caption in ten is about `other_scene` instead: on the web, captions belong to the wrong picture, too.
    """
    objects = _some(other_scene if rng.random() < _NOISY_WRONG_PICTURE else scene, _NOISY_OBJECTS, rng)
    words: list[str] = []
    for i, item in enumerate(objects):
        if i > 0:
            words += _joint(objects[i - 1], item, _NOISY_RELATION, rng)
        phrase = _phrase(item, _NOISY_COLOUR, _NOISY_SIZE, rng)
        words += [SYNONYMS[word] if rng.random() < _NOISY_SYNONYM else word for word in phrase]
    return " ".join([*_junk(rng), *words, *_junk(rng)])


def vocabulary() -> list[str]:
    """BERT's special tokens, [PAD] first, then every word of the grammar, sorted: lines of a vocab.txt."""
    words = {"a", "an", *SHAPES, *COLOURS, *SIZES, *SYNONYMS.values(), *JOINTS, *JUNK}
    words.update(word for relation in RELATIONS for word in relation.split())
    return [*SPECIAL_TOKENS, *sorted(words)]


def relation(first: SceneObject, second: SceneObject) -> str:
    """The place of `first`, seen from `second`, along the axis of larger distance."""
    (x0, y0), (x1, y1) = first.centre, second.centre
    if abs(x0 - x1) >= abs(y0 - y1):
        return "left of" if x0 < x1 else "right of"
    return "above" if y0 < y1 else "below"


def _some(scene: Scene, bounds: tuple[int, int], rng: np.random.Generator) -> list[SceneObject]:
    """A random number of the scene's objects within the bounds, in random order."""
    few, many = (min(bound, len(scene.objects)) for bound in bounds)
    chosen = rng.permutation(len(scene.objects))[: int(rng.integers(few, many + 1))]
    return [scene.objects[i] for i in chosen]


def _phrase(item: SceneObject, colour: float, size: float, rng: np.random.Generator) -> list[str]:
    """The object's words; `size` and `colour` are the probabilities of being mentioned."""
    words: list[str] = []
    if rng.random() < size:
        words.append(item.size)
    if rng.random() < colour:
        words.append(item.colour)
    return [*words, item.shape]


def _joint(before: SceneObject, after: SceneObject, related: float, rng: np.random.Generator) -> list[str]:
    if rng.random() < related:
        return relation(before, after).split()
    return [JOINTS[int(rng.integers(len(JOINTS)))]]


def _junk(rng: np.random.Generator) -> list[str]:
    count = int(rng.integers(0, _MOST_JUNK + 1))
    return [JUNK[i] for i in rng.choice(len(JUNK), count, replace=False)]
