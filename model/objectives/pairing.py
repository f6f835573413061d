"""Pairs of image and caption for pretraining: right ones, and wrong ones for visual-linguistic matching.

Unicoder-VL section 3.2.3: v1 puts a random image in the place of the caption's own, v3 a random image or caption. It
comes from the sample's window of shards, so that training reads one bounded set of shards at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from model.data.draws import draw_uniforms
from model.data.matches import NEGATIVE_TRIES, Matches
from model.data.order import Index, Order
from model.data.tokenizer import TokenTable
from model.objectives.config import PretrainConfig


@dataclass(frozen=True)
class Pair:
    """An image (row of the feature store), a caption (row of the split), and whether they match.

    `epoch` and `sample` name the turn that the pair is made for: all its random choices derive from them. `opposed` is
    False where the turn has no wrong pair that the right one could be told from: then it teaches no matching.
    """

    epoch: int
    sample: int
    image: int
    caption: int
    matched: bool
    opposed: bool = True


class Pairing:
    """Makes the pairs of a sample, from (seed, epoch, sample) and the split alone.

    A wrong pair is never a true one: a wrong image is another image than the caption's own, a wrong caption belongs to
    another image than the one shown. An image may have several captions, and two images may share a text; a draw
    that would make such a true pair is made again, up to 16 times. Where all draws would, as in a window of captions
    that read alike, the sample's right pair is shown and no match is asked of it, whichever of the two was its turn: so
    right pairs and wrong ones stay equally many, and that a caption occurs often does not give its pair away.
    """

    def __init__(self, order: Order, image_rows: Index, tokens: TokenTable, config: PretrainConfig) -> None:
        """
        Args:
            image_rows: (N,) the image of each caption.
            tokens: the N captions.
        """
        self._order, self._image_rows, self._config = order, image_rows, config
        self._matches = Matches(image_rows, tokens)

    def pairs(self, turns: Sequence[tuple[int, int]], with_wrong: bool = True) -> list[Pair]:
        """The right pair or a wrong one of each (epoch, sample); with matching="paired" both.

        Args:
            with_wrong: False gives right pairs only, for steps that do not learn matching.
        """
        made = []
        draws = draw_uniforms(self._config.seed, "pair", np.array(turns, np.int64), 2 + 2 * NEGATIVE_TRIES)
        for (epoch, sample), (is_wrong, replaces_image, *draws_of_tries) in zip(turns, draws.tolist(), strict=True):
            right = Pair(epoch, sample, int(self._image_rows[sample]), sample, True)
            if self._config.matching == "none" or not with_wrong:
                made.append(right)
                continue
            wrong = self._wrong(right, replaces_image, draws_of_tries)
            if wrong is None:
                made.append(replace(right, opposed=False))
            elif self._config.matching == "paired":
                made += [right, wrong]
            else:
                made.append(wrong if is_wrong < 0.5 else right)
        return made

    def another_image(self, pair: Pair, draw: float) -> int:
        """The image that a draw in [0, 1) picks from the pair's window, other than the one shown."""
        window = self._order.window(pair.epoch, pair.sample)
        number = int(draw * (len(window) - 1))
        return int(window[number + (number >= np.searchsorted(window, pair.image))])

    def _wrong(self, right: Pair, replaces_image: float, draws_of_tries: Sequence[float]) -> Pair | None:
        """The first wrong pair; `draws_of_tries` holds two draws for each try: an image, and which of its captions."""
        for image_draw, caption_draw in zip(draws_of_tries[::2], draws_of_tries[1::2], strict=True):
            other = self.another_image(right, image_draw)
            if self._config.negative == "image" or replaces_image < 0.5:
                wrong = replace(right, image=other, matched=False)
            else:
                captions = self._matches.captions_of(other)
                wrong = replace(right, caption=int(captions[int(caption_draw * len(captions))]), matched=False)
            if not self._matches.is_true(wrong.caption, wrong.image):
                return wrong
        return None
