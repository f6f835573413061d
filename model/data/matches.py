"""Which captions match which image, so that no true pair serves as a negative: training would unlearn what is right."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from model.data.order import Index
from model.data.tokenizer import TokenTable

NEGATIVE_TRIES = 16
"""Draws of a negative, at most: where all of them would be true, its place stays empty, and is counted."""


class Matches:
    """Which captions match which image: its own captions, and others with the same tokens as one of these."""

    def __init__(self, image_rows: Index, tokens: TokenTable) -> None:
        """
        Args:
            image_rows: (N,) the image of each caption.
            tokens: the N captions.
        """
        self._tokens = tokens
        self._by_image = np.argsort(image_rows, kind="stable")
        self._sorted_images = image_rows[self._by_image]

    def captions_of(self, image: int) -> Index:
        """Rows of an image's own captions, ascending."""
        first, stop = np.searchsorted(self._sorted_images, [image, image + 1])
        return self._by_image[first:stop]

    def is_true(self, caption: int, image: int) -> bool:
        return self._text(caption) in self._texts_of(image)

    def table(self, images: Sequence[int], captions: Sequence[int]) -> npt.NDArray[np.bool_]:
        """Whether each caption (C,) matches each image (I,): (I, C)."""
        texts = [self._text(caption) for caption in captions]
        true = [self._texts_of(image) for image in images]
        return np.array([[text in own for text in texts] for own in true], np.bool_).reshape(len(true), len(texts))

    def _text(self, caption: int) -> bytes:
        return self._tokens[caption].tobytes()

    def _texts_of(self, image: int) -> set[bytes]:
        return {self._text(row) for row in self.captions_of(image).tolist()}
